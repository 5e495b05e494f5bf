"""The asyncio client against a server that does what the test says."""

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from msgspec import UNSET

from stui_sessions.client import (
    REMOVE,
    Client,
    ConnectionLost,
    ProtocolViolation,
    ReplyTimeout,
    RequestError,
    ServerRuntimeError,
    SessionNotFound,
    SessionServerError,
    connect,
)
from tests.client.fake_server import FakeServer


@asynccontextmanager
async def pair(reading: bool = True, **options: Any) -> AsyncIterator[tuple[FakeServer, Client]]:
    async with FakeServer(reading=reading) as fake, connect(port=fake.port, **options) as client:
        yield fake, client


async def outcomes(*tasks: asyncio.Task[Any]) -> list[Any]:
    async with asyncio.timeout(10):
        return await asyncio.gather(*tasks, return_exceptions=True)


async def until_paused(client: Client) -> None:
    """The server takes no more."""
    async with asyncio.timeout(10):
        while not client._connection._paused:  # noqa: ASYNC110  (nobody else tells)
            await asyncio.sleep(0)


def start(call: Any) -> asyncio.Task[Any]:
    return asyncio.ensure_future(call)


# The ordinary way.


async def test_a_call_is_a_request_and_its_result() -> None:
    async with pair() as (fake, client):
        call = start(client.update_session_state("s", {"k": None}, mode="replace"))
        request = await fake.request()
        assert request["command"] == "update_session_state"
        assert request["parameters"] == {"session_id": "s", "state_data": {"k": None}, "mode": "replace"}
        await fake.succeed(
            request["id"],
            session_id="s",
            last_modified="2025-08-30T10:30:00Z",
            session_state={"k": None},
            update_successful=True,
            revision=2,
        )
        result = await call
        assert result.session_state == {"k": None}
        assert result.revision == 2


async def test_what_is_left_out_is_not_sent() -> None:
    async with pair() as (fake, client):
        call = start(client.create_session("me", timeout=60, object_registry={}))
        assert (await fake.request())["parameters"] == {"client_id": "me", "timeout": 60, "object_registry": {}}
        call.cancel()


async def test_a_session_can_be_named_by_its_external_id() -> None:
    async with pair() as (fake, client):
        call = start(client.touch_session(external_id="notebook 7", user_id="ada"))
        request = await fake.request()
        assert request["parameters"] == {"external_id": "notebook 7", "user_id": "ada"}
        await fake.succeed(request["id"], session_id="s", last_activity="x", expires_at="y")
        assert (await call).session_id == "s"


async def test_what_is_to_be_removed_is_sent_as_null() -> None:
    async with pair() as (fake, client):
        call = start(client.update_session("s", title=REMOVE, ttl_seconds=REMOVE, tags=["a"], pin=False))
        assert (await fake.request())["parameters"] == {
            "session_id": "s",
            "title": None,
            "ttl_seconds": None,
            "tags": ["a"],
            "pin": False,
        }
        call.cancel()


async def test_a_field_that_a_result_leaves_out_is_unset() -> None:
    async with pair() as (fake, client):
        call = start(client.create_session("me"))
        request = await fake.request()
        times = {"created_at": "2025-08-30T10:30:00Z", "timeout": 1}
        await fake.succeed(request["id"], session_id="s", client_id="me", is_active=True, revision=1, **times)
        result = await call
        assert result.evicted_session_id is UNSET
        assert not result.evicted_session_id


async def test_any_command_can_be_called_by_name() -> None:
    async with pair() as (fake, client):
        call = start(client.call("of_the_future", a=None, b=[1]))
        request = await fake.request()
        assert (request["command"], request["parameters"]) == ("of_the_future", {"a": None, "b": [1]})
        await fake.succeed(request["id"], x=1)
        assert await call == {"x": 1}


async def test_call_raw_gives_the_text() -> None:
    async with pair() as (fake, client):
        call = start(client.call_raw("restore_session", session_id="s"))
        request = await fake.request()
        await fake.send(b'{"id":%d,"status":"success","result":{"a": 1.10},"timestamp":""}\n' % request["id"])
        assert await call == b'{"a": 1.10}'


async def test_an_error_reply_is_an_exception() -> None:
    async with pair() as (fake, client):
        call = start(client.restore_session("s"))
        request = await fake.request()
        await fake.refuse(request["id"], "SessionNotFound", "session_expired")
        with pytest.raises(SessionNotFound, match="session_expired"):
            await call


async def test_many_calls_are_in_flight_and_answered_by_id() -> None:
    async with pair() as (fake, client):
        calls = [start(client.call("n", n=n)) for n in range(100)]
        requests = [await fake.request() for _ in calls]
        assert [request["parameters"]["n"] for request in requests] == list(range(100))
        for request in reversed(requests):
            await fake.succeed(request["id"], n=request["parameters"]["n"])
        assert [outcome["n"] for outcome in await outcomes(*calls)] == list(range(100))


