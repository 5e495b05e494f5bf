"""The asyncio client against the real server."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from msgspec import Raw

from stui_sessions.client import (
    ConnectionLost,
    RequestError,
    ServerRuntimeError,
    SessionError,
    SessionNotFound,
    connect,
)
from stui_sessions.commands import PROTOCOL_VERSION, REGISTRY
from tests.conftest import StartServer
from tests.support.server import ServerProcess


@pytest.fixture(scope="module")
def shared(make_lasting_server: StartServer, tmp_path_factory: pytest.TempPathFactory) -> ServerProcess:
    """A server for all tests of this module; each uses clients of its own."""
    return make_lasting_server(unix=tmp_path_factory.mktemp("shared") / "s").start()


async def test_the_life_of_a_session(shared: ServerProcess) -> None:
    async with connect(port=shared.port) as client:
        session = await client.create_session("life", timeout=600, session_state={"a": 1}, object_registry={"o": []})
        assert (session.client_id, session.timeout, session.is_active, session.revision) == ("life", 600, True, 1)
        id = session.session_id
        updated = await client.update_session_state(id, {"b": None}, workspace_context={"w": "é"})
        assert (updated.session_state, updated.revision, updated.update_successful) == ({"a": 1, "b": None}, 2, True)
        replaced = await client.update_session_state(id, {"c": 10**40}, mode="replace")
        assert replaced.session_state == {"c": 10**40}
        restored = await client.restore_session(id)
        assert restored.session_state == {"c": 10**40}
        assert (restored.workspace_context, restored.inspector_state) == ({"w": "é"}, {})
        assert restored.object_registry == {"o": []}
        info = await client.get_session_info(id)
        assert 0 < info.time_until_expiry <= 600
        listed = await client.list_client_sessions("life")
        assert [row.session_id for row in listed.sessions] == [id]
        assert (await client.close_session(id)).closed
        with pytest.raises(SessionNotFound) as raised:
            await client.restore_session(id)
        assert raised.value.code == "session_closed"
        assert (await client.list_client_sessions("life")).session_count == 0


async def test_every_command_by_name(shared: ServerProcess) -> None:
    async with connect(port=shared.port) as client:
        id = (await client.call("create_session", client_id="names")).session_id
        for command in ("update_session_state", "restore_session", "get_session_info", "close_session"):
            more: dict[str, Any] = {"state_data": {"k": 1}} if command == "update_session_state" else {}
            assert (await client.call(command, session_id=id, **more)).session_id == id
        assert (await client.call("list_client_sessions", client_id="names")).sessions == []
        assert (await client.call("get_session_statistics")).max_sessions_per_client == 5
        assert (await client.call("ping")).pong
        assert (await client.ping()).pong
        assert (await client.describe()).contract["commands"].keys() == set(REGISTRY.names)
        described = await client.describe("ping")
        assert (described.protocol_version, described.contract["command"]) == (PROTOCOL_VERSION, "ping")
        assert (await client.get_session_statistics()).default_timeout == 3600


async def test_errors_carry_what_programs_need(shared: ServerProcess) -> None:
    async with connect(port=shared.port) as client:
        with pytest.raises(RequestError) as request:
            await client.call("restore_sesion")
        assert (request.value.code, request.value.details["nearest"]) == ("unknown_command", "restore_session")
        for _ in range(5):
            await client.create_session("full")
        with pytest.raises(SessionError) as full:
            await client.create_session("full")
        assert (full.value.code, full.value.details["limit"]) == ("session_limit_reached", 5)
        with pytest.raises(RequestError, match="state_data"):
            await client.update_session_state("x")


async def test_numbers_keep_their_text_in_raw_results(shared: ServerProcess) -> None:
    async with connect(unix=shared.unix) as client:
        session = await client.create_session("raw", session_state=Raw(b'{"n": 1.10,\n "z": -0}'))
        text = await client.call_raw("restore_session", session_id=session.session_id)
        assert b"1.10" in text
        assert b"-0" in text


@pytest.mark.both_stores
async def test_a_thousand_updates_in_flight_are_decided_in_order(shared: ServerProcess) -> None:
    async with connect(port=shared.port) as client:
        id = (await client.create_session("flight")).session_id
        results = await asyncio.gather(*(client.update_session_state(id, {"n": n}) for n in range(1000)))
        assert [result.revision for result in results] == list(range(2, 1002))
        assert (await client.restore_session(id)).session_state == {"n": 999}


async def test_large_states_in_flight(shared: ServerProcess) -> None:
    async with connect(port=shared.port) as client:
        id = (await client.create_session("large")).session_id
        text = "x" * 900_000
        results = await asyncio.gather(*(client.update_session_state(id, {"text": text}) for _ in range(20)))
        assert all(result.session_state == {"text": text} for result in results)


async def test_only_the_line_that_is_too_long_fails(shared: ServerProcess) -> None:
    async with connect(port=shared.port) as client:
        outcomes = await asyncio.gather(
            client.ping(),
            client.update_session_state("any", {"text": "x" * 3_000_000}),
            client.ping(),
            return_exceptions=True,
        )
        assert isinstance(outcomes[1], RequestError)
        assert outcomes[1].code == "message_too_large"
        assert [getattr(outcome, "pong", False) for outcome in outcomes] == [True, False, True]


async def test_over_the_limit_of_connections(start_server: StartServer) -> None:
    server = start_server("--max-connections", "1")
    async with connect(port=server.port) as first:
        await first.ping()
        async with connect(port=server.port) as second:
            with pytest.raises(ServerRuntimeError) as raised:
                await second.ping()
        assert raised.value.code == "too_many_connections"
        assert (await first.ping()).pong


@pytest.mark.both_stores
async def test_the_saved_state_is_there_after_a_kill(server: ServerProcess) -> None:
    async with connect(port=server.port) as client:
        id = (await client.create_session("me")).session_id
        await client.update_session_state(id, {"line": 42})
        server.kill()
        with pytest.raises(ConnectionLost):
            await client.ping()
    server.restart()
    async with connect(port=server.port) as client:
        assert (await client.restore_session(id)).session_state == {"line": 42}


async def test_an_unknown_socket_is_an_oserror(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        await connect(unix=tmp_path / "nobody")
