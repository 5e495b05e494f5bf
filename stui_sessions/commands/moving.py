"""Moving sessions from one server to another: export and import.

For whoever runs the server: limits of owners and rates do not hold for an import.
"""

from functools import cached_property
from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from stui_sessions.commands.lists import CursorText, SelectParams, encode_cursor, listing_of
from stui_sessions.commands.shared import WRITING_ERRORS
from stui_sessions.commands.views import as_record, data_of_record, view
from stui_sessions.domain.admission import check_size
from stui_sessions.domain.draft import Draft
from stui_sessions.domain.entities import SessionData, size_of_state
from stui_sessions.domain.labels import check_metadata, is_clean
from stui_sessions.domain.moving import Needs, ask_for_import, import_one
from stui_sessions.domain.times import slack_ms
from stui_sessions.errors import Refusal
from stui_sessions.protocol.fields import LAST_MS, MAX_SESSION_ID, SessionId, says
from stui_sessions.protocol.records import ExportRow, SessionRecord, record_of, row_of
from stui_sessions.protocol.registry import Command

PAGE_BYTES = 1024 * 1024
"""Rows in one page of an export; a single one may be larger."""

MAX_ROWS = 1000


# -- export_sessions


class ExportParams(SelectParams, forbid_unknown_fields=True, gc=False, kw_only=True):
    limit: Annotated[int, Meta(ge=1, le=MAX_ROWS, description="How many rows at most.")] = 100
    cursor: CursorText | UnsetType = UNSET


class ExportResult(Struct):
    sessions: Annotated[
        list[ExportRow],
        Meta(description="The sessions of this page, the oldest first; each line of an export file is one of them."),
    ]
    next_cursor: Annotated[
        str | None,
        Meta(description="The `cursor` of the next page; `null` at the end. A page is cut short where it gets large."),
    ]


def export_sessions(draft: Draft, p: ExportParams) -> ExportResult:
    listing = listing_of(draft, p, p.cursor, p.limit, with_state=True)
    found = draft.find(listing)
    size, next_page = 0, found.next
    rows: list[ExportRow] = []
    for i, s in enumerate(found.sessions):
        row = row_of(as_record(view(draft, s)))
        size += len(row.session)
        if rows and size > PAGE_BYTES:  # a peer whose replies get too large would be cut off
            next_page = listing.position(found.sessions[i - 1])
            break
        rows.append(row)
    return ExportResult(rows, None if next_page is None else encode_cursor(listing, next_page))


EXPORT_SESSIONS = Command(
    "export_sessions",
    "Gives sessions as a whole, page by page, in the order of their creation: what a line of an export file is.",
    ExportParams,
    ExportResult,
    export_sessions,
    access="read",
    weigh=lambda result: sum(len(row.session) for row in result.sessions),
)


# -- import_sessions


class ImportFailure(Struct, gc=False):
    """A row that was not taken."""

    row: Annotated[int, Meta(ge=0, description="Which one, counted from 0.")]
    error: Annotated[str, Meta(description="What was wrong, for people.")]
    error_code: Annotated[str, Meta(description="The stable name, for programs.")]


class ImportRename(Struct, gc=False):
    """A row whose id was taken, with `on_conflict` = `new`."""

    row: Annotated[int, Meta(ge=0, description="Which one, counted from 0.")]
    session_id: SessionId


class ImportResult(Struct):
    created: Annotated[int, Meta(ge=0, description="Sessions made, the renamed ones included.")]
    replaced: Annotated[int, Meta(ge=0, description="Sessions that took the place of one with the same id.")]
    skipped: Annotated[int, Meta(ge=0, description="Rows left out because their id is taken.")]
    renamed: Annotated[list[ImportRename], Meta(description="Rows that were given another id.")]
    errors: Annotated[list[ImportFailure], Meta(description="Rows that were not taken; the others were.")]