async def test_over_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "s"
    async with FakeServer(unix=str(path)) as fake, connect(unix=path) as client:
        call = start(client.ping())
        await fake.succeed((await fake.request())["id"], pong=True)
        assert (await call).pong
        assert client.address == f"unix://{path}"


async def test_connect_can_be_awaited() -> None:
    async with FakeServer() as fake:
        client = await connect(port=fake.port)
        assert not client.closed
        await client.close()
        await client.close()
        assert client.closed
        with pytest.raises(ConnectionLost, match="closed by this client"):
            await client.ping()


async def test_nobody_there_is_an_oserror(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r".+"):
        await connect(unix=tmp_path / "nobody")


async def test_arguments_that_cannot_be_sent_harm_nothing() -> None:
    async with pair() as (fake, client):
        with pytest.raises(ValueError, match="not JSON"):
            await client.update_session_state("s", {"x": float("nan")})
        call = start(client.ping())
        await fake.succeed((await fake.request())["id"], pong=True)
        assert (await call).pong


# Time-outs and cancellation.


async def test_a_call_that_times_out_leaves_the_connection_usable() -> None:
    async with pair() as (fake, client):
        with pytest.raises(ReplyTimeout, match=r"ping within 0\.01 s"):
            await client.ping(reply_timeout=0.01)
        late = await fake.request()
        await fake.refuse(late["id"], "RuntimeError", "internal_error")
        call = start(client.call("n"))
        await fake.succeed((await fake.request())["id"], n=1)
        assert await call == {"n": 1}


async def test_the_default_time_out_is_that_of_the_connection() -> None:
    async with pair(timeout=0.01) as (_, client):
        with pytest.raises(TimeoutError):
            await client.ping()
        waiting = start(client.ping(reply_timeout=None))
        with pytest.raises(ReplyTimeout):
            await client.ping()
        assert not waiting.done()
        waiting.cancel()


async def test_a_cancelled_call_does_not_disturb_the_others() -> None:
    async with pair() as (fake, client):
        first, second = start(client.call("n", n=1)), start(client.call("n", n=2))
        ids = [(await fake.request())["id"] for _ in range(2)]
        first.cancel()
        for id in ids:
            await fake.succeed(id, n=id)
        cancelled, answered = await outcomes(first, second)
        assert isinstance(cancelled, asyncio.CancelledError)
        assert answered == {"n": ids[1]}


async def test_a_call_cancelled_before_its_turn_is_never_sent() -> None:
    async with pair() as (fake, client):
        first = start(client.call("first"))
        await asyncio.sleep(0)  # it has begun, and the line goes out in the next turn
        first.cancel()
        second = start(client.call("second"))
        assert (await fake.request())["command"] == "second"
        second.cancel()


async def test_a_call_whose_time_is_up_before_its_turn_is_never_sent(caplog: pytest.LogCaptureFixture) -> None:
    async with pair(reading=False) as (fake, client):
        filler = start(client.call("n", text="x" * 10_000_000))
        await until_paused(client)
        with pytest.raises(ReplyTimeout):
            await client.call("late", reply_timeout=0)
        # Resumed in the moment between the end of its time and the call's hearing of it.
        late = start(client.call("late", reply_timeout=None))
        await asyncio.sleep(0)
        client._connection._settle(3, ReplyTimeout("now"))
        client._connection.resume_writing()
        assert isinstance((await outcomes(late))[0], ReplyTimeout)
        fake.read()
        assert (await fake.request())["command"] == "n"
        last = start(client.call("last"))
        assert (await fake.request())["command"] == "last"
        filler.cancel()
        last.cancel()
    assert not caplog.records


async def test_a_call_cancelled_while_its_reply_is_there_loses_only_itself() -> None:
    async with pair() as (fake, client):
        call = start(client.ping())
        request = await fake.request()
        connection = client._connection
        connection.data_received(b'{"id":%d,"status":"success","result":{"pong":true}}\n' % request["id"])
        call.cancel()
        assert isinstance((await outcomes(call))[0], asyncio.CancelledError)


# Errors about the connection.


async def test_a_line_that_was_too_long_is_the_fault_of_its_own_call() -> None:
    async with pair() as (fake, client):
        calls = [start(client.call("n", n=n)) for n in range(3)]
        ids = [(await fake.request())["id"] for _ in calls]
        await fake.succeed(ids[0], n=0)
        await fake.refuse(None, "Error", "message_too_large", limit=9)
        await fake.succeed(ids[2], n=2)
        first, second, third = await outcomes(*calls)
        assert (first, third) == ({"n": 0}, {"n": 2})
        assert isinstance(second, RequestError)
        assert second.code == "message_too_large"


