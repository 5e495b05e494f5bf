"""Logs: what may be in a line, and which lines there are."""

import json
import logging
import re
from collections.abc import Iterator
from itertools import pairwise

import pytest
import structlog

from stui_sessions import logs
from stui_sessions.logs import (
    MAX_CAUSES,
    MAX_FRAMES,
    MAX_TRACEBACK,
    MAX_VALUE,
    Bridge,
    describe,
    hide,
    safe_text,
    safe_value,
)
from tests.support.log_pipe import Pipe, log


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    made = Pipe()
    yield made
    made.close()


# What a line holds.


def test_a_json_line_has_time_level_event_and_fields(pipe: Pipe) -> None:
    pipe.configure()
    log().warning("disk refuses", tries=3, ok=None, share=0.5)
    (line,) = pipe.lines()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", line.pop("timestamp"))
    assert line == {"level": "warning", "event": "disk refuses", "tries": 3, "ok": None, "share": 0.5}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\nb", r"a\nb"),
        ("\x1b[31mred", r"\x1b[31mred"),
        ("nul\0", r"nul\x00"),
        ("\u202egnp", r"\u202egnp"),
        ("\u2028", r"\u2028"),
        ("\ud800", r"\ud800"),
        ("plain ü", "plain ü"),
    ],
)
@pytest.mark.parametrize("log_format", ["json", "console"])
def test_nothing_unprintable_reaches_a_line(pipe: Pipe, log_format: str, text: str, shown: str) -> None:
    pipe.configure(log_format=log_format)
    log().info("event " + text, value=text, listed=[text], raw=text.encode("utf-8", "surrogatepass"))
    out = pipe.read()
    assert out.endswith("\n")
    assert out[:-1].isprintable()
    # JSON escapes the backslash of an escape once more, and so does the console's repr.
    assert shown in out.replace("\\\\", "\\")


def test_long_values_are_cut() -> None:
    assert safe_text("x" * MAX_VALUE) == "x" * MAX_VALUE
    assert safe_text("x" * (MAX_VALUE + 1)) == "x" * (MAX_VALUE - 1) + "…"
    assert len(safe_text("\x1b" * 1_000_000)) == MAX_VALUE
    assert len(str(safe_value({"k": "x" * 1000}))) == MAX_VALUE


def test_values_without_text_do_no_harm(pipe: Pipe) -> None:
    class Mute:
        def __str__(self) -> str:
            raise RuntimeError

    pipe.configure()
    log().info("odd", mute=Mute(), large=10**5000, edge=2**63 - 1, nan=float("nan"))
    (line,) = pipe.lines()
    assert line["mute"] == "<Mute: no text, RuntimeError>"
    assert line["large"] == "integer of 16610 bits"
    assert line["edge"] == 2**63 - 1
    assert line["nan"] is None


def test_session_ids_are_hidden() -> None:
    sid = "session_1_1756550000_123456789012345678901234567890"
    hidden = hide(sid)
    assert re.fullmatch("[0-9a-f]{12}", hidden)
    assert hidden == hide(sid) != hide(sid + "1")
    assert safe_text(f"of {sid}!") == f"of {hidden}!"
    assert re.fullmatch("[0-9a-f]{12}", hide("\ud800"))


def test_the_hash_is_salted(monkeypatch: pytest.MonkeyPatch) -> None:
    before = hide("short")
    monkeypatch.setattr(logs, "_KEY", b"another process")
    assert hide("short") != before


def test_generated_ids_are_hidden_wherever_they_stand(pipe: Pipe) -> None:
    sid = "session_7_1756550000_998877665544332211"
    pipe.configure()
    log().info(f"lost {sid}", value=sid, cut="x" * (MAX_VALUE - 30) + sid, items=[sid])
    assert "9988" not in pipe.read()


# Exceptions.


def fail(error: Exception) -> Exception:
    try:
        raise error
    except Exception as caught:
        return caught


def test_an_exception_is_one_field_with_its_place_and_its_cause(pipe: Pipe) -> None:
    pipe.configure()
    try:
        try:
            raise OSError(28, "No space left on device")
        except OSError as cause:
            raise ValueError("secret state") from cause
    except ValueError:
        log().exception("commit failed")
    (line,) = pipe.lines()
    assert line["level"] == "error"
    text = line["traceback"]
    assert re.match(r"ValueError at tests/test_logs\.py:\d+ test_an_exception_is_one_field", text)
    assert " <- OSError: [Errno 28] No space left on device at tests/test_logs.py:" in text
    assert "secret" not in text
    assert not {"exc_info", "exception", "stack_info"} & line.keys()


def test_an_exception_that_may_quote_a_client_is_only_named() -> None:
    assert safe_value(KeyError("my-custom-id")) == "KeyError"
    assert safe_value(OSError(5, "Input/output\nerror")) == r"OSError: [Errno 5] Input/output\nerror"
    assert "custom" not in describe(fail(KeyError("custom")))


