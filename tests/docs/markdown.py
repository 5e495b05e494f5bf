"""What the tests need of Markdown: fenced blocks, tables, headings, links."""

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]

_HEADING = re.compile(r"(#{1,6}) (.+?)\s*$")
_FENCE = re.compile(r"(`{3,})([\w-]*)\s*$")
_LINK = re.compile(r"(?<!!)\[[^\]]+\]\(([^)\s]+)\)")
_CODE = re.compile(r"`[^`]*`")


class Fence(NamedTuple):
    """One fenced block."""

    language: str
    body: str
    heading: str
    line: int

    @property
    def name(self) -> str:
        return f"line {self.line}: {self.heading}"


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def fences(text: str, language: str = "") -> list[Fence]:
    """The fenced blocks of a document, of one language if it is given."""
    return [fence for fence, _ in _scan(text) if fence and language in ("", fence.language)]


def prose(text: str) -> list[str]:
    """The lines outside fenced blocks."""
    return [line for fence, line in _scan(text) if fence is None]


def section(text: str, heading: str) -> str:
    """What stands under `heading`, up to the next heading of its level or a higher one."""
    found: list[str] = []
    level = 0
    inside = False
    for line in text.splitlines():
        inside ^= line.startswith("```")
        match = None if inside else _HEADING.match(line)
        if level and match and len(match[1]) <= level:
            break
        if level:
            found.append(line)
        elif match and match[2] == heading:
            level = len(match[1])
    assert level, f"there is no heading {heading!r}"
    return "\n".join(found) + "\n"


def between(text: str, marker: str) -> str:
    """What stands between `<!-- marker: begin -->` and `<!-- marker: end -->`."""
    begin, end = f"<!-- {marker}: begin -->\n", f"<!-- {marker}: end -->"
    assert text.count(begin) == text.count(end) == 1, f"the markers of {marker} are not there, or there twice"
    return text.partition(begin)[2].partition(end)[0]


def table(text: str) -> list[list[str]]:
    """The rows of the first table in `text`, without its head."""
    rows = []
    for line in text.splitlines():
        if line.startswith("|"):
            cells = re.split(r"(?<!\\)\|", line.strip().strip("|"))
            rows.append([cell.strip().replace("\\|", "|") for cell in cells])
        elif rows:
            break
    assert len(rows) > 2, "there is no table here"
    return rows[2:]


def anchors(text: str) -> set[str]:
    """The anchors that GitHub makes of the headings."""
    found: set[str] = set()
    for line in prose(text):
        if match := _HEADING.match(line):
            slug = re.sub(r"[^\w\- ]", "", match[2].lower()).replace(" ", "-")
            number = 1
            unique = slug
            while unique in found:
                unique = f"{slug}-{number}"
                number += 1
            found.add(unique)
    return found


def links(text: str) -> list[str]:
    """The targets of all links outside code."""
    return [target for line in prose(text) for target in _LINK.findall(_CODE.sub("", line))]


def _scan(text: str) -> list[tuple[Fence | None, str]]:
    """Each fenced block once, and each other line."""
    found: list[tuple[Fence | None, str]] = []
    heading, mark, language, start = "", "", "", 0
    body: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        fence = _FENCE.match(line)
        if mark:
            if fence and fence[1] == mark and not fence[2]:
                found.append((Fence(language, "\n".join(body) + "\n", heading, start), ""))
                mark = ""
            else:
                body.append(line)
        elif fence:
            mark, language, start, body = fence[1], fence[2], number, []
        else:
            if match := _HEADING.match(line):
                heading = match[2]
            found.append((None, line))
    assert not mark, f"the block that begins on line {start} does not end"
    return found
