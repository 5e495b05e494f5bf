"""Where the logs go: a terminal, a pipe, and a stderr that takes nothing; none of them may hold up the server."""

import contextlib
import fcntl
import json
import os
import signal
import threading
import tty
from collections.abc import Callable, Iterator

import pytest
import structlog

from stui_sessions import logs
from stui_sessions.logs import configure
from tests.support.log_pipe import Pipe, log


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    made = Pipe()
    yield made
    made.close()


def finishes(work: Callable[[], None]) -> bool:
    """Whether `work` ends by itself; a write that blocks must fail a test, not hang it."""
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(10)
    return not thread.is_alive()


def test_auto_is_json_in_a_pipe_and_for_people_on_a_terminal(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    pipe.configure(log_format="auto")
    log().info("piped")
    assert pipe.lines()[0]["event"] == "piped"
    master, slave = os.openpty()
    try:
        opened = configure(level="info", log_format="auto", rate=0, fd=slave)
        log().info("shown", n=1)
        out = os.read(master, 4096).decode()
        opened.close()
    finally:
        os.close(master)
        os.close(slave)
    assert "shown" in out
    assert not out.startswith("{")
    assert "\x1b[" in out


def long_lines() -> None:
    """Lines longer than the room that is left when a terminal or a pipe says that there is some."""
    for _ in range(30):
        log().info("long", **{f"field{n}": "x" * 299 for n in range(30)})


def test_a_full_pipe_does_not_block_and_what_is_lost_is_counted(pipe: Pipe) -> None:
    pipe.configure()

    def flood() -> None:
        for n in range(2000):
            log().info("x" * 250, n=n)

    assert finishes(flood)
    assert os.get_blocking(pipe.writer), "the shared description must stay as it was"
    taken = pipe.lines()
    assert [line["n"] for line in taken] == list(range(len(taken)))
    pipe.clock.now += 60
    log().info("again")
    summary, line = pipe.lines()
    assert summary["count"] == 2000 - len(taken)
    assert line["event"] == "again"


def test_a_descriptor_that_cannot_be_reopened_does_not_block_either(
    pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "_reopen", lambda fd: None)
    test_a_full_pipe_does_not_block_and_what_is_lost_is_counted(pipe)
    assert finishes(long_lines)


def test_a_terminal_that_takes_next_to_nothing_does_not_block() -> None:
    master, slave = os.openpty()
    tty.setraw(slave)
    opened = configure(level="info", log_format="json", rate=0, fd=slave)

    def trickle() -> None:
        # It is full after the first lines.  Read a little at a time, it soon says "ready", with room for half a line.
        for _ in range(30):
            long_lines()
            os.read(master, 512)

    try:
        assert finishes(trickle)
        assert os.get_blocking(slave), "the shared description must stay as it was"
    finally:
        opened.close()
        structlog.reset_defaults()
        # The master first: that ends a write that waits, where one does.
        os.close(master)
        os.close(slave)


def test_a_line_after_half_a_line_can_be_read(pipe: Pipe) -> None:
    with contextlib.suppress(AttributeError, OSError):
        fcntl.fcntl(pipe.writer, fcntl.F_SETPIPE_SZ, 8192)
    pipe.configure()
    many = {f"field{n}": "x" * 299 for n in range(40)}
    log().info("too long for the pipe", **many)
    half = pipe.read()
    assert half
    assert not half.endswith("\n")
    log().info("next")
    rest = pipe.read()
    assert rest[0] == "\n"
    assert json.loads(rest)["event"] == "next"


def test_a_long_line_that_the_pipe_takes_arrives_whole(pipe: Pipe) -> None:
    pipe.configure()
    many = {f"field{n}": "ü" * 299 for n in range(20)}
    log().info("long", **many)
    assert pipe.lines()[0]["field19"] == "ü" * 299


def test_a_broken_pipe_is_survived(pipe: Pipe) -> None:
    assert signal.getsignal(signal.SIGPIPE) == signal.SIG_IGN
    pipe.configure()
    os.close(pipe.reader)
    log().info("into nothing")
    log().error("into nothing")


def test_a_closed_stderr_is_never_written_to(monkeypatch: pytest.MonkeyPatch, pipe: Pipe) -> None:
    # With 2>&- the next file opened becomes descriptor 2: it may be the database.
    monkeypatch.setattr("sys.stderr", None)
    monkeypatch.setattr(os, "write", lambda *args: pytest.fail("wrote to a descriptor that is not stderr"))
    opened = configure(level="info", log_format="auto", rate=0)
    pipe.opened.append(opened)
    log().error("nowhere")
