"""The sessions that a benchmark works on: its own, made before and purged after."""

import asyncio
import secrets
from collections import Counter
from collections.abc import Callable
from itertools import count

from msgspec import Raw

from stui_sessions.client import Client, SessionServerError

_BATCH = 500
_SPREAD = frozenset({"create_rate_exceeded", "session_limit_reached"})
"""Refusals that a client hears which has created enough."""


class Population:
    """Sessions of clients `bench-<random>-<n>`, which nobody else uses."""

    def __init__(self) -> None:
        self._prefix = f"bench-{secrets.token_hex(4)}"
        self._numbers = count(1)
        self.sessions: list[str] = []
        self.clients: list[str] = []

    async def create(
        self, client: Client, wanted: int, state: bytes, seconds: float, stopped: Callable[[], bool]
    ) -> None:
        """Create `wanted` sessions, each with `state`, that live on for a while after `seconds` of idleness.

        Raises ClientError; what was created until then is in `sessions`.
        """
        statistics = await client.get_session_statistics()
        per_client = statistics.max_sessions_per_client
        # Should this process be killed, they go away by themselves.  The default is the longest that is certainly
        # allowed, for `max_timeout` is not told.
        lifetime = int(seconds) + 600
        timeout = lifetime if lifetime <= statistics.default_timeout else None
        while len(self.sessions) < wanted and not stopped():
            names = self._names(min(_BATCH, wanted - len(self.sessions)), per_client)
            got = await self._create_batch(client, names, state, timeout)
            if got < Counter(names):
                # The server allows fewer for each client than we thought: go on with more clients.
                per_client = max(got.values())

    async def purge(self, client: Client) -> int:
        """Remove them all at once, or the server would keep them as long as any that has ended; how many are left."""
        failed = 0
        for start in range(0, len(self.sessions), _BATCH):
            batch = self.sessions[start : start + _BATCH]
            outcomes = await asyncio.gather(
                *(client.delete_session(id, purge=True) for id in batch), return_exceptions=True
            )
            failed += sum(isinstance(outcome, BaseException) for outcome in outcomes)
        return failed

    def _names(self, wanted: int, per_client: int) -> list[str]:
        """A client for each of `wanted` sessions: new clients, `per_client` sessions each."""
        new = [f"{self._prefix}-{next(self._numbers)}" for _ in range(-(-wanted // per_client))]
        return [name for name in new for _ in range(per_client)][:wanted]

    async def _create_batch(self, client: Client, names: list[str], state: bytes, idle: int | None) -> Counter[str]:
        """How many sessions each client got; raises the first refusal if none got any, or one of another kind."""
        outcomes = await asyncio.gather(
            *(client.create_session(name, timeout=idle, session_state=Raw(state)) for name in names),
            return_exceptions=True,
        )
        got: Counter[str] = Counter()
        refusals: list[BaseException] = []
        for name, outcome in zip(names, outcomes, strict=True):
            if isinstance(outcome, BaseException):
                refusals.append(outcome)
            else:
                self.sessions.append(outcome.session_id)
                got[name] += 1
        self.clients.extend(got)
        serious = [r for r in refusals if not (isinstance(r, SessionServerError) and r.code in _SPREAD)]
        if serious or (refusals and not got):
            raise (serious or refusals)[0]
        return got
