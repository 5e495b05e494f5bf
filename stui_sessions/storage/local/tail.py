"""Reading the log from the disk: which entries there are behind those that the tables have.

Used by the start, by a copy, and by the command line beside a running server.
Synchronous, for a thread.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterator
from operator import itemgetter
from pathlib import Path

from msgspec import Struct

from stui_sessions.errors import StartError
from stui_sessions.storage import files
from stui_sessions.storage.local import segments
from stui_sessions.storage.local.entry import HEADER_SIZE, Header, Payload, decode_payload
from stui_sessions.storage.local.segments import START, Entries, Segment

LEFT = "It is left as it is: restore a backup, or set the database aside together with its log"


class Tail(Struct):
    """What there is of a log; filled by `read_tail`."""

    segments: list[Segment] = []  # all of them, in their order
    last: int = 0  # the newest entry's number; 0 where there is none
    is_torn: bool = False  # something is behind the end, or missing before it: no entry may follow there
    size: int = 0  # bytes of the entries that were read


class Survey(Struct):
    """The segments of a log."""

    held: list[Segment] = []  # in their order, each with its first entry; none if there is no log, or another one
    since: int = 0  # commits up to here were in it, or in segments that were there before
    foreign: str = ""  # there are segments of another log
    damage: str = ""  # what is wrong with them, "" if nothing is


def survey(directory: Path, log_id: bytes) -> Survey:
    """Look at the segments of a log."""
    found = Survey()
    for ordinal in segments.ordinals(directory):
        path = segments.path_of(directory, ordinal)
        label = segments.label_of(path)
        if label is not None and label.log_id != log_id:
            found.foreign = found.foreign or f"{path} belongs to another database"
            continue
        segment = Segment(path, ordinal, files.size(path))
        if label is None or label.ordinal != ordinal:
            found.damage = found.damage or f"{path} is damaged: its header fails its checksum. {LEFT}"
        elif segment.size < label.size:
            found.damage = found.damage or (
                f"{path} is damaged: it has {segment.size} bytes, and must have {label.size}. {LEFT}"
            )
        else:
            found.since = max(found.since, label.since)
        with Entries(path, log_id, ordinal) as entries:
            first = entries.at(START)
            if first is not None:
                segment.first, segment.first_at = first[0].number, first[0].at
        found.held.append(segment)
    return found


def read_tail(
    found: list[Segment], log_id: bytes, behind: int, on_entry: Callable[[Header, Payload, int], None]
) -> Tail:
    """Read all entries whose number is above `behind`; `on_entry(header, payload, bytes)` hears of each, in order.

    StartError if one is missing that must have been there: it says where.  A torn end
    is none.
    """
    tail = Tail(segments=found, last=behind)
    started = [s for s in found if s.first]
    begun = [s for s in started if s.first <= behind + 1]
    if started and not begun:
        raise StartError(
            f"the log begins at commit {started[0].first} ({started[0].path}), and the tables end at commit {behind}: "
            f"what is between them is missing. {LEFT}"
        )
    # From the last that begins early enough on; those too whose first entry is not whole: prepared ones, or damaged.
    since = begun[-1].ordinal if begun else 0
    _Walk(tail, log_id, behind, on_entry).run([s for s in found if s.ordinal >= since], begun[-1].first if begun else 0)
    return tail


class _Walk:
    """The way through the segments that hold what is wanted."""

    def __init__(
        self, tail: Tail, log_id: bytes, behind: int, on_entry: Callable[[Header, Payload, int], None]
    ) -> None:
        self.tail = tail
        self.log_id = log_id
        self.behind = behind
        self.on_entry = on_entry
        self.hole = ""  # where the entries first end

    def run(self, wanted: list[Segment], first: int) -> None:
        """Through these segments; the first entry of the first of them is number `first`, if it has one."""
        expected = first or self.behind + 1
        for segment in wanted:
            with Entries(segment.path, self.log_id, segment.ordinal) as entries:
                expected = self._segment(segment, entries, expected)
        self.tail.last = max(expected - 1, self.behind)
        self.tail.is_torn |= expected <= self.behind

    def _segment(self, segment: Segment, entries: Entries, expected: int) -> int:
        """Walk through one segment; the number that is expected behind it."""
        end = START
        while True:
            expected, end = self._walk(segment, entries, expected, end)
            place = self.hole if self.hole and end == START else f"{segment.path}, offset {end}"
            damage = self._judged(entries, expected, end, place)
            if not damage:
                break
            entries.forget()
            following = entries.at(end)
            if following is None or following[0].number != expected:
                raise StartError(damage)
            # A server has written on meanwhile: go on with that.
        segment.end = end
        if end > START or not self.hole:
            self.hole = place
        return expected

    def _walk(self, segment: Segment, entries: Entries, expected: int, end: int) -> tuple[int, int]:
        """Through entries without a gap; the number that is expected behind them, and where."""
        for header, offset, payload in entries.walk(end):
            if header.number != expected:
                break
            end = offset + entry_size(header)
            segment.note(header.number, offset, end, header.at)
            if header.number > self.behind:
                self._whole(header, payload, segment)
            expected += 1
        return expected, end

    def _whole(self, header: Header, payload: bytes, segment: Segment) -> None:
        size = entry_size(header)
        self.tail.size += size
        self.on_entry(header, decode_payload(header, payload, str(segment.path)), size)

    def _judged(self, entries: Entries, expected: int, end: int, place: str) -> str:
        """Whole entries lie behind the place where `expected` should be: what that says of damage, "" if nothing."""
        missing = max(expected, self.behind + 1)
        for header in entries.behind(end):
            if header.number <= self.behind:
                continue  # the tables have it
            if header.synced >= missing or header.number <= expected:
                return (
                    f"the log is damaged: commit {missing} is missing at {place}, and commit {header.number} is there. "
                    f"{LEFT}"
                )
            self.tail.is_torn = True
        return ""


def entry_size(header: Header) -> int:
    """Bytes that an entry takes in its file."""
    return HEADER_SIZE + header.length


def entries_between(held: list[Segment], log_id: bytes, since: int, upto: int) -> Iterator[tuple[Header, bytes, Path]]:
    """The entries behind number `since` up to `upto`, from a log that is in use.  LookupError if one is not there."""
    expected = since + 1
    window = segments.WINDOW if upto > expected else segments.INDEX_STEP
    for segment in held:
        if expected > upto:
            return
        if segment.last and segment.last < expected:
            continue
        with Entries(segment.path, log_id, segment.ordinal, window) as entries:
            if not segment.index:
                segment.index = entries.index()
            found = entries.find(expected, indexed(segment, expected))
            if found is None:
                continue
            for header, _offset, payload in entries.walk(found[1]):
                if header.number != expected or header.number > upto:
                    break
                yield header, payload, segment.path
                expected += 1
    if expected <= upto:
        raise LookupError(f"commit {expected} is not in the log")


def indexed(segment: Segment, number: int) -> int:
    """An offset in the segment at which an entry begins, that of `number` or one before it."""
    at = bisect_right(segment.index, number, key=itemgetter(0))
    return segment.index[at - 1][1] if at else START
