"""LineFramer: the same lines however the stream is cut, and never more memory than one line."""

import sys
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stui_sessions.protocol.framing import OVERFLOW, LineFramer, Overflow

LIMIT = 8
Lines = list[bytes | Overflow]

SAMPLES: list[tuple[bytes, Lines]] = [
    (b"\n", []),
    (b"\n\n\n", []),
    (b"a\n", [b"a"]),
    (b"a\r\n", [b"a\r"]),
    (b"\r\n", [b"\r"]),
    (b" \n", [b" "]),
    (b"a\nb\n", [b"a", b"b"]),
    (b"a\n\n\nb\n", [b"a", b"b"]),
    (b"12345678\n", [b"12345678"]),  # the limit, exactly
    (b"123456789\n", [OVERFLOW]),  # one more
    (b"1234567\r\n", [b"1234567\r"]),
    (b"x" * 100 + b"\nok\n", [OVERFLOW, b"ok"]),
    (b"x" * 100 + b"\n" + b"y" * 100 + b"\nok\n", [OVERFLOW, OVERFLOW, b"ok"]),
    (b"one\n" + b"x" * 100 + b"\ntwo\n", [b"one", OVERFLOW, b"two"]),
    (b"\n" + b"x" * 9 + b"\n\n\nok\n", [OVERFLOW, b"ok"]),
    (b"\x00\xff\n", [b"\x00\xff"]),
]


def feed_all(framer: LineFramer, *pieces: bytes) -> Lines:
    return [line for piece in pieces for line in framer.feed(piece)]


@pytest.mark.parametrize(("stream", "lines"), SAMPLES)
def test_a_sample_fed_whole(stream: bytes, lines: Lines) -> None:
    framer = LineFramer(LIMIT)
    assert framer.feed(stream) == lines
    assert not framer.unfinished


@pytest.mark.parametrize(("stream", "lines"), SAMPLES)
def test_a_sample_fed_byte_by_byte(stream: bytes, lines: Lines) -> None:
    framer = LineFramer(LIMIT)
    assert feed_all(framer, *(bytes([b]) for b in stream)) == lines
    assert not framer.unfinished


@pytest.mark.parametrize(("stream", "lines"), SAMPLES)
def test_a_sample_with_the_next_message_glued_on(stream: bytes, lines: Lines) -> None:
    framer = LineFramer(LIMIT)
    assert feed_all(framer, stream + b"ne", b"xt\n") == [*lines, b"next"]


@given(
    parts=st.lists(st.one_of(st.binary(max_size=12), st.just(b"\n"), st.just(b"x" * 20)), max_size=12),
    cuts=st.lists(st.integers(0, 80)),
)
def test_a_stream_cut_anywhere_gives_the_same_lines(parts: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(parts)
    whole = LineFramer(LIMIT)
    expected = whole.feed(stream) + whole.finish()

    edges = [0, *sorted(min(c, len(stream)) for c in cuts), len(stream)]
    framer = LineFramer(LIMIT)
    seen: Lines = []
    for start, end in pairwise(edges):
        seen += framer.feed(stream[start:end])
        assert framer.buffered <= LIMIT
    seen += framer.finish()

    assert seen == expected
    # And both are what the words say: split at LF, blank ones dropped, long ones replaced.
    assert seen == [OVERFLOW if len(line) > LIMIT else line for line in stream.split(b"\n") if line]


def test_an_over_long_line_is_reported_once_and_as_soon_as_it_is() -> None:
    framer = LineFramer(LIMIT)
    assert framer.feed(b"12345678") == []
    assert framer.feed(b"9") == [OVERFLOW]
    assert framer.feed(b"x" * 1000) == []
    assert framer.unfinished
    assert framer.feed(b"tail\nok\n") == [b"ok"]  # the tail does not run


def test_a_line_whose_end_is_over_the_limit_is_reported_at_its_newline() -> None:
    framer = LineFramer(LIMIT)
    assert framer.feed(b"12345") == []
    assert framer.feed(b"6789\nok\n") == [OVERFLOW, b"ok"]


def test_a_partial_line_of_just_the_limit_still_fits() -> None:
    framer = LineFramer(LIMIT)
    assert framer.feed(b"12345678") == []
    assert framer.buffered == LIMIT
    assert framer.feed(b"\n") == [b"12345678"]
    assert framer.buffered == 0


def test_the_memory_held_is_bounded_by_the_limit() -> None:
    limit = 10_000
    framer = LineFramer(limit)
    for _ in range(1000):
        framer.feed(b"x" * 999)
        assert framer.buffered <= limit
    assert framer.buffered == 0  # given up, and nothing more is kept of it
    assert sys.getsizeof(framer._partial) < 100


def test_finish_gives_the_last_line_that_has_no_newline() -> None:
    framer = LineFramer(LIMIT)
    assert framer.feed(b"one\ntwo") == [b"one"]
    assert framer.finish() == [b"two"]
    assert framer.finish() == []
    assert not framer.unfinished


def test_finish_of_nothing_is_nothing() -> None:
    assert LineFramer(LIMIT).finish() == []


def test_an_over_long_line_is_not_reported_again_at_end_of_file() -> None:
    framer = LineFramer(LIMIT)
    assert framer.feed(b"x" * 9) == [OVERFLOW]
    assert framer.finish() == []
    assert framer.feed(b"ok\n") == [b"ok"]


def test_discard_throws_away_what_was_begun_and_its_rest() -> None:
    framer = LineFramer(LIMIT)
    framer.feed(b"begun")
    framer.discard()
    assert framer.buffered == 0
    assert framer.unfinished
    assert framer.feed(b" and more") == []
    assert framer.feed(b" of it\nok\n") == [b"ok"]


def test_discard_between_lines_does_nothing() -> None:
    framer = LineFramer(LIMIT)
    framer.feed(b"one\n")
    framer.discard()
    assert framer.feed(b"two\n") == [b"two"]


def test_discard_before_end_of_file_leaves_nothing() -> None:
    framer = LineFramer(LIMIT)
    framer.feed(b"begun")
    framer.discard()
    assert framer.finish() == []


def test_unfinished_says_whether_a_line_was_begun() -> None:
    framer = LineFramer(LIMIT)
    assert not framer.unfinished
    framer.feed(b"a")
    assert framer.unfinished
    framer.feed(b"\n")
    assert not framer.unfinished


def test_head_shows_the_beginning_of_the_unfinished_line() -> None:
    framer = LineFramer(LIMIT)
    assert framer.head(3) == b""
    framer.feed(b"done\nGET /")
    assert framer.head(3) == b"GET"
    assert framer.buffered == 5  # looking takes nothing away


def test_a_line_is_a_copy_of_its_own() -> None:
    framer = LineFramer(LIMIT)
    framer.feed(b"ab")
    (line,) = framer.feed(b"cd\n")
    assert type(line) is bytes


def test_a_limit_changed_while_running_holds_for_the_next_bytes() -> None:
    framer = LineFramer(LIMIT)
    framer.feed(b"1234567")
    framer.limit = 4
    assert framer.feed(b"\n") == [OVERFLOW]
    assert framer.feed(b"1234\n12345\n") == [b"1234", OVERFLOW]
