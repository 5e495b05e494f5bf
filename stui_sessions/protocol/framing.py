"""Bytes to bounded lines."""

from enum import Enum


class Overflow(Enum):
    """Stands in the place of a line that was too long; nothing of it is run."""

    LINE = "line"


OVERFLOW = Overflow.LINE


class LineFramer:
    """Cuts a stream of bytes into lines of at most `limit` bytes (the LF not counted).

    What is over the limit is discarded up to its newline and reported once, so
    that the tail of an over-long line never runs as a request of its own, and so
    that the bound holds while buffering and not after it.
    """

    __slots__ = ("_discarding", "_partial", "limit")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._partial: bytearray | None = None
        self._discarding = False

    @property
    def buffered(self) -> int:
        """Bytes held of an unfinished line."""
        return 0 if self._partial is None else len(self._partial)

    @property
    def unfinished(self) -> bool:
        """A line was begun and its newline has not come."""
        return self._partial is not None or self._discarding

    def head(self, count: int) -> bytes:
        """The first bytes of the unfinished line."""
        return b"" if self._partial is None else bytes(self._partial[:count])

    def is_line(self, data: bytes) -> bool:
        """`data` is one whole line and nothing else, as nearly all that comes: there is nothing to cut."""
        return 0 < data.find(b"\n") == len(data) - 1 <= self.limit and self._partial is None and not self._discarding

    def feed(self, data: bytes) -> list[bytes | Overflow]:
        """The lines that `data` completes, without their LF, in order."""
        lines: list[bytes | Overflow] = data.split(b"\n")  # type: ignore[assignment]
        rest: bytes = lines.pop()  # type: ignore[assignment]
        if self._partial is not None or self._discarding:
            if not lines:
                return self._keep(rest)
            lines[0] = self._complete(lines[0])  # type: ignore[arg-type]
        if len(data) > self.limit:
            lines = [OVERFLOW if line is OVERFLOW or len(line) > self.limit else line for line in lines]
        if rest:
            lines += self._keep(rest)
        # A line is reported where its limit is passed, not again at its newline.
        return [line for line in lines if line != b""] if b"" in lines else lines

    def finish(self) -> list[bytes | Overflow]:
        """End of stream: a last line without its newline is a line too."""
        partial, self._partial, self._discarding = self._partial, None, False
        return [bytes(partial)] if partial else []

    def discard(self) -> None:
        """Give up the unfinished line: what is still to come of it is thrown away."""
        if self.unfinished:
            self._partial = None
            self._discarding = True

    def _complete(self, head: bytes) -> bytes | Overflow:
        """The line whose last part is `head`; b"" if it was discarded and reported before."""
        if self._discarding:
            self._discarding = False
            return b""
        partial = self._partial
        assert partial is not None
        self._partial = None
        if len(partial) + len(head) > self.limit:
            return OVERFLOW
        partial += head
        return bytes(partial)

    def _keep(self, tail: bytes) -> list[bytes | Overflow]:
        """Buffer the beginning of a line, unless that would pass the limit."""
        if self._discarding:
            return []
        if self.buffered + len(tail) > self.limit:
            self._partial = None
            self._discarding = True
            return [OVERFLOW]
        if self._partial is None:
            self._partial = bytearray(tail)
        else:
            self._partial += tail
        return []
