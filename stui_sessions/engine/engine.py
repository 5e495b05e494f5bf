"""Decides requests on what is in memory, and knows what is committed and who waits.

A request is decided at once and without an await, on a draft.  What it lacks goes to
the loader; what it staged joins the batch that gathers; its reply waits for the
highest commit among all that it read or wrote.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

from msgspec import structs

from stui_sessions.domain.caller import Caller
from stui_sessions.domain.draft import Bucket, Draft, Known, Missing, World
from stui_sessions.domain.entities import Damaged, Entity, Key, Session
from stui_sessions.domain.records import Record, Updated, Used
from stui_sessions.domain.times import Moment
from stui_sessions.engine.attempts import ITEM_WEIGHT, Attempt, Decided, Failure, Flight, Waiter
from stui_sessions.engine.cache import Cache
from stui_sessions.engine.committer import Committer
from stui_sessions.engine.errands import Errand, Signal, SystemRequest
from stui_sessions.engine.feed import Feed
from stui_sessions.engine.freshness import Freshness
from stui_sessions.engine.loader import Loader
from stui_sessions.engine.uses import KEPT_USES, MOST_USES, UseRecorder
from stui_sessions.errors import Refusal
from stui_sessions.protocol.messages import NULL_ID, Success, failure
from stui_sessions.protocol.registry import Command, Request
from stui_sessions.storage.contract import Batch, Store
from stui_sessions.storage.counting import is_stored

Operation = Callable[[Any, Caller], Awaitable[Any]]
"""Something of the server's that awaits: a request's parameters and its caller, to the result.  May raise Refusal."""


class Engine:
    """The inside of the server; behind a gate stands `ask`.

    `clock` tells the time of a decision; `committed` is the newest commit in the store; for
    `patience` see Committer;
    `operations` are what the server does itself for those commands that await.
    """

    def __init__(
        self,
        world: World,
        store: Store,
        clock: Callable[[], Moment],
        committed: int,
        resident_limit: int,
        operations: Mapping[str, Operation],
        log: Any,
        patience: float | None = None,
    ) -> None:
        self.world = world
        self.clock = clock
        self.committed = committed
        """The newest commit that is on disk."""
        self.cache = Cache(resident_limit)
        self.freshness = Freshness(self.cache) if store.is_shared else None
        """Where other servers write too; None: what is in memory is what is committed."""
        self.feed = Feed(None if store.is_shared else store, committed)
        self.committer = Committer(store, self, self.feed, patience, log)
        self.loader = Loader(store, self, log)
        self.recorder = UseRecorder(self, log)
        self.batch = Batch(committed + 1, [], {}, {}, {})
        """What gathers for the next commit."""
        self.uses: dict[Key, int] = {}
        """Sessions whose last use is not recorded, and when that was, ms."""
        self._sent = committed  # the newest commit that was tried, and has not failed
        self._buckets: list[Bucket] = []
        """What the gathering creations were counted for."""
        self._waiting: dict[Waiter, None] = {}
        self._operations = operations
        self._operating: set[asyncio.Task[None]] = set()
        self._log = log

    # -- deciding

    def ask(
        self,
        request: Request,
        caller: Caller,
        now: Moment,
        resume: Callable[[], None],
        attempt: Attempt | None = None,
    ) -> Decided | Success | Attempt:
        """Decide a request; a small reply that waits for nothing comes as it is.

        An Attempt, if something is lacking: `resume` is called once `retry` is worth while.
        """
        command, handler = request.command, request.command.handler
        if handler is None:
            return self._operate(Attempt(request, caller, resume))
        cache, freshness = self.cache, self.freshness
        entities: Known = cache.entities
        if freshness is not None:
            attempt = attempt or Attempt(request, caller, resume, freshness.asked_at(command))
            entities = freshness.view(attempt.since, self.committed)
        draft = Draft(self.world, entities, self.batch.number, command, caller, now)
        if attempt is not None:
            draft.answers, draft.forgiving = attempt.answers, attempt.forgiving
        try:
            result = handler(draft, request.parameters)
        except Exception as error:
            return self._not_done(request, draft, error, attempt or Attempt(request, caller, resume))
        changes = draft.changes
        if freshness is not None and not changes and attempt is not None and attempt.since is None:
            return self._ask_fresh(attempt, now)
        if changes or draft.uses:
            self._accept(draft)
        elif 2 * cache.bytes > cache.limit:  # a call would cost a read one part in twenty
            cache.note_use(draft.read)
        reply = Success(request.id, "success", result, now.text)
        weigh, commit = command.weigh, draft.gathering if changes else draft.commit
        if freshness is not None and commit > self.committed:
            freshness.note_peer(caller.connection, commit, bool(changes))
        if weigh is None and commit <= self.committed:
            return reply
        weight = ITEM_WEIGHT if weigh is None else ITEM_WEIGHT + weigh(result)
        if not changes:
            return Decided(reply, commit, weight=weight)
        is_soft = freshness is None and type(changes[0][0]) is Used and _only_uses(changes)
        return Decided(reply, commit, True, is_soft, weight)

    def _ask_fresh(self, attempt: Attempt, now: Moment) -> Decided | Success | Attempt:
        """It writes nothing, so no commit checks what it read: decide on what is fresh since it came."""
        assert self.freshness is not None
        attempt.since = self.freshness.begun
        return self.ask(attempt.request, attempt.caller, now, attempt.resume, attempt)

    def _not_done(
        self, request: Request, draft: Draft, error: Exception, attempt: Attempt
    ) -> Decided | Success | Attempt:
        """What becomes of a request that lacks something, was refused, or broke; its draft is thrown away."""
        if isinstance(error, Missing):
            return self._lacking(attempt, draft, error)
        if self.freshness is not None and attempt.since is None:
            return self._ask_fresh(attempt, draft.now)
        refusal = error if isinstance(error, Refusal) else self._fault(request.command.name, error)
        if self.freshness is not None and draft.commit > self.committed:
            self.freshness.note_peer(draft.caller.connection, draft.commit, False)
        return Decided(failure(request.id, refusal, draft.now.text), draft.commit)

    def retry(self, attempt: Attempt, now: Moment) -> Decided | Success | Attempt:
        """Decide again what was lacking something."""
        request = attempt.request
        if attempt.refusal is not None:
            self.give_up(attempt)
            return Decided(failure(request.id, attempt.refusal, now.text), 0)
        if attempt.busy:
            return attempt
        if request.command.operation:
            weigh, result = request.command.weigh, attempt.outcome
            reply = Success(request.id, "success", result, now.text)
            return Decided(reply, 0, weight=ITEM_WEIGHT if weigh is None else ITEM_WEIGHT + weigh(result))
        decided = self.ask(request, attempt.caller, now, attempt.resume, attempt)
        if decided is not attempt:
            self.give_up(attempt)
        return decided

    def forgive(self, request: Request, caller: Caller, resume: Callable[[], None]) -> Attempt:
        """A request that failed because the disk refused to record a use: it is to be decided without that."""
        attempt = Attempt(request, caller, resume)
        attempt.busy, attempt.forgiving = False, True
        return attempt

    def give_up(self, attempt: Attempt) -> None:
        """Release what is held for an attempt whose peer has left."""
        attempt.abandoned = True
        self.cache.unpin(attempt.pinned)
        attempt.pinned.clear()

    def foresee(self, request: Request, caller: Caller, resume: Callable[[], None]) -> Attempt | None:
        """Begin the loads of a request whose turn comes later: deciding is pure, so it is tried on a spare draft.

        Returns what notes when it came, for `ask`, where that matters.
        """
        handler = request.command.handler
        if handler is None:
            return None
        numbers, last = self.world.numbers, self.world.numbers.last
        known: Known = self.cache.entities
        attempt = None
        if self.freshness is not None:
            attempt = Attempt(request, caller, resume, self.freshness.asked_at(request.command))
            known = self.freshness.view(attempt.since, self.committed)
        draft = Draft(self.world, known, self.batch.number, request.command, caller, self.clock())
        try:
            handler(draft, request.parameters)
        except Missing as missing:
            if missing.keys:
                self.loader.load(None, missing.keys)
        except Exception:
            pass  # it is told when its turn has come
        finally:
            numbers.last = last
        return attempt

    def _lacking(self, attempt: Attempt, draft: Draft, missing: Missing) -> Attempt:
        """Pin what was read until now, and get the rest."""
        for entity in draft.read:
            if entity.key not in attempt.pinned:
                attempt.pinned.add(entity.key)
                self.cache.pin(entity.key)
        if missing.question is not None:
            self.loader.answer(attempt, missing.question)
        else:
            self.loader.load(attempt, missing.keys)
        return attempt

    def _operate(self, attempt: Attempt) -> Attempt:
        """Begin an operation of the server; nobody else waits for it."""
        task = asyncio.create_task(self._operation(attempt))
        self._operating.add(task)
        task.add_done_callback(self._operating.discard)
        return attempt

    async def _operation(self, attempt: Attempt) -> None:
        request = attempt.request
        try:
            attempt.outcome = await self._operations[request.command.name](request.parameters, attempt.caller)
        except Refusal as refusal:
            attempt.refusal = refusal
        except Exception as error:
            attempt.refusal = self._fault(request.command.name, error)
        attempt.busy = False
        if not attempt.abandoned:
            attempt.resume()

    def _fault(self, command: str, error: Exception) -> Refusal:
        """A fault of ours: the request has changed nothing, and the log says more."""
        self._log.error("request.fault", command=command, exc_info=error)
        return Refusal("internal_error", "a fault in the server; the request was not carried out")

    def _accept(self, draft: Draft) -> None:
        """What a draft has staged joins the batch."""
        batch, cache, changes = self.batch, self.cache, draft.changes
        if changes:
            number, records = batch.number, batch.records
            for entity in draft.read:  # what is in the batch already stands on what is expected of it
                if entity.commit < number:
                    if type(entity) is Session:  # nearly always
                        batch.expected[entity.key] = entity.version
                    elif type(entity) is not Damaged:
                        batch.expected[entity.key] = entity.version if is_stored(entity) else 0
            if not records:
                self.committer.wake()
            for record, before, after in changes:
                records.append(record)
                batch.after[after.key] = after
                if type(record) is Updated:  # nearly always
                    cache.renew(after, after.state_bytes - before.state_bytes)  # type: ignore[union-attr]
                else:
                    cache.put(after)
                    batch.before.setdefault(after.key, before)
        if draft.uses is not None:
            self._note_uses(draft.uses, draft.staged())
        if draft.bucket is not None:
            self.world.rate.take(draft.bucket, draft.now.monotonic)
            self._buckets.append(draft.bucket)

    def _note_uses(self, used: Mapping[Key, int], staged: Mapping[Key, Entity]) -> None:
        uses = self.uses
        for key, at in used.items():
            self.cache.renew(staged[key])
            uses[key] = at
        if len(uses) > MOST_USES:
            self.recorder.record_soon()
            while len(uses) > KEPT_USES:
                del uses[next(iter(uses))]

    # -- what loads bring

    def take_in(self, found: Mapping[Key, Entity]) -> None:
        """Entities as they are committed; what is in memory already is as new or newer."""
        for key, entity in found.items():
            if key not in self.cache.entities:
                used = self.uses.get(key, 0)
                if used and type(entity) is Session and not entity.status and used > entity.active_at:
                    entity = structs.replace(entity, active_at=used)
                self.cache.put(entity)

    # -- waiting for commits

    async def run(self, command: Command, parameters: Any) -> Any:
        """Decide a request of the server's own, and wait until that is committed; its result.  Raises Refusal."""
        return await Errand(self, SystemRequest(NULL_ID, command, parameters)).run()

    async def until_committed(self) -> None:
        """Wait until everything decided so far is on disk, or did not come about."""
        everything = self.batch.number if self.batch.records else self._sent
        if everything > self.committed:
            await Signal(self, everything).wait()

    def hold(self, waiter: Waiter) -> None:
        """`waiter` has replies that wait for a commit."""
        self._waiting[waiter] = None

    def let_go(self, waiter: Waiter) -> None:
        self._waiting.pop(waiter, None)

    def take_batch(self) -> Flight:
        """The batch for the next commit; what is decided from now on goes into the one after."""
        flight = Flight(self.batch, self._buckets)
        self._sent = flight.batch.number
        self.batch, self._buckets = Batch(flight.batch.number + 1, [], {}, {}, {}), []
        return flight

    def on_committed(self, batch: Batch) -> None:
        """A commit is on disk: release those who waited for it, all together."""
        number = self.committed = batch.number
        if self.freshness is not None:
            self.freshness.forget_peers(number)
        if self.uses:
            self._forget_uses(batch.after)
        waiting, self._waiting = self._waiting, {}
        for waiter in waiting:
            waiter.release(number)

    def _forget_uses(self, after: Mapping[Key, Entity]) -> None:
        """Drop the notes of uses that are on disk now, and of sessions that have ended."""
        for key in self.uses.keys() & after.keys():
            entity = after[key]
            if type(entity) is not Session or entity.status or entity.recorded_at >= self.uses[key]:
                del self.uses[key]

    def on_commits_failed(self, failed: Mapping[int, Flight], last: int) -> None:
        """Forget what commits would have changed, and all that was decided on top of them.

        `failed`: each with its number; `last`: the newest commit that was tried.  Who
        wrote in one is refused, or decided again where it has no refusal: others had
        committed what they stood on.
        """
        self._sent = self.committed
        for flight in failed.values():
            self.cache.drop(flight.batch.after)
            self._give_back(flight.buckets)
        number = self.batch.number if self.freshness is not None else last  # shared stores may know the last one
        self._forget_gathered(number, Failure({n: flight.refusal for n, flight in failed.items()}, last))

    def refuse_gathered(self, refusal: Refusal) -> None:
        """A commit takes long: refuse what waits to be sent behind it, and reads that wait for its end."""
        number = self.batch.number
        self._forget_gathered(number, Failure({number: refusal}, number, refusal))

    def _forget_gathered(self, number: int, failure: Failure) -> None:
        """What gathers is forgotten, and a new batch of that number begun; tell those who wait."""
        self.cache.drop(self.batch.after)
        self._give_back(self._buckets)
        if self.freshness is not None:
            self.freshness.forget_peers(self.committed, number)
        self.batch, self._buckets = Batch(number, [], {}, {}, {}), []
        waiting, self._waiting = self._waiting, {}
        for waiter in waiting:
            waiter.redo(failure)

    def _give_back(self, buckets: Iterable[Bucket]) -> None:
        for bucket in buckets:
            self.world.rate.give_back(bucket)


def _only_uses(changes: list[tuple[Record, Entity, Entity]]) -> bool:
    return all(type(record) is Used for record, _, _ in changes)
