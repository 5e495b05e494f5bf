"""The book of sessions: what is resident, what has changed, what the totals are.

The one place where a session is replaced by its next form.  Every change is noted
with what was before it, so that a commit that fails can be taken back, and marked
dirty, so that the next snapshot writes it.
"""

from collections.abc import Iterable

from msgspec import Struct

from stui_sessions.sessions.model import LIVE, Created, Record, Removed, Session, Totals, Updated, Used
from stui_sessions.sessions.residents import ClientEntry, Resident, Residents


class NotResident(Exception):
    """The decision needs sessions or client entries that are not in memory: load them, decide again."""

    def __init__(self, sessions: tuple[str, ...] = (), clients: tuple[str, ...] = ()) -> None:
        super().__init__(sessions, clients)
        self.sessions = sessions
        self.clients = clients


class Change(Struct, gc=False):
    """A record for the journal, and what to put back if it cannot be written there."""

    record: Record
    resident: Resident
    before: Session | None
    written: int
    changed: int


class SessionBook:
    """Residents, changes since the last commit, totals."""

    def __init__(self, totals: Totals, sequence: int = 0) -> None:
        self.residents = Residents()
        self._sessions = self.residents.sessions
        self.totals = totals
        self.batch = sequence + 1
        """The number of the commit that will hold the changes made now."""
        self.newest = sequence
        """The commit that covers everything decided so far; activity alone does not count."""
        self.named: Resident | None = None
        """The session that was looked up last."""
        self.changes: list[Change] = []
        """Changes of that commit."""
        self.dirty: dict[str, Resident] = {}
        self.dirty_clients: dict[str, ClientEntry] = {}
        self._recovered: dict[str, dict[str, bool]] = {}

    # -- looking up

    def resident(self, session_id: str) -> Resident:
        """The place of a session; NotResident if it has to be loaded."""
        resident = self._sessions.get(session_id)
        if resident is None:
            raise NotResident(sessions=(session_id,))
        self._sessions.move_to_end(session_id)
        self.named = resident
        return resident

    def client(self, client_id: str) -> ClientEntry:
        """A client's entry; NotResident if it has to be loaded."""
        entry = self.residents.clients.get(client_id)
        if entry is None:
            raise NotResident(clients=(client_id,))
        self.residents.clients.move_to_end(client_id)
        return entry

    def sessions_of(self, entry: ClientEntry) -> list[Resident]:
        """The places of all of a client's sessions; NotResident if one has to be loaded."""
        sessions = self.residents.sessions
        absent = tuple(i for i in entry.session_ids if i not in sessions)
        if absent:
            raise NotResident(sessions=absent)
        return [sessions[i] for i in entry.session_ids]

    # -- taking in what was loaded

    def add_loaded(self, session_id: str, session: Session | None, damaged: bool) -> None:
        """Make a session resident as it is stored (unless it got there meanwhile)."""
        if session_id not in self.residents.sessions:
            self.residents.add_session(Resident(session_id, session, damaged))

    def add_loaded_client(self, client_id: str, session_ids: Iterable[str]) -> None:
        """Make a client's entry resident; what a replayed journal says of it goes first."""
        if client_id in self.residents.clients:
            return
        entry = ClientEntry(session_ids)
        for session_id, live in self._recovered.pop(client_id, {}).items():
            if live:
                entry.session_ids[session_id] = None
            else:
                entry.session_ids.pop(session_id, None)
            self._mark_client(client_id, entry, self.batch - 1)
        self.residents.add_client(client_id, entry)

    def adopt(self, pending: Iterable[Session | Removed]) -> None:
        """Take over the sessions that a replay found changed since their last snapshot.

        Membership in a client's entry changes only while the entry is resident,
        so what the replay says holds until the entry is first loaded.
        """
        for form in pending:
            session = None if isinstance(form, Removed) else form
            resident = Resident(form.session_id, session)
            resident.gone = form if isinstance(form, Removed) else None
            resident.changed = self.batch - 1
            self._mark(resident)
            self.residents.add_session(resident)
            live = session is not None and session.status == LIVE
            self._recovered.setdefault(form.client_id, {})[form.session_id] = live

    # -- changing

    def create(self, session: Session, entry: ClientEntry) -> None:
        resident = self.residents.sessions.get(session.session_id)
        if resident is None:
            resident = Resident(session.session_id, None)
            self.residents.add_session(resident)
        self._note(Created(session), resident)
        self._replace(resident, session, entry)
        resident.recorded_at = session.active_at

    def update(self, resident: Resident, record: Updated, after: Session, growth: int) -> None:
        """State changed by `growth` bytes.  The hot path: no totals, no client."""
        self.changes.append(Change(record, resident, resident.session, resident.written, resident.changed))
        self.newest = resident.written = resident.changed = self.batch
        if not resident.dirty:
            self._mark(resident)
        resident.session = after
        resident.recorded_at = record.at
        if growth:
            resident.size += growth
            self.residents.bytes += growth

    def end(self, resident: Resident, record: Record, after: Session, entry: ClientEntry) -> None:
        """The session expired or was closed."""
        self._note(record, resident)
        self._replace(resident, after, entry)

    def remove(self, resident: Resident, entry: ClientEntry) -> None:
        """The session is no longer known."""
        session = resident.session
        assert session is not None
        record = Removed(session.number, session.session_id, session.client_id)
        self._note(record, resident)
        resident.gone = record
        self._replace(resident, None, entry)

    def use(self, resident: Resident, after: Session, record: bool) -> None:
        """Activity alone: soft, so no reply waits for it; `record` writes it to the journal."""
        before, written = resident.session, resident.written
        resident.session = after
        if record:
            self.changes.append(
                Change(Used(after.number, after.active_at), resident, before, written, resident.changed)
            )
            resident.changed = self.batch
            resident.recorded_at = after.active_at
            self._mark(resident)

    def undo(self, changes: list[Change]) -> None:
        """Take back changes that could not be committed, the newest first."""
        for change in reversed(changes):
            resident = change.resident
            resident.recorded_at = 0  # recorded again at the next use
            resident.written, resident.changed = change.written, change.changed
            if isinstance(change.record, Used):
                continue
            entry = self.residents.clients.get(_client_of(change))
            self._replace(resident, change.before, entry)
            if change.before is not None:
                resident.gone = None
            if resident.form is None and resident.dirty:  # it never was: no snapshot would ever clear it
                resident.dirty = False
                del self.dirty[resident.session_id]

    def take_changes(self) -> list[Change]:
        """The changes for the next commit; those made from now on go into the one after."""
        changes, self.changes = self.changes, []
        self.batch += 1
        return changes

    def copy_totals(self) -> Totals:
        """The totals as they are now, for the commit of the changes so far."""
        t = self.totals
        return Totals(t.live, t.clients, t.last_number)

    # -- snapshots

    def uncommitted(self) -> dict[str, Session | Removed | None]:
        """For each session with changes that are not committed: its form before them.

        Only called between commits, so the changes are those of the next one.
        """
        before: dict[str, Session | Removed | None] = {}
        for change in self.changes:
            before.setdefault(change.resident.session_id, change.before)
        return before

    def mark_unrecorded(self, residents: Iterable[Resident]) -> None:
        """Have the next snapshot write sessions whose activity is not recorded."""
        for resident in residents:
            if resident.form is not None:  # a damaged one has none: it would stay dirty for ever
                self._mark(resident)

    def snapshotted(self, resident: Resident, form: Session | Removed, sequence: int) -> None:
        """`form`, as of commit `sequence`, is in a snapshot."""
        if isinstance(form, Session):
            resident.recorded_at = max(resident.recorded_at, form.active_at)
        if resident.changed <= sequence and resident.dirty:
            resident.dirty = False
            del self.dirty[resident.session_id]

    def clients_snapshotted(self, sequence: int) -> None:
        """All changes up to commit `sequence` are in snapshots."""
        for client_id, entry in list(self.dirty_clients.items()):
            if entry.changed <= sequence:
                entry.dirty = False
                del self.dirty_clients[client_id]

    # -- the inside

    def _note(self, record: Record, resident: Resident) -> None:
        self.changes.append(Change(record, resident, resident.session, resident.written, resident.changed))
        self.newest = resident.written = resident.changed = self.batch
        if not resident.dirty:
            self._mark(resident)

    def _mark(self, resident: Resident) -> None:
        resident.dirty = True
        self.dirty[resident.session_id] = resident

    def _mark_client(self, client_id: str, entry: ClientEntry, sequence: int) -> None:
        entry.dirty = True
        entry.changed = sequence
        self.dirty_clients[client_id] = entry

    def _replace(self, resident: Resident, after: Session | None, entry: ClientEntry | None) -> None:
        """Put `after` in its place, and keep totals, client entry and memory in step with it."""
        before = resident.session
        cost = resident.cost
        resident.session = after
        resident.keys = None
        resident.size = after.state_bytes if after is not None else 0
        self.residents.bytes += resident.cost - cost
        was_live = before is not None and before.status == LIVE
        is_live = after is not None and after.status == LIVE
        if was_live == is_live:
            return
        session = before or after
        assert session is not None
        assert entry is not None
        self._set_member(session, entry, is_live)

    def _set_member(self, session: Session, entry: ClientEntry, live: bool) -> None:
        had = bool(entry.session_ids)
        cost = entry.cost
        if live:
            entry.session_ids[session.session_id] = None
        else:
            entry.session_ids.pop(session.session_id, None)
        self.residents.bytes += entry.cost - cost
        self.totals.live += 1 if live else -1
        self.totals.clients += bool(entry.session_ids) - had
        self._mark_client(session.client_id, entry, self.batch)


def _client_of(change: Change) -> str:
    session = change.before or change.resident.session
    return session.client_id if session is not None else ""
