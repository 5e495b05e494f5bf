"""Decisions about moving sessions from one server to another: export and import.

Import is for whoever runs the server: limits of owners and rates do not hold for it.
"""

from msgspec import Raw, Struct, structs

from stui_sessions.errors import Refusal
from stui_sessions.protocol.fields import MAX_SESSION_ID
from stui_sessions.protocol.parameters import ExportParams, ImportParams, NoParams, ReadBackupParams
from stui_sessions.protocol.records import ExportRow, SessionRecord, record_of, row_of
from stui_sessions.protocol.results import (
    BeginBackupResult,
    ExportResult,
    ImportFailure,
    ImportRename,
    ImportResult,
    ReadBackupResult,
)
from stui_sessions.sessions.book import NotResident
from stui_sessions.sessions.caller import Caller
from stui_sessions.sessions.ending import Ending
from stui_sessions.sessions.finding import BackupPart
from stui_sessions.sessions.lifecycle import STATUS_NAMES
from stui_sessions.sessions.listing import Lists, encode_cursor, listing_of
from stui_sessions.sessions.model import LIVE, About, Session
from stui_sessions.sessions.residents import GroupKey, groups_of
from stui_sessions.sessions.saying import check_metadata
from stui_sessions.sessions.timing import Moment

PAGE_BYTES = 1024 * 1024
"""Rows in one page of an export; a single one may be larger."""


class Taken(Struct):
    """A row that can be imported."""

    row: int
    session: Session  # its number is given when it is made
    keys: list[GroupKey]


