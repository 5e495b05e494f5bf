"""How the benchmark makes its sessions, with a client that refuses by the rules it is given."""

from collections import Counter
from typing import Any, cast

import pytest

from stui_sessions.bench.population import Population
from stui_sessions.client import Client, CreateResult, DeleteResult, SessionError, SessionServerError, StatisticsResult
from stui_sessions.client.results import Limits, RemovedCounts, ServerStatistics, StatusCounts, SweeperStatistics


class StrictClient:
    """Refuses a client's sessions beyond `allowed`, with `code`."""

    def __init__(self, allowed: int, code: str = "create_rate_exceeded", told: int = 5) -> None:
        self.created: Counter[str] = Counter()
        self.asked = 0
        self.purged: set[str] = set()
        self.idle: set[int | None] = set()
        self._allowed = allowed
        self._code = code
        self._told = told

    async def get_session_statistics(self) -> StatisticsResult:
        nothing = StatusCounts(0, 0, 0, 0), RemovedCounts(), SweeperStatistics(), ServerStatistics()
        limits = Limits(*[0] * len(Limits.__struct_fields__))
        return StatisticsResult(0, 0, self._told, 3600, 300, *nothing, limits)

    async def create_session(self, client_id: str, **options: Any) -> CreateResult:
        self.asked += 1
        if self.created[client_id] >= self._allowed:
            raise SessionError("SessionError", self._code, "no")
        self.created[client_id] += 1
        self.idle.add(options["timeout"])
        return CreateResult(f"{client_id}/{self.created[client_id]}", client_id, "", 1, True, 1)

    async def delete_session(self, session_id: str, *, purge: bool) -> DeleteResult:
        assert purge
        if session_id.endswith("/2"):
            raise SessionError("SessionError", "internal_error", "no")
        self.purged.add(session_id)
        return DeleteResult(session_id, True, False, True)


async def populate(client: StrictClient, wanted: int, seconds: float = 5, stop_at: int = 1 << 30) -> Population:
    population = Population()

    def stopped() -> bool:
        return client.asked >= stop_at

    await population.create(cast(Client, client), wanted, b"{}", seconds, stopped)
    return population


@pytest.mark.parametrize("wanted", [1, 5, 12, 1203])
async def test_no_client_gets_more_than_the_server_allows(wanted: int) -> None:
    client = StrictClient(allowed=5)
    population = await populate(client, wanted)
    assert len(set(population.sessions)) == wanted
    assert set(population.clients) == set(client.created)
    assert max(client.created.values()) <= 5
    assert client.asked == wanted


async def test_when_the_server_allows_less_it_goes_on_with_more_clients() -> None:
    client = StrictClient(allowed=3, told=1000)
    population = await populate(client, 1000)
    assert len(set(population.sessions)) == 1000
    # One batch was refused; the next ones knew.
    assert client.asked <= 1000 + 500


async def test_other_refusals_end_it_and_what_was_made_is_known() -> None:
    population = Population()
    client = StrictClient(allowed=3, code="client_not_allowed")
    with pytest.raises(SessionServerError, match="client_not_allowed"):
        await population.create(cast(Client, client), 5, b"{}", 5, lambda: False)
    assert len(population.sessions) == 3


async def test_no_session_at_all_ends_it() -> None:
    with pytest.raises(SessionError, match="create_rate_exceeded"):
        await populate(StrictClient(allowed=0), 10)


async def test_it_stops_when_told() -> None:
    assert len((await populate(StrictClient(allowed=5), 2000, stop_at=600)).sessions) == 1000


async def test_sessions_outlive_the_run_and_not_by_much() -> None:
    client = StrictClient(allowed=5)
    await populate(client, 1, seconds=5)
    await populate(client, 1, seconds=5000)
    assert client.idle == {605, None}


async def test_what_could_not_be_purged_is_counted() -> None:
    client = StrictClient(allowed=2, told=2)
    population = await populate(client, 10)
    assert await population.purge(cast(Client, client)) == 5
    assert len(client.purged) == 5
