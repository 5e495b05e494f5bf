"""The labels of a session: titles, tags, metadata."""

import unicodedata
from collections.abc import Iterable

from stui_sessions.errors import Refusal
from stui_sessions.protocol.fields import MAX_METADATA_BYTES, MAX_TITLE
from stui_sessions.protocol.registry import Command

_INVISIBLE = "\N{ZERO WIDTH SPACE}\N{ZERO WIDTH NO-BREAK SPACE}"  # joiners stay: emoji are made with them


def visible_part(title: str) -> str:
    """`title` without what cannot be seen; blanks at its ends stay."""
    if title.isprintable():  # nearly always
        return title
    return "".join(c for c in title if unicodedata.category(c) != "Cc" and c not in _INVISIBLE)


def is_clean(title: str) -> bool:
    """`title` is one that a session may have."""
    return title == visible_part(title).strip() and 0 < len(title) <= MAX_TITLE


def clean_title(command: Command, sent: str) -> str:
    """The title without what cannot be seen (003: control characters are sanitized); raises Refusal."""
    expected = command.parameters["title"].expected
    visible = visible_part(sent)
    title = visible.strip()
    if not title and visible == sent:
        raise Refusal("empty_parameter", f"title is blank; it must be {expected}", parameter="title", expected=expected)
    if not title:
        raise Refusal(
            "title_unprintable",
            f"title holds only characters that cannot be seen; it must be {expected}",
            parameter="title",
            expected=expected,
        )
    if len(title) > MAX_TITLE:
        raise command.invalid("title", f"{len(title)} characters")
    return title


def unique_tags(sent: Iterable[str]) -> tuple[str, ...]:
    """Each tag once, in the order in which they came first."""
    return tuple(dict.fromkeys(sent))


def check_metadata(text: bytes) -> bytes:
    """`text` if it is not too large; raises Refusal."""
    if len(text) > MAX_METADATA_BYTES:
        raise Refusal(
            "metadata_too_large",
            f"the metadata would be {len(text)} bytes, and may be {MAX_METADATA_BYTES}",
            limit=MAX_METADATA_BYTES,
            size=len(text),
        )
    return text