class Transfer(Ending, Lists):
    """`export_sessions` and `import_sessions`."""

    _read: tuple[ImportParams, list[Taken], list[ImportFailure]] | None = None
    """The rows that were looked at last: they are decided on again when what they need has been loaded."""

    def export_sessions(self, caller: Caller, p: ExportParams, now: Moment) -> ExportResult:
        listing = listing_of(p, p.limit, with_state=True)
        found, end = self._page(listing, p.limit, now)
        size = 0
        rows: list[ExportRow] = []
        last = end
        for position, s, _ in found:
            row = row_of(_record(s))
            size += len(bytes(row.session))
            if rows and size > PAGE_BYTES:  # a peer whose replies get too large would be cut off
                end = last
                break
            rows.append(row)
            last = position
        return ExportResult(rows, None if end is None else encode_cursor(listing, end))

    def import_sessions(self, caller: Caller, p: ImportParams, now: Moment) -> ImportResult:
        if self._read is None or self._read[0] is not p:
            self._read = (p, *self._readable(p.sessions))
        _, taken, errors = self._read
        self._need_all(taken, now)
        self._read = None
        result = ImportResult(0, 0, 0, [], errors)
        for t in taken:
            try:
                self._import(t, p.on_conflict, result, now)
            except Refusal as refusal:
                result.errors.append(ImportFailure(t.row, refusal.text, refusal.code))
        result.errors.sort(key=lambda failure: failure.row)
        return result

    def begin_backup(self, caller: Caller, p: NoParams, now: Moment) -> BeginBackupResult:
        return BeginBackupResult(self.begin_copy())

    def read_backup(self, caller: Caller, p: ReadBackupParams, now: Moment) -> ReadBackupResult:
        answer: ReadBackupResult | Refusal = self.book.ask(BackupPart(p.backup_id, p.offset))
        if isinstance(answer, Refusal):
            raise answer
        return answer

    def _readable(self, rows: list[ExportRow]) -> tuple[list[Taken], list[ImportFailure]]:
        """The rows that hold a session, and what is wrong with the others."""
        taken: list[Taken] = []
        errors: list[ImportFailure] = []
        for number, row in enumerate(rows):
            try:
                session = self._session(record_of(row))
                taken.append(Taken(number, session, groups_of(session)))
            except Refusal as refusal:
                errors.append(ImportFailure(number, refusal.text, refusal.code))
        return taken, errors

    def _session(self, r: SessionRecord) -> Session:
        """The session of a record; raises Refusal for what no session of this server can be."""
        metadata = bytes(r.metadata)
        check_metadata(metadata)
        _check_record(r)
        s = Session(
            0,
            r.session_id,
            r.client_id or "",
            r.created_at_ms,
            r.modified_at_ms,
            r.active_at_ms,
            r.timeout,
            r.revision,
            STATUS_NAMES.index(r.status),
            r.ended_at_ms or 0,
            bytes(r.session_state),
            bytes(r.workspace_context),
            bytes(r.inspector_state),
            bytes(r.object_registry),
            About(
                r.user_id or "",
                r.external_id or "",
                r.title or "",
                tuple(r.tags),
                metadata,
                r.ends_at_ms or 0,
                r.pinned,
            ),
        )
        self._check_size(s.state_bytes)
        return s

    def _need_all(self, taken: list[Taken], now: Moment) -> None:
        """Everything that the rows are about has to be in memory before the first of them is taken."""
        residents = self.book.residents
        sessions: dict[str, None] = {}
        keys: dict[GroupKey, None] = {}
        for t in taken:
            there = residents.sessions.get(t.session.session_id)
            if there is None:
                sessions[t.session.session_id] = None
            elif there.session is not None:
                keys.update(dict.fromkeys(groups_of(there.session)))
            keys.update(dict.fromkeys(t.keys))
        groups = [key for key in keys if key not in residents.groups]
        if sessions or groups:
            raise NotResident(tuple(sessions), tuple(groups))
        for key in keys:  # who holds the external ids that they bring, and who held them
            if key.kind == "external":
                self._overdue(key, now)

    def _import(self, t: Taken, on_conflict: str, result: ImportResult, now: Moment) -> None:
        session_id = t.session.session_id
        resident = self.book.resident(session_id)
        is_taken = resident.session is not None or resident.damaged
        if is_taken and on_conflict == "skip":
            result.skipped += 1
            return
        if is_taken and (on_conflict == "error" or resident.damaged):
            raise Refusal("session_id_conflict", "Session ID already exists")
        besides = {session_id} if on_conflict == "replace" else set()
        if t.session.status == LIVE:
            overdue = self._check_external_id(t.session.user_id, t.session.about.external_id, now, besides)
            self._note_expiry(r for r in overdue if r is not resident)
        totals = self.book.totals
        totals.last_number += 1
        if is_taken and on_conflict == "new":
            session_id = self._new_id(totals.last_number, now.wall // 1000, "counter")
            result.renamed.append(ImportRename(t.row, session_id))
        if is_taken and on_conflict == "replace":
            self.book.remove(resident, "replaced")
            result.replaced += 1
        else:
            result.created += 1
        self.book.create(structs.replace(t.session, number=totals.last_number, session_id=session_id))


def _check_record(r: SessionRecord) -> None:
    """Refuse what no export can have said, though each field for itself could be."""
    wrong = ""
    if len(r.session_id.encode()) > MAX_SESSION_ID:
        wrong = f"its id is longer than {MAX_SESSION_ID} bytes"
    elif (r.status == "live") != (r.ended_at_ms is None):
        wrong = "a live one has no end, and each other one has"
    elif r.ends_at_ms is not None and r.ends_at_ms <= r.created_at_ms:
        wrong = "its absolute end is not after its creation"
    elif len(set(r.tags)) < len(r.tags):
        wrong = "a tag is there twice"
    if wrong:
        raise Refusal("invalid_record", f"the row holds no session: {wrong}")


def _record(s: Session) -> SessionRecord:
    about = s.about
    return SessionRecord(
        s.session_id,
        s.client_id or None,
        about.user_id or None,
        about.external_id or None,
        about.title or None,
        list(about.tags),
        Raw(about.metadata),
        STATUS_NAMES[s.status],  # type: ignore[arg-type]
        about.pinned,
        s.revision,
        s.timeout,
        s.created_at,
        s.modified_at,
        s.active_at,
        s.ended_at or None,
        about.ends_at or None,
        Raw(s.session_state),
        Raw(s.workspace_context),
        Raw(s.inspector_state),
        Raw(s.object_registry),
    )
