"""One peer's requests and replies, in order.

Requests of one connection are decided in the order in which they came, and their
replies leave in that order; only loads run ahead.  Knows nothing of sockets, so
that every transport can hold a dialogue.
"""

from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import islice
from typing import cast

from msgspec import UNSET

from stui_sessions.errors import Refusal
from stui_sessions.protocol.framing import Overflow
from stui_sessions.protocol.messages import (
    NULL_ID,
    Malformed,
    Reply,
    Request,
    Success,
    decode_request,
    encode_lines,
    is_request,
)
from stui_sessions.server.engine import Decided, Engine
from stui_sessions.sessions.book import NotResident
from stui_sessions.sessions.caller import Caller
from stui_sessions.sessions.residents import Residents, owner_key
from stui_sessions.sessions.timing import Moment

TURN = 64
"""Requests decided for one peer before the others get their turn."""

LOOK_AHEAD = 32
"""Requests behind one that waits for a load, whose own loads are started."""

HELD_LIMIT = 256 * 1024
"""Bytes of requests and replies, about, that wait to be sent, at which no more are decided for a peer."""

Item = bytes | Overflow | Request | Reply | Malformed


class Dialogue:
    """What was asked and not answered yet.

    `send(data)` takes encoded replies; `paused` says that the peer is not reading
    them; `later(callback)` runs something in the next turn of the loop; `drained`
    is called when a backlog has been worked off.
    """

    __slots__ = (
        "_awaiting",
        "_blocked",
        "_caller",
        "_drained",
        "_engine",
        "_held",
        "_later",
        "_ready",
        "_send",
        "_waiting",
        "backlog",
        "paused",
    )

    def __init__(
        self,
        engine: Engine,
        caller: Caller,
        send: Callable[[bytes], None],
        later: Callable[[Callable[[], None]], object],
        drained: Callable[[], None],
    ) -> None:
        self._engine = engine
        self._caller = caller
        self._send = send
        self._later = later
        self._drained = drained
        self.backlog: deque[Item] | None = None
        """What is undecided; None if that is nothing."""
        self._ready: list[Reply] = []
        self._waiting: list[Decided] = []
        self._held = 0
        self._blocked = False
        """A load is under way, or the next turn is: someone will call `resume`."""
        self._awaiting: Item | None = None
        """The request that the load is for."""
        self.paused = False

    @property
    def busy(self) -> bool:
        """Requests are undecided: no more should be read for now."""
        return bool(self.backlog)

    @property
    def idle(self) -> bool:
        """Everything that was asked has been answered."""
        return not self.backlog and not self._waiting and not self._ready

    @property
    def backlog_bytes(self) -> int:
        """Bytes of undecided lines, about."""
        return sum(len(item) if isinstance(item, bytes) else 300 for item in self.backlog or ())

    def receive(self, lines: Sequence[bytes | Overflow]) -> None:
        """Take lines as they came; decide what can be decided now."""
        if self.backlog:
            self.backlog.extend(lines)
        elif self._waiting and self._held > HELD_LIMIT:
            self.backlog = deque(lines) or None  # until the commit has come, `release` goes on
        else:
            self._run(lines)

    def resume(self) -> None:
        """Go on with what was left: loads have come, the peer reads again, it is our turn."""
        self._blocked, self._awaiting = False, None
        self.proceed()

    def fail_load(self, refusal: Refusal) -> None:
        """The request in front cannot be decided: what it needs cannot be read."""
        request = self.backlog[0] if self.backlog else None
        # A commit that failed meanwhile may have put others in front of it: they come first.
        if self.backlog and is_request(request) and request is self._awaiting:
            self.backlog[0] = self._engine.refuse(request.id, refusal, self._engine.clock())
        self.resume()

    def proceed(self) -> None:
        """Decide more of the backlog, if nothing stands in the way."""
        if self.backlog and not self._blocked and not self.paused:
            backlog, self.backlog = self.backlog, None
            self._run(backlog)
            if not self.backlog:
                self._later(self._drained)

    def say(self, reply: Reply) -> None:
        """Put a reply that answers no request behind those that are owed."""
        self.receive([reply])  # type: ignore[list-item]

    def release(self, committed: int) -> None:
        waiting = self._waiting
        if not waiting:  # abandoned meanwhile
            return
        if waiting[-1].commit <= committed:
            released, self._waiting = waiting, []
            self._held = 0
        else:
            split = next(i for i, d in enumerate(waiting) if d.commit > committed)
            released, self._waiting = waiting[:split], waiting[split:]
            self._held = sum(d.weight for d in self._waiting)
            self._engine.hold(self)
        if released:
            self._send(encode_lines([d.reply for d in released]))
        if self.backlog:
            self.proceed()

    def redo(self, failed: int, refusal: Refusal) -> None:
        engine, now = self._engine, self._engine.clock()
        again: deque[Item] = deque()
        for d in self._waiting:
            if d.request is None:
                again.append(d.reply)
            elif d.wrote and d.commit == failed:
                again.append(engine.refuse(d.request.id, refusal, now))
            else:
                again.append(d.request)
        again.extend(self.backlog or ())
        self._waiting, self._held, self.backlog = [], 0, again
        self.proceed()

    def abandon(self) -> None:
        """The peer is gone.  What was decided stays decided; what was not never is."""
        self.backlog = None
        self._waiting, self._ready = [], []
        self._engine.let_go(self)

    # -- the inside

    def _run(self, items: Collection[Item]) -> None:
        engine, caller = self._engine, self._caller
        limits, committed, now = engine.limits, engine.committed, engine.clock()
        waiting, ready, held = self._waiting, self._ready, self._held
        todo = iter(items)
        for item in todo if len(items) <= TURN else islice(todo, TURN):
            try:
                if type(item) is bytes:
                    request = decode_request(item, limits)
                    decided = engine.decide(request, caller, now)
                    if isinstance(decided, Success):  # small, and it waits for nothing
                        if not waiting:
                            ready.append(decided)
                            continue
                        decided = Decided(decided, request, 0)
                    held += len(item)  # it stays: the id is a view of it
                else:
                    decided = self._decide_other(item, now)
            except Malformed as malformed:
                if cast(bytes, item).isspace():
                    continue  # a blank line
                decided = Decided(self._answer(malformed, now), None, 0)
            except NotResident as missing:
                self._wait_for_load(missing, request if type(item) is bytes else item, todo)
                break
            held += decided.weight
            if waiting:  # it waits behind another one, and commits are awaited in order
                if decided.commit < waiting[-1].commit:
                    decided.commit = waiting[-1].commit
                waiting.append(decided)
            elif decided.commit > committed:
                waiting.append(decided)
                engine.hold(self)
            else:
                ready.append(decided.reply)
            if held > HELD_LIMIT and (held := self._send_held(held)):
                self._leave(None, todo)
                break
        else:
            if len(items) > TURN:
                self._leave_turn(todo)
        self._held = held if waiting else 0
        if ready:
            self._send(encode_lines(ready))
            ready.clear()

    def _leave_turn(self, rest: Iterable[Item]) -> None:
        """Others first; what is left over goes on in the next turn of the loop."""
        self._leave(None, rest)
        if self.backlog:
            self._blocked = True
            self._later(self.resume)

    def _send_held(self, held: int) -> int:
        """Much is held: send what can be sent.  0 if that was all of it, and the peer takes it."""
        if self._ready:
            self._send(encode_lines(self._ready))
            self._ready.clear()
        return held if self.paused or self._waiting else 0

    def _decide_other(self, item: Item, now: Moment) -> Decided:
        """Decide what is no line: a request that was decoded before, or a reply as it stands."""
        if is_request(item):
            decided = self._engine.decide(item, self._caller, now)
            return Decided(decided, item, 0) if isinstance(decided, Success) else decided
        return Decided(self._answer(item, now), None, 0)

    def _wait_for_load(self, missing: NotResident, item: Item, rest: Iterable[Item]) -> None:
        self._leave(item, rest)
        self._blocked = True
        self._engine.want_load(missing, self)
        self._look_ahead()
        assert self.backlog is not None
        self._awaiting = self.backlog[0]

    def _answer(self, item: Item, now: Moment) -> Reply:
        """The reply to something that needs no decision."""
        if isinstance(item, Malformed):
            return self._engine.refuse(item.id, item.refusal, now)
        if isinstance(item, Overflow):
            return self._engine.refuse(NULL_ID, self._engine.message_too_large(), now)
        return cast(Reply, item)

    def _leave(self, first: Item | None, rest: Iterable[Item]) -> None:
        if first is None:
            first = next(iter(rest), None)
        self.backlog = None if first is None else deque((first, *rest))

    def _look_ahead(self) -> None:
        """Start the loads of requests that come next; they are decided in their turn."""
        backlog = self.backlog
        assert backlog is not None
        residents = self._engine.book.residents
        for i in range(min(LOOK_AHEAD, len(backlog))):
            item = backlog[i]
            if type(item) is bytes:
                try:
                    item = backlog[i] = decode_request(item, self._engine.limits)
                except Malformed:
                    continue
            if is_request(item):
                missing = _foreseen(item, residents)
                if missing is not None:
                    self._engine.want_load(missing, None)


def _foreseen(request: Request, residents: Residents) -> NotResident | None:
    """What is not in memory of what a request names first; None if that is nothing."""
    command, p = request.command, request.parameters
    if command.takes_id:
        if p.session_id is not UNSET and p.session_id not in residents.sessions:
            return NotResident(sessions=(p.session_id,))
    elif command.takes_owner and p.client_id is not UNSET:
        key = owner_key("" if p.user_id is UNSET else p.user_id, p.client_id)
        if key is not None and key not in residents.groups:
            return NotResident(groups=(key,))
    return None
