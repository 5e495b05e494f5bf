"""Titles, tags, metadata: what is left of what was sent."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stui_sessions.commands import REGISTRY
from stui_sessions.domain.labels import check_metadata, clean_title, is_clean, unique_tags
from stui_sessions.errors import Refusal

REMOVED = "\N{ZERO WIDTH SPACE}\N{ZERO WIDTH NO-BREAK SPACE}"
CONTROLS = "".join(chr(c) for c in (*range(0x20), *range(0x7F, 0xA0)))
TEXT = st.text(st.one_of(st.characters(exclude_categories=["Cs"]), st.sampled_from(CONTROLS + REMOVED + "  ab")))


def title_of(sent: str) -> str:
    title = clean_title(REGISTRY["update_session_title"], sent)
    assert is_clean(title)
    assert is_clean(sent) == (sent == title)
    return title


def refusal(sent: str) -> Refusal:
    with pytest.raises(Refusal) as caught:
        title_of(sent)
    assert caught.value.details["parameter"] == "title"
    assert not is_clean(sent)
    return caught.value


@given(TEXT)
def test_a_title_is_what_was_sent_without_what_cannot_be_seen(sent: str) -> None:
    left = [c for c in sent if not (unicodedata.category(c) == "Cc" or c in REMOVED)]
    expected = "".join(left).strip()
    if expected and len(expected) <= 60:
        title = title_of(sent)
        assert title == expected
        assert title_of(title) == title
    elif expected:
        assert refusal(sent).code == "invalid_parameter"
    else:
        assert refusal(sent).code == ("empty_parameter" if len(left) == len(sent) else "title_unprintable")


@given(st.text(st.sampled_from("ab\N{SNOWMAN}🧑 "), min_size=1, max_size=70))
def test_a_title_has_1_to_60_code_points_after_trimming(sent: str) -> None:
    length = len(sent.strip())
    if 1 <= length <= 60:
        assert title_of(sent) == sent.strip()
    else:
        assert refusal(sent).code == ("invalid_parameter" if length else "empty_parameter")


@pytest.mark.parametrize("control", CONTROLS + REMOVED)
def test_each_control_character_is_removed(control: str) -> None:
    assert title_of(f"{control}a{control}b {control}") == "ab"
    assert refusal(control).code == "title_unprintable"
    assert refusal(f" {control} ").code == "title_unprintable"


@pytest.mark.parametrize("blank", ["", " ", "   ", "\N{NO-BREAK SPACE}", "\N{IDEOGRAPHIC SPACE}\N{EM SPACE}"])
def test_a_blank_title_is_another_error(blank: str) -> None:
    assert refusal(blank).code == "empty_parameter"


@pytest.mark.parametrize("title", ["👩‍👩‍👧‍👦", "🏳️‍🌈 flag", "👍🏽", "नमस्‍ते", "e\u0301", "a\u200db", "עברית", "٣"])
def test_emoji_and_joiners_stay_as_they_are(title: str) -> None:
    assert title_of(title) == title


def test_the_length_is_in_code_points_and_of_what_is_left() -> None:
    assert title_of("🧑" * 60) == "🧑" * 60
    assert refusal("🧑" * 61).code == "invalid_parameter"
    assert refusal("👨‍👩" * 21).code == "invalid_parameter"  # 63 code points, 21 to see
    assert title_of(" \x00" * 500 + "x" * 60 + "\u200b") == "x" * 60
    assert title_of("a" + " " * 58 + "b") == "a" + " " * 58 + "b"


@given(st.lists(st.sampled_from("abcA "), max_size=32))
def test_each_tag_counts_once_and_the_order_is_that_of_the_first(sent: list[str]) -> None:
    tags = unique_tags(sent)
    assert set(tags) == set(sent)
    assert len(tags) == len(set(sent))
    assert sorted(tags, key=sent.index) == list(tags)


def test_metadata_may_have_16_kib() -> None:
    assert check_metadata(b"x" * 16_384) == b"x" * 16_384
    with pytest.raises(Refusal) as caught:
        check_metadata(b"x" * 16_385)
    assert (caught.value.code, caught.value.details) == ("metadata_too_large", {"limit": 16_384, "size": 16_385})
