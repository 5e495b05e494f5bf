"""Latencies in bounded memory, however long the run."""

_PRECISION = 7
"""Bits: two values in one bucket differ by less than 1/128."""
_SMALL = 2 << _PRECISION


class Histogram:
    """Counts non-negative integers (here microseconds) in buckets of growing width.

    Values below 256 are exact, all others within 0.8 %.
    """

    def __init__(self) -> None:
        self._counts = [0] * (_SMALL + (64 << _PRECISION))
        self.count = 0
        self.max = 0

    def add(self, value: int) -> None:
        if value < _SMALL:
            index = value
        else:
            shift = value.bit_length() - _PRECISION - 1
            index = (shift << _PRECISION) + (value >> shift)
        self._counts[index] += 1
        self.count += 1
        if value > self.max:
            self.max = value

    def merge(self, other: "Histogram") -> None:
        """Add everything that `other` has counted."""
        self._counts = [a + b for a, b in zip(self._counts, other._counts, strict=True)]
        self.count += other.count
        self.max = max(self.max, other.max)

    def percentile(self, percent: float) -> int:
        """The least counted value (to the precision) that `percent` of all values do not pass; 0 if there are none."""
        wanted = percent / 100 * self.count
        seen = 0
        for index, count in enumerate(self._counts):
            seen += count
            if count and seen >= wanted:
                return min(_upper(index), self.max)
        return 0


def _upper(index: int) -> int:
    """The largest value of a bucket."""
    if index < _SMALL:
        return index
    shift = (index >> _PRECISION) - 1
    return ((index - (shift << _PRECISION) + 1) << shift) - 1