def test_a_group_names_what_it_holds() -> None:
    text = describe(fail(ExceptionGroup("g", [fail(OSError(5, "bad disk")), ValueError("x")])))
    assert text.startswith("ExceptionGroup at ")
    assert "[OSError: [Errno 5] bad disk at " in text
    assert "[ValueError]" in text


def test_a_chain_of_causes_is_bounded() -> None:
    error = ValueError()
    for _ in range(50):
        outer = ValueError()
        outer.__cause__, error = error, outer
    assert describe(error).count(" <- ") == MAX_CAUSES - 1


def test_a_traceback_is_bounded() -> None:
    def deep(n: int) -> None:
        if n == 0:
            raise OSError(5, "x" * 5000)
        deep(n - 1)

    errors = []
    for _ in range(MAX_CAUSES):
        with pytest.raises(OSError, match="xxx") as caught:
            deep(100)
        errors.append(caught.value)
    assert describe(errors[0]).count(" deep") == MAX_FRAMES
    for outer, cause in pairwise(errors):
        outer.__cause__ = cause
    assert len(describe(errors[0])) == MAX_TRACEBACK


# Which lines there are.


def test_the_level_can_change_while_running(pipe: Pipe) -> None:
    opened = pipe.configure(level="warning")
    before = structlog.get_logger().bind(peer=1)
    before.info("one")
    before.warning("two")
    opened.change(level="debug", rate=0)
    before.debug("three")
    opened.change(level="error", rate=0)
    before.warning("four")
    before.error("five")
    assert [line["event"] for line in pipe.lines()] == ["two", "three", "five"]


def test_lines_beyond_the_rate_are_dropped_counted_and_told_once_a_minute(pipe: Pipe) -> None:
    pipe.configure(rate=5)
    for n in range(8):
        log().info("line", n=n)
    assert [line["n"] for line in pipe.lines()] == [0, 1, 2, 3, 4]
    pipe.clock.now += 59.9
    log().info("line", n=8)
    assert pipe.lines() == []
    pipe.clock.now += 0.1
    log().info("line", n=9)
    summary, line = pipe.lines()
    assert (summary["event"], summary["count"], summary["level"]) == ("log lines dropped", 4, "warning")
    assert line["n"] == 9
    pipe.clock.now += 60
    log().info("line", n=10)
    assert [line["n"] for line in pipe.lines()] == [10]


def test_the_count_is_told_even_when_nothing_follows_and_only_errors_are_logged(pipe: Pipe) -> None:
    opened = pipe.configure(rate=1, level="error")
    log().error("a")
    log().error("b")
    pipe.lines()
    opened.report_dropped()
    assert pipe.lines() == []
    pipe.clock.now += 60
    opened.report_dropped()
    opened.report_dropped()
    assert [line["count"] for line in pipe.lines()] == [1]


def test_a_flood_of_warnings_leaves_room_for_errors(pipe: Pipe) -> None:
    pipe.configure(rate=20)
    log().debug("below the level, so not counted")
    for _ in range(50):
        log().warning("flood")
    for _ in range(5):
        log().error("disk")
    events = [line["event"] for line in pipe.lines()]
    assert events == ["flood"] * 18 + ["disk"] * 2


def test_rate_zero_is_no_limit_and_the_rate_can_change(pipe: Pipe) -> None:
    opened = pipe.configure(rate=0)
    for _ in range(700):
        log().info("x")
    assert len(pipe.lines()) == 700
    opened.change(level="info", rate=701)
    log().error("y")
    log().error("z")
    assert [line["event"] for line in pipe.lines()] == ["y"]


def test_other_libraries_come_through_the_same_gate(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe.configure()
    other = logging.getLogger("asyncio")
    monkeypatch.setattr(other, "level", logging.DEBUG)
    other.info("nothing")
    other.error("Task failed 100%%\nfuture: <Task exception=KeyError('my-id')>", exc_info=fail(KeyError("my-id")))
    # Past pytest's own handler, which raises on such a record.
    Bridge().handle(logging.LogRecord("lib", logging.WARNING, "f.py", 1, "bad %d", ("arguments",), None))
    first, second = pipe.lines()
    assert (first["event"], first["logger"], first["level"]) == ("Task failed 100%%", "asyncio", "error")
    assert first["traceback"].startswith("KeyError at ")
    assert "my-id" not in json.dumps(first)
    assert (second["event"], second["level"]) == ("bad %d", "warning")


def test_closed_logs_leave_the_other_libraries_alone(pipe: Pipe) -> None:
    pipe.configure().close()
    pipe.opened.clear()
    logging.getLogger("asyncio").error("after")
    assert pipe.lines() == []