class ImportParams(Struct, forbid_unknown_fields=True, dict=True):
    sessions: Annotated[
        list[ExportRow],
        Meta(
            max_length=MAX_ROWS,
            description="Rows as `export_sessions` gave them, up to 1000.",
            extra=says("an array of up to 1000 rows as export_sessions gives them"),
        ),
    ]
    on_conflict: Annotated[
        Literal["error", "skip", "replace", "new"],
        Meta(
            description="What happens to a row whose id is taken. `error`: it is among the errors. `skip`: nothing. "
            "`replace`: it takes the place of the session that is there. `new`: it gets another id."
        ),
    ] = "error"

    # What follows is made once, however often the request is decided.

    @cached_property
    def texts(self) -> list[bytes]:
        """The text of the session of each row."""
        return [bytes(row.session) for row in self.sessions]

    @cached_property
    def read(self) -> list[SessionData | Refusal]:
        """The session of each row, or what is wrong with it."""
        return [_read(row.checksum, text) for row, text in zip(self.sessions, self.texts, strict=True)]

    @cached_property
    def needs(self) -> Needs:
        """What the sessions need."""
        return Needs([row for row in self.read if isinstance(row, SessionData)])


def import_sessions(draft: Draft, p: ImportParams) -> ImportResult:
    ask_for_import(draft, p.needs)
    limit = draft.world.rules.max_state_bytes
    counts = dict.fromkeys(("created", "replaced", "skipped", "renamed"), 0)
    renamed: list[ImportRename] = []
    errors: list[ImportFailure] = []
    for number, row in enumerate(p.read):
        try:
            if isinstance(row, Refusal):
                raise row
            if (size := _size_of(row)) > limit:
                check_size(draft, size)
            outcome, session_id = import_one(draft, row, p.on_conflict)
        except Refusal as refusal:
            errors.append(ImportFailure(number, refusal.text, refusal.code))
            continue
        counts[outcome] += 1
        if outcome == "renamed":
            renamed.append(ImportRename(number, session_id))
    created = counts["created"] + counts["renamed"]
    return ImportResult(created, counts["replaced"], counts["skipped"], renamed, errors)


def _size_of(row: SessionData) -> int:
    return size_of_state(row.session_state, row.workspace_context, row.inspector_state, row.object_registry)


def _read(checksum: str, text: bytes) -> SessionData | Refusal:
    """The session of a row, or why no session of this server can be like that."""
    try:
        record = record_of(checksum, text)
        check_metadata(bytes(record.metadata))
    except Refusal as refusal:
        return refusal
    wrong = _wrong_in(record)
    if wrong:
        return Refusal("invalid_record", f"the row holds no session: {wrong}")
    return data_of_record(record)


def _wrong_in(r: SessionRecord) -> str:
    """What no export can have said, though each field for itself could be; empty if all is well."""
    last_use = max(r.created_at_ms, r.modified_at_ms, r.active_at_ms)
    if len(r.session_id.encode()) > MAX_SESSION_ID:
        return f"its id is longer than {MAX_SESSION_ID} bytes"
    if r.title is not None and not is_clean(r.title):
        return "its title is blank, or holds characters that cannot be seen"
    if r.ended_at_ms == 0 or (r.status == "live") != (r.ended_at_ms is None):
        return "a live one has no end, and each other one has"
    if r.ends_at_ms is not None and r.ends_at_ms <= r.created_at_ms:
        return "its absolute end is not after its creation"
    if last_use + r.timeout * 1000 + slack_ms(r.timeout) > LAST_MS:
        return "it would expire after the year 9999"
    if len(set(r.tags)) < len(r.tags):
        return "a tag is there twice"
    return ""


IMPORT_SESSIONS = Command(
    "import_sessions",
    "Takes sessions as `export_sessions` gave them. Neither the limits of clients and users hold for it nor the "
    "rate of creation. A row that cannot be taken is told, and does not stop the others.",
    ImportParams,
    ImportResult,
    import_sessions,
    access="write",
    errors="checksum_mismatch invalid_record session_id_conflict external_id_conflict state_too_large "
    f"metadata_too_large {WRITING_ERRORS} session_damaged",
    by_position=("sessions",),
    levels=3,
    inner_texts=lambda p: p.texts,
)
