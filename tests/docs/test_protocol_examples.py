"""Every example in protocol.md, played from the top to the bottom against a real server."""

from collections.abc import Iterator

import pytest

from stui_sessions.commands import REGISTRY
from tests.docs.markdown import Fence, fences, read
from tests.docs.matching import Names
from tests.support.line_client import LineClient
from tests.support.server import ServerProcess

EXAMPLES = fences(read("protocol.md"), "console")
SENT, RECEIVED = "→ ", "← "


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[AssertionError | None]]:
    """What became of each example; they are one story, so a later one may need what an earlier one made."""
    names = Names()
    with ServerProcess(tmp_path_factory.mktemp("examples")) as server:
        yield [play(example, server, names) for example in EXAMPLES]


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


@pytest.mark.parametrize("number", range(len(EXAMPLES)), ids=[example.name for example in EXAMPLES])
def test_the_example_is_true(outcomes: list[AssertionError | None], number: int) -> None:
    if problem := outcomes[number]:
        raise problem


def test_every_command_has_an_example() -> None:
    shown = "".join(example.body for example in EXAMPLES)
    assert not [name for name in REGISTRY.names if f'"command": "{name}"' not in shown]


def test_no_example_is_outside_the_convention() -> None:
    # A block in another language would not be played.
    assert {fence.language for fence in fences(read("protocol.md"))} == {"console"}
    assert len(EXAMPLES) > 10
