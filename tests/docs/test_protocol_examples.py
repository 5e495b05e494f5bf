"""Every example in protocol.md, played from the top to the bottom against a real server."""

import pytest

from stui_sessions.commands import REGISTRY
from tests.conftest import StartServer
from tests.docs.markdown import Fence, fences, read
from tests.docs.matching import Names
from tests.support.databases import Databases, Files
from tests.support.line_client import LineClient
from tests.support.server import ServerProcess

EXAMPLES = fences(read("protocol.md"), "console")
SENT, RECEIVED = "→ ", "← "
LOCAL = ("Backup",)
"""Headings of what only the local store does."""
PROMISES = '"kind": "local", "fsync": true, "synchronous_commit": null, "synchronous_standbys": null'
POSTGRES = '"kind": "postgresql", "fsync": true, "synchronous_commit": "on", "synchronous_standbys": ""'
"""What the examples say that the local store promises, and what the tests' PostgreSQL does."""

NUMBERS = [
    pytest.param(n, id=example.name, marks=pytest.mark.local_store if example.heading in LOCAL else ())
    for n, example in enumerate(EXAMPLES)
]


@pytest.fixture(scope="module")
def outcomes(make_lasting_server: StartServer, databases: Databases) -> list[AssertionError | None]:
    """What became of each example; they are one story, so a later one may need what an earlier one made."""
    names = Names()
    server = make_lasting_server().start()
    examples = EXAMPLES if isinstance(databases, Files) else list(map(on_postgres, EXAMPLES))
    return [play(example, server, names) for example in examples]


def on_postgres(example: Fence) -> Fence:
    """The same example with a server on PostgreSQL."""
    return example._replace(body=example.body.replace(PROMISES, POSTGRES))


def play(example: Fence, server: ServerProcess, names: Names) -> AssertionError | None:
    """Play one example on a connection of its own."""
    with server.connect() as client:
        try:
            for line in example.body.splitlines():
                step(line, client, names)
            client.half_close()
            assert client.at_eof(), "more replies came than the example shows"
        except AssertionError as difference:
            return difference
        except (OSError, EOFError) as lost:
            return AssertionError(f"a reply is missing: {lost!r}")
        except KeyError as missing:
            return AssertionError(f"no earlier reply says what <{missing.args[0]}> is")
    return None


def step(line: str, client: LineClient, names: Names) -> None:
    if line.startswith(SENT):
        client.send(names.fill(line.removeprefix(SENT)).encode() + b"\n")
    else:
        assert line.startswith(RECEIVED), f"neither sent nor received: {line!r}"
        names.compare(line.removeprefix(RECEIVED), client.receive_line().decode())


@pytest.mark.both_stores
@pytest.mark.parametrize("number", NUMBERS)
def test_the_example_is_true(outcomes: list[AssertionError | None], number: int) -> None:
    if problem := outcomes[number]:
        raise problem


def test_every_command_has_an_example() -> None:
    shown = "".join(example.body for example in EXAMPLES)
    assert not [name for name in REGISTRY.names if f'"command": "{name}"' not in shown]


def test_an_example_tells_what_the_store_promises() -> None:
    assert any(PROMISES in example.body for example in EXAMPLES)


def test_no_example_is_outside_the_convention() -> None:
    # A block in another language would not be played.
    assert {fence.language for fence in fences(read("protocol.md"))} == {"console"}
    assert len(EXAMPLES) > 10
