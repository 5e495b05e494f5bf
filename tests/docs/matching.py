"""Comparing what a document says a reply is with what came.

`<name>` in a document stands for what differs from run to run.  `<time>` is any
instant, `<seconds>` and `<number>` any whole number; every other name stands for the same
text wherever it appears: the first reply that has it says what that is, and later
requests and replies get it from there.  White space between JSON tokens does not
count; everything else does, the order of fields and the text of numbers included.
"""

import re

_PLACEHOLDER = re.compile(r"<([a-z][a-z0-9_]*)>")
_STRING_OR_SPACE = re.compile(r'("(?:[^"\\]|\\.)*")|\s+')
_PATTERNS = {"time": r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", "seconds": r"\d+", "number": r"\d+"}


class Names:
    """What the placeholders of one document stand for."""

    def __init__(self) -> None:
        self._values: dict[str, str] = {}

    def fill(self, text: str) -> str:
        """`text` with its placeholders replaced; KeyError for one that nothing has set."""
        return _PLACEHOLDER.sub(lambda found: self._values[found[1]], text)

    def compare(self, expected: str, actual: str) -> None:
        """Assert that `actual` is what `expected` says, and learn from it what is new."""
        pattern = self._pattern(compact(expected))
        found = re.fullmatch(pattern, compact(actual))
        assert found, f"expected {expected}\n     got {actual}"
        self._values.update(found.groupdict())

    def _pattern(self, expected: str) -> str:
        seen: set[str] = set()
        parts = _PLACEHOLDER.split(expected)
        # Every second part is a name.
        return "".join(self._name(part, seen) if i % 2 else re.escape(part) for i, part in enumerate(parts))

    def _name(self, name: str, seen: set[str]) -> str:
        if name in _PATTERNS:
            return _PATTERNS[name]
        if name in self._values:
            return re.escape(self._values[name])
        if name in seen:
            return f"(?P={name})"
        seen.add(name)
        return f'(?P<{name}>[^"<>]+)'


def compact(text: str) -> str:
    """JSON text without the white space between its tokens."""
    return _STRING_OR_SPACE.sub(lambda found: found[1] or "", text)
