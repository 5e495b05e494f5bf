"""What can be asked: one file a subject, each command in one place; here they are gathered."""

from stui_sessions.commands import ending, labels, lists, looking, moving, opening, operating, state
from stui_sessions.protocol.records import SessionRecord
from stui_sessions.protocol.registry import Registry

PROTOCOL_VERSION = "1.2.0"
"""The version of the contract.  What a change asks for is in `protocol/lock.py`; a test holds them together."""

REGISTRY = Registry(
    (
        opening.OPEN_SESSION,
        opening.CREATE_SESSION,
        state.RESTORE_SESSION,
        state.UPDATE_SESSION_STATE,
        ending.CLOSE_SESSION,
        looking.GET_SESSION_INFO,
        lists.LIST_CLIENT_SESSIONS,
        operating.GET_SESSION_STATISTICS,
        looking.GET_SESSION,
        looking.VALIDATE_SESSION,
        labels.UPDATE_SESSION,
        labels.UPDATE_SESSION_TITLE,
        state.TOUCH_SESSION,
        labels.EXTEND_SESSION,
        lists.LIST_SESSIONS,
        looking.RESOLVE_SESSION,
        ending.DELETE_SESSION,
        ending.UNDELETE_SESSION,
        moving.EXPORT_SESSIONS,
        moving.IMPORT_SESSIONS,
        operating.BEGIN_BACKUP,
        operating.READ_BACKUP,
        operating.PING,
        operating.DESCRIBE,
    ),
    PROTOCOL_VERSION,
    types=(SessionRecord,),
)
"""All commands, in the order of the reference."""
