"""One peer's requests and replies, in order.

Requests of one connection are decided in the order in which they came, and their
replies leave in that order; only loads run ahead.  Knows nothing of sockets, so
that every transport can hold a dialogue.
"""

from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import islice
from typing import cast

from msgspec import Struct

from stui_sessions.domain.caller import Caller
from stui_sessions.domain.times import Moment
from stui_sessions.engine.attempts import ITEM_WEIGHT, Attempt, Decided, Failure
from stui_sessions.engine.engine import Engine
from stui_sessions.protocol.framing import Overflow
from stui_sessions.protocol.messages import (
    NULL_ID,
    Codec,
    Malformed,
    Reply,
    Success,
    encode_lines,
)
from stui_sessions.protocol.messages import failure as failure_of
from stui_sessions.protocol.registry import Request

TURN = 64
"""Requests decided for one peer before the others get their turn."""

LOOK_AHEAD = 32
"""Requests behind one that waits for a load, whose own loads are started."""

HELD_LIMIT = 256 * 1024
"""Bytes of requests and replies, about, that wait to be sent, at which no more are decided for a peer."""


class Foreseen(Struct, gc=False):
    """A request that was decoded before its turn."""

    request: Request
    weight: int  # bytes of memory, about: its line, which its id is a view of, and what was copied from it
    attempt: Attempt | None = None  # notes when it came, where the engine wants to know


Item = bytes | Overflow | Foreseen | Attempt | Reply | Malformed