@pytest.mark.parametrize("code", ["too_many_connections", "line_timeout"])
async def test_the_servers_last_word_is_told_to_every_call_then_and_later(code: str) -> None:
    async with pair() as (fake, client):
        calls = [start(client.ping()) for _ in range(3)]
        for _ in calls:
            await fake.request()
        await fake.refuse(None, "RuntimeError", code, limit=1)
        await fake.hang_up()
        errors = await outcomes(*calls)
        errors += await outcomes(start(client.ping()), start(client.ping()))
        assert [type(error) for error in errors] == [ServerRuntimeError] * 5
        assert {error.code for error in errors} == {code}
        assert len({id(error) for error in errors}) == 5  # each has a traceback of its own


async def test_a_refused_connection_says_why_at_the_first_call() -> None:
    async with pair() as (fake, client):
        await fake.refuse(None, "RuntimeError", "too_many_connections", limit=1)
        await fake.hang_up()
        async with asyncio.timeout(10):
            await client._connection.ended
        with pytest.raises(SessionServerError) as raised:
            await client.ping()
        assert raised.value.code == "too_many_connections"


async def test_a_lost_connection_ends_every_call() -> None:
    async with pair() as (fake, client):
        calls = [start(client.ping()) for _ in range(3)]
        await fake.request()
        await fake.send(b'{"id":1,"status":"succ')
        await fake.hang_up()
        assert [type(error) for error in await outcomes(*calls)] == [ConnectionLost] * 3
        assert client.closed
        with pytest.raises(ConnectionError, match="lost"):
            await client.ping()


async def test_leaving_the_context_ends_calls_in_flight() -> None:
    async with pair() as (fake, client):
        call = start(client.ping())
        await fake.request()
        await client.close()
        assert isinstance((await outcomes(call))[0], ConnectionLost)


@pytest.mark.parametrize("data", [b"220 mail.example.org ESMTP\n", b"x" * 2000])
async def test_something_else_than_our_server_is_a_violation(data: bytes) -> None:
    async with pair(max_reply_bytes=1000) as (fake, client):
        calls = [start(client.ping()), start(client.ping())]
        await fake.request()
        await fake.send(data)
        assert [type(error) for error in await outcomes(*calls)] == [ProtocolViolation] * 2
        assert client.closed
        async with asyncio.timeout(10):
            await client._connection.ended  # nothing more of what it says is wanted


async def test_nothing_is_left_unretrieved(caplog: pytest.LogCaptureFixture) -> None:
    gc.collect()
    caplog.clear()
    async with pair() as (fake, client):
        calls = [start(client.ping()) for _ in range(3)]
        await fake.request()
        await fake.hang_up()
        await client._connection.ended
        for call in calls:
            call.cancel()
        await outcomes(*calls)
    del calls, call
    gc.collect()
    assert not caplog.records


# Size and back-pressure.


async def test_a_reply_of_four_mebibytes() -> None:
    async with pair() as (fake, client):
        call = start(client.call("n"))
        text = "x" * (4 << 20)
        await fake.succeed((await fake.request())["id"], text=text)
        assert await call == {"text": text}


async def test_a_server_that_does_not_read_is_not_flooded_and_order_is_kept() -> None:
    async with pair(reading=False) as (fake, client):
        calls = [start(client.call("n", n=n, text="x" * 10_000)) for n in range(3000)]
        await until_paused(client)
        await asyncio.sleep(0)
        assert client._connection._transport.get_write_buffer_size() < 1 << 20
        fake.read()
        for n in range(3000):
            request = await fake.request()
            assert request["parameters"]["n"] == n
            await fake.succeed(request["id"], n=n)
        assert [outcome["n"] for outcome in await outcomes(*calls)] == list(range(3000))


async def test_calls_that_were_given_up_while_the_server_did_not_read_are_forgotten() -> None:
    async with pair(reading=False) as (fake, client):
        calls = [start(client.call("n", text="x" * 100_000)) for _ in range(100)]
        await until_paused(client)
        for call in calls:
            call.cancel()
        await outcomes(*calls)
        assert not client._connection._outbox
        last = start(client.call("last"))
        fake.read()
        while (request := await fake.request())["command"] != "last":
            pass
        await fake.succeed(request["id"], n=1)
        assert (await outcomes(last)) == [{"n": 1}]


async def test_large_requests_and_large_replies_do_not_wait_for_each_other() -> None:
    # The server answers each request before it reads the next, and waits until the answer is taken.
    text = "x" * (1 << 20)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for id in range(1, 41):
            await reader.readline()
            writer.write(b'{"id":%d,"status":"success","result":"%s"}\n' % (id, text.encode()))
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=1 << 24)
    async with server, connect(port=server.sockets[0].getsockname()[1]) as client:
        calls = [start(client.call("n", text=text)) for _ in range(40)]
        assert await outcomes(*calls) == [text] * 40
