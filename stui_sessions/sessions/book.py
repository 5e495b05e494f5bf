"""The book of sessions: what is resident, what has changed, what the totals are.

The one place where a session is replaced by its next form.  Every change is noted
with what was before it, so that a commit that fails can be taken back, and marked
dirty, so that the next snapshot writes it.
"""

from collections.abc import Hashable, Iterable
from typing import Any

from msgspec import Struct

from stui_sessions.sessions.finding import Found, Question, Search
from stui_sessions.sessions.model import Created, Record, Removed, Session, Totals, Updated, Used
from stui_sessions.sessions.overlay import Overlay
from stui_sessions.sessions.residents import Group, GroupKey, Resident, Residents, groups_of, owner_key


class NotResident(Exception):
    """The decision needs what is not in memory: load it, decide again.

    Sessions, groups, and the answer of the store to a search.
    """

    def __init__(
        self,
        sessions: tuple[str, ...] = (),
        groups: tuple[GroupKey, ...] = (),
        search: Question | None = None,
    ) -> None:
        super().__init__(sessions, groups, search)
        self.sessions = sessions
        self.groups = groups
        self.search = search


class Change(Struct, gc=False):
    """A record for the journal, and what to put back if it cannot be written there."""

    record: Record
    resident: Resident
    before: Session | None
    written: int
    changed: int
    gone: tuple[Removed, ...] = ()  # what was still to be deleted
    paid: Hashable = None  # the bucket that a creation was counted in


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
        self.dirty_groups: dict[GroupKey, Group] = {}
        self.overlay = Overlay()
        """The sessions whose last snapshot may be behind."""
        self.answers: dict[Question, Any] = {}
        """What has been answered; each for the decisions that waited for it."""
        self.removed = dict.fromkeys(("expired", "closed", "deleted", "purged", "replaced"), 0)
        """Sessions removed since the start, by the reason."""
        self._recovered: dict[GroupKey, dict[str, bool]] = {}

    # -- looking up

    def resident(self, session_id: str) -> Resident:
        """The place of a session; NotResident if it has to be loaded."""
        resident = self._sessions.get(session_id)
        if resident is None:
            raise NotResident(sessions=(session_id,))
        self._sessions.move_to_end(session_id)
        self.named = resident
        return resident

    def group(self, key: GroupKey) -> Group:
        """The sessions with something in common; NotResident if they have to be loaded."""
        groups = self.residents.groups
        group = groups.get(key)
        if group is None:
            raise NotResident(groups=(key,))
        groups.move_to_end(key)
        return group

    def need_groups(self, *sessions: Session | None) -> None:
        """NotResident unless all groups of these sessions are in memory: a change of theirs moves members."""
        groups = self.residents.groups
        absent = {key: None for s in sessions for key in groups_of(s) if key not in groups}
        if absent:
            raise NotResident(groups=tuple(absent))

    def sessions_of(self, group: Group) -> list[Resident]:
        """The places of all members; NotResident if one has to be loaded."""
        sessions = self.residents.sessions
        absent = tuple(i for i in group.session_ids if i not in sessions)
        if absent:
            raise NotResident(sessions=absent)
        return [sessions[i] for i in group.session_ids]

    def answer(self, search: Search) -> Found:
        """What is stored that matches; NotResident if the store has to be asked."""
        found: Found = self.ask(search)
        return found

    def ask(self, question: Question) -> Any:
        """The answer to a question; NotResident if it has to be asked first."""
        if question not in self.answers:
            raise NotResident(search=question)
        return self.answers[question]

    # -- taking in what was loaded

    def add_loaded(self, session_id: str, session: Session | None, damaged: bool) -> None:
        """Make a session resident as it is stored (unless it got there meanwhile)."""
        if session_id not in self.residents.sessions:
            self.residents.add_session(Resident(session_id, session, damaged))

    def add_loaded_group(self, key: GroupKey, session_ids: Iterable[str]) -> None:
        """Make a group resident; what a replayed journal says of it goes first."""
        if key in self.residents.groups:
            return
        group = Group(session_ids)
        for session_id, live in self._recovered.pop(key, {}).items():
            if live:
                group.session_ids[session_id] = None
            else:
                group.session_ids.pop(session_id, None)
            self._mark_group(key, group, self.batch - 1)
        self.residents.add_group(key, group)

    def adopt(self, pending: Iterable[Session | Removed]) -> None:
        """Take over the sessions that a replay found changed since their last snapshot.

        Membership in a group changes only while the group is resident, so what the
        replay says holds until the group is first loaded.  It cannot say which external
        id a session had before: members of such a group are looked at again when they count.
        """
        for form in pending:
            resident = self.residents.sessions.get(form.session_id)
            if resident is None:
                resident = Resident(form.session_id, None)
                self.residents.add_session(resident)
            resident.changed = self.batch - 1
            self._mark(resident)
            owner = owner_key(form.user_id, form.client_id)
            if owner is not None:
                self._recovered.setdefault(owner, {}).setdefault(form.session_id, False)
            if isinstance(form, Removed):
                resident.gone += (form,)
            else:
                self._adopt_session(resident, form)

    def _adopt_session(self, resident: Resident, session: Session) -> None:
        self.residents.bytes -= resident.cost
        resident.session = session
        resident.size = session.state_bytes
        resident.recorded_at = session.active_at
        self.residents.bytes += resident.cost
        for key in groups_of(session):
            self._recovered.setdefault(key, {})[session.session_id] = True

    # -- changing

    def create(self, session: Session, paid: Hashable = None) -> None:
        """A new session; its groups are resident.  `paid`: what to give back if it cannot be committed."""
        resident = self.residents.sessions.get(session.session_id)
        if resident is None:
            resident = Resident(session.session_id, None)
            self.residents.add_session(resident)
        self.named = resident
        self._note(Created(session), resident, paid)
        self._replace(resident, session)
        resident.recorded_at = session.active_at

    def update(self, resident: Resident, record: Updated, after: Session, growth: int) -> None:
        """State changed by `growth` bytes.  The hot path: no totals, no client."""
        self.changes.append(
            Change(record, resident, resident.session, resident.written, resident.changed, resident.gone)
        )
        self.newest = resident.written = resident.changed = self.batch
        if not resident.dirty:
            self._mark(resident)
        resident.session = after
        resident.recorded_at = record.at
        if growth:
            resident.size += growth
            self.residents.bytes += growth

    def change(self, resident: Resident, record: Record, after: Session) -> None:
        """The session ended, or what is said of it changed; its groups, before and after, are resident."""
        self._note(record, resident)
        self._replace(resident, after)

    def remove(self, resident: Resident, reason: str) -> None:
        """The session is no longer known; its groups are resident."""
        s = resident.session
        assert s is not None
        record = Removed(s.number, s.session_id, s.client_id, s.user_id, reason)
        self.removed[reason] += 1
        self._note(record, resident)
        resident.gone += (record,)
        self._replace(resident, None)

    def use(self, resident: Resident, after: Session, record: bool) -> None:
        """Activity alone: soft, so no reply waits for it; `record` writes it to the journal."""
        before, written = resident.session, resident.written
        resident.session = after
        if not resident.dirty:  # else it is there already
            self.overlay.add(resident)
        if record:
            self.changes.append(
                Change(Used(after.number, after.active_at), resident, before, written, resident.changed, resident.gone)
            )
            resident.changed = self.batch
            resident.recorded_at = after.active_at
            self._mark(resident)
        elif after.active_at == resident.recorded_at and not resident.dirty:
            self.overlay.settle(resident)  # as it is stored

    def undo(self, changes: list[Change]) -> None:
        """Take back changes that could not be committed, the newest first."""
        for change in reversed(changes):
            resident = change.resident
            resident.recorded_at = 0  # recorded again at the next use
            resident.written, resident.changed = change.written, change.changed
            if isinstance(change.record, Used):
                continue
            if isinstance(change.record, Removed):
                self.removed[change.record.reason] -= 1
            self._replace(resident, change.before)
            resident.gone = change.gone
            if not resident.forms and resident.dirty:  # it never was: no snapshot would ever clear it
                resident.dirty = False
                del self.dirty[resident.session_id]
                self.overlay.settle(resident)

    def take_changes(self) -> list[Change]:
        """The changes for the next commit; those made from now on go into the one after."""
        changes, self.changes = self.changes, []
        self.batch += 1
        return changes

    def copy_totals(self) -> Totals:
        """The totals as they are now, for the commit of the changes so far."""
        t = self.totals
        return Totals(t.live, t.clients, t.last_number, t.expired, t.closed, t.deleted)

    # -- snapshots

    def uncommitted(self) -> dict[str, tuple[Session | Removed, ...]]:
        """For each session with changes that are not committed: its forms before them.

        Only called between commits, so the changes are those of the next one.
        """
        before: dict[str, tuple[Session | Removed, ...]] = {}
        for change in self.changes:
            if change.resident.session_id not in before:
                session = () if change.before is None else (change.before,)
                before[change.resident.session_id] = (*change.gone, *session)
        return before

    def mark_unrecorded(self, residents: Iterable[Resident]) -> None:
        """Have the next snapshot write sessions whose activity is not recorded."""
        for resident in residents:
            if resident.forms:  # a damaged one has none: it would stay dirty for ever
                self._mark(resident)

    def snapshotted(self, resident: Resident, forms: Iterable[Session | Removed], sequence: int) -> None:
        """`forms`, as of commit `sequence`, are in a snapshot."""
        for form in forms:
            if isinstance(form, Session):
                resident.recorded_at = form.active_at  # a later one is in the journal, and it stays dirty
            else:
                resident.gone = tuple(gone for gone in resident.gone if gone.number != form.number)
        if resident.changed <= sequence and resident.dirty:
            resident.dirty = False
            del self.dirty[resident.session_id]
            if not resident.is_unrecorded:
                self.overlay.settle(resident)

    def groups_snapshotted(self, sequence: int) -> None:
        """All changes up to commit `sequence` are in snapshots."""
        for key, group in list(self.dirty_groups.items()):
            if group.changed <= sequence:
                group.dirty = False
                del self.dirty_groups[key]

    # -- the inside

    def _note(self, record: Record, resident: Resident, paid: Hashable = None) -> None:
        self.changes.append(
            Change(record, resident, resident.session, resident.written, resident.changed, resident.gone, paid)
        )
        self.newest = resident.written = resident.changed = self.batch
        if not resident.dirty:
            self._mark(resident)

    def _mark(self, resident: Resident) -> None:
        resident.dirty = True
        self.dirty[resident.session_id] = resident
        self.overlay.add(resident)

    def _mark_group(self, key: GroupKey, group: Group, sequence: int) -> None:
        group.dirty = True
        group.changed = sequence
        self.dirty_groups[key] = group

    def _replace(self, resident: Resident, after: Session | None) -> None:
        """Put `after` in its place, and keep totals, groups and memory in step with it."""
        before = resident.session
        cost = resident.cost
        resident.session = after
        resident.keys = None
        resident.size = after.state_bytes if after is not None else 0
        self.residents.bytes += resident.cost - cost
        self.totals.move(None if before is None else before.status, None if after is None else after.status)
        old, new = groups_of(before), groups_of(after)
        for key in old:
            if key not in new:
                self._set_member(key, resident.session_id, False)
        for key in new:
            if key not in old:
                self._set_member(key, resident.session_id, True)

    def _set_member(self, key: GroupKey, session_id: str, member: bool) -> None:
        group = self.residents.groups[key]
        had = bool(group.session_ids)
        cost = group.cost
        if member:
            group.session_ids[session_id] = None
        else:
            group.session_ids.pop(session_id, None)
        self.residents.bytes += group.cost - cost
        if key.kind == "owner" and key.name:  # a client; the group of a user without one is none
            self.totals.clients += bool(group.session_ids) - had
        self._mark_group(key, group, self.batch)