class Dialogue:
    """What was asked and not answered yet.

    `send(data)` takes encoded replies; `paused` says that the peer is not reading
    them; `later(callback)` runs something in the next turn of the loop; `drained`
    is called when so much of a backlog has been worked off that more may be read.
    """

    __slots__ = (
        "_blocked",
        "_caller",
        "_codec",
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
        codec: Codec,
        caller: Caller,
        send: Callable[[bytes], None],
        later: Callable[[Callable[[], None]], object],
        drained: Callable[[], None],
    ) -> None:
        self._engine = engine
        self._codec = codec
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
        """The first of the backlog lacks something, or the next turn is to come: someone will call `resume`."""
        self.paused = False

    @property
    def busy(self) -> bool:
        """So much is undecided that no more should be read for now.

        Behind one request that waits, one more is welcome: its loads can begin.
        """
        return self.backlog is not None and len(self.backlog) > 1

    @property
    def idle(self) -> bool:
        """Everything that was asked has been answered."""
        return not self.backlog and not self._waiting and not self._ready

    @property
    def backlog_bytes(self) -> int:
        """Bytes of memory that what is undecided takes, about."""
        return sum(map(_weight, self.backlog or ()))

    def receive(self, lines: Sequence[bytes | Overflow]) -> None:
        """Take lines as they came; decide what can be decided now."""
        if self.backlog:
            self.backlog.extend(lines)
            if isinstance(self.backlog[0], Attempt):
                self._look_ahead()
        elif self._waiting and self._held > HELD_LIMIT:
            self.backlog = deque(lines) or None  # until the commit has come, `release` goes on
        else:
            self._run(lines)

    def receive_one(self, line: bytes) -> None:
        """The same for one line: nearly all that interactive clients send.  The hot path, so it is a way of its own."""
        if self.backlog or self._waiting:
            self.receive([line])
            return
        engine = self._engine
        now = engine.clock()
        try:
            decided = engine.ask(self._codec.decode(line), self._caller, now, self.resume)
        except Malformed:
            self.receive([line])
            return
        if type(decided) is Success:
            self._send(encode_lines((decided,)))
        elif type(decided) is Decided and decided.commit > engine.committed:
            decided.again = line
            self._held = decided.weight + len(line)
            self._waiting.append(decided)
            engine.hold(self)
        elif type(decided) is Attempt:
            self._wait(decided, line, ())
        else:
            self._send(encode_lines((decided.reply,)))

    def resume(self) -> None:
        """Go on with what was left: what was lacking is there, the peer reads again, it is our turn."""
        self._blocked = False
        self.proceed()

    def proceed(self) -> None:
        """Decide more of the backlog, if nothing stands in the way."""
        if self.backlog and not self._blocked and not self.paused:
            backlog, self.backlog = self.backlog, None
            self._run(backlog)
            if not self.busy:
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

    def redo(self, failure: Failure) -> None:
        waiting = self._waiting
        first = next((place for place, d in enumerate(waiting) if failure.hits(d.needs)), len(waiting))
        again: deque[Item] = deque(self._item_again(d, failure) for d in waiting[first:])
        for item in self.backlog or ():
            if type(item) is Attempt:
                item.ask_again()
            again.append(item)
        kept, self._waiting, self.backlog = waiting[:first], [], again
        if kept:
            self._wait_on(kept, failure)
        self._held = sum(d.weight for d in self._waiting)
        self.proceed()

    def _wait_on(self, kept: list[Decided], failure: Failure) -> None:
        """Those before what was lost: some can be told now, the others go on waiting."""
        committed, ready = self._engine.committed, list[Reply]()
        for place, d in enumerate(kept):
            if d.commit <= committed or d.again is None:
                ready.append(d.reply)
            elif failure.overdue is not None and not d.wrote:
                ready.append(failure_of(d.reply.id, failure.overdue, self._engine.clock().text))
            else:
                self._waiting = kept[place:]
                self._engine.hold(self)
                break
        if ready:
            self._send(encode_lines(ready))

    def _item_again(self, d: Decided, failure: Failure) -> Item:
        """What becomes of one that waited for a commit that failed, or behind it."""
        if d.again is None:
            return d.reply
        refusal = failure.lost.get(d.needs)
        if refusal is None or not d.wrote:
            return cast(Item, d.again)
        if d.only_used:  # a use succeeds also where it cannot be recorded
            again = self._foreseen(d.again) if isinstance(d.again, bytes) else d.again
            attempt = self._engine.forgive(again.request, self._caller, self.resume)
            attempt.weight = again.weight
            return attempt
        return failure_of(d.reply.id, refusal, self._engine.clock().text)

    def abandon(self) -> None:
        """The peer has left: what was decided stays decided, and no more is decided for it."""
        for item in self.backlog or ():
            if isinstance(item, Attempt):
                self._engine.give_up(item)
        self.backlog = None
        self._waiting, self._ready = [], []
        self._engine.let_go(self)

    # -- the inside

    def _run(self, items: Collection[Item]) -> None:
        engine, caller, decode, resume = self._engine, self._caller, self._codec.decode, self.resume
        now = engine.clock()
        waiting, ready, held = self._waiting, self._ready, self._held
        todo = iter(items)
        for item in todo if len(items) <= TURN else islice(todo, TURN):
            try:
                if type(item) is bytes:
                    decided = engine.ask(decode(item), caller, now, resume)
                else:
                    decided = self._decide_other(item, now)
            except Malformed as malformed:
                if cast(bytes, item).isspace():
                    continue  # a blank line
                decided = Decided(self._answer(malformed, now), 0)
            if type(decided) is Success:  # small, and it waits for nothing
                if not waiting:
                    ready.append(decided)
                    continue
                decided = Decided(decided, 0)
            elif type(decided) is Attempt:
                self._wait(decided, item, todo)
                break
            held += decided.weight
            if type(item) is bytes:
                held += len(item)  # it stays: the id of the reply is a view of it
                if decided.commit:
                    decided.again = item
            if waiting:  # it waits behind another one, and commits are awaited in order
                if decided.commit < waiting[-1].commit:
                    decided.stood_on, decided.commit = decided.commit, waiting[-1].commit
                waiting.append(decided)
            elif decided.commit > engine.committed:
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
        self._send_ready()

    def _send_ready(self) -> None:
        if self._ready:
            self._send(encode_lines(self._ready))
            self._ready.clear()

    def _leave_turn(self, rest: Iterable[Item]) -> None:
        """Others first; what is left over goes on in the next turn of the loop."""
        self._leave(None, rest)
        if self.backlog:
            self._blocked = True
            self._later(self.resume)

    def _send_held(self, held: int) -> int:
        """Much is held: send what can be sent.  0 if that was all of it, and the peer takes it."""
        self._send_ready()
        return held if self.paused or self._waiting else 0

    def _decide_other(self, item: Item, now: Moment) -> Decided | Success | Attempt:
        """Decide what is no line: a request that was decoded before, or a reply as it stands."""
        if isinstance(item, Attempt):
            decided = self._engine.retry(item, now)
        elif isinstance(item, Foreseen):
            decided = self._engine.ask(item.request, self._caller, now, self.resume, item.attempt)
        else:
            return Decided(self._answer(item, now), 0)
        if isinstance(decided, Attempt):
            decided.weight = item.weight
        elif isinstance(decided, Decided) and decided.commit:
            decided.weight += item.weight
            decided.again = Foreseen(item.request, item.weight)
        return decided

    def _wait(self, attempt: Attempt, item: Item, rest: Iterable[Item]) -> None:
        """The attempt at `item` will call `resume`; the loads of those behind it are started."""
        if isinstance(item, bytes):
            attempt.weight = _weight_decoded(item)
        self._leave(attempt, rest)
        self._blocked = True
        self._look_ahead()

    def _answer(self, item: Item, now: Moment) -> Reply:
        """The reply to something that needs no decision."""
        if isinstance(item, Malformed):
            return failure_of(item.id, item.refusal, now.text)
        if isinstance(item, Overflow):
            return failure_of(NULL_ID, self._codec.too_large(), now.text)
        return cast(Reply, item)

    def _leave(self, first: Item | None, rest: Iterable[Item]) -> None:
        if first is None:
            first = next(iter(rest), None)
        self.backlog = None if first is None else deque((first, *rest))

    def _look_ahead(self) -> None:
        """Start the loads of requests that come next, once for each; they are decided in their turn."""
        backlog = self.backlog
        assert backlog is not None
        for i in range(1, min(LOOK_AHEAD, len(backlog))):
            item = backlog[i]
            if type(item) is bytes:
                try:
                    foreseen = backlog[i] = self._foreseen(item)
                except Malformed:
                    continue
                foreseen.attempt = self._engine.foresee(foreseen.request, self._caller, self.resume)

    def _foreseen(self, line: bytes) -> Foreseen:
        return Foreseen(self._codec.decode(line), _weight_decoded(line))


def _weight(item: Item) -> int:
    if isinstance(item, bytes):
        return len(item)
    return item.weight if isinstance(item, Foreseen | Attempt) else ITEM_WEIGHT


def _weight_decoded(line: bytes) -> int:
    """Bytes of memory that a request takes, about: its line, and the copies of what is kept of it."""
    return ITEM_WEIGHT + 2 * len(line)
