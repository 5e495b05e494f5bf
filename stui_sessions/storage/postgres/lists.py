"""Questions to the shared store: pages of lists, references, what is due.

Each answer is as of one moment.  Text that no index helps with is compared here, by
the rules of `domain/finding.py`.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from stui_sessions.domain.entities import LIVE, SESSION, Session
from stui_sessions.domain.finding import (
    MAX_MATCHES,
    Due,
    DueFound,
    DueSession,
    Found,
    Listing,
    Position,
    Reference,
)
from stui_sessions.storage.counting import MAX_INTEGER
from stui_sessions.storage.postgres.channel import Channel, Readers
from stui_sessions.storage.postgres.schema import GRAIN_MS, quoted
from stui_sessions.storage.rows import decode_head, decode_session, decode_text, encode_text

PIECE = 256
"""Rows fetched at once, at most."""

SCAN_LIMIT = 5000
"""Rows that a filtered page looks at, at most; and each kind of reference."""

WHOLE_BYTES = 2 * 1024 * 1024
"""State that a page holds, where it is asked for; one session more may be in it."""

HEAD = "tenant, number, session_id, size, head_crc, head"

_SORTED = {"last_activity": "listed_at", "created_at": "number", "title": "title"}


class Lists:
    """Answers questions from the tables of one schema."""

    def __init__(self, readers: Readers, schema: str) -> None:
        self._readers = readers
        self._table = f"{quoted(schema)}.sessions"

    # -- pages

    async def page(self, listing: Listing, is_live: Callable[[Session], bool]) -> Found:
        """One page.  `is_live` tells whether the end of a session, stored as live, has not come unnoticed."""
        hidden = listing.status == LIVE and not listing.with_state
        limit = SCAN_LIMIT if listing.tags or listing.text else None
        found: list[Session] = []
        reached: Position | None = None
        looked = size = 0
        async with self._moment("listing sessions") as channel:
            async for position, s in self._places(channel, listing):
                if len(found) == listing.limit or looked == limit:
                    return await self._finished(channel, listing, found, reached)
                looked += 1
                reached = position
                if s is None or (hidden and not is_live(s)):
                    continue
                found.append(s)
                size += s.state_bytes + len(s.about.metadata)
                if listing.with_state and size > WHOLE_BYTES:
                    return await self._finished(channel, listing, found, reached)
            return await self._finished(channel, listing, found, None)

    @asynccontextmanager
    async def _moment(self, doing: str) -> AsyncIterator[Channel]:
        """Several statements that see the same."""
        async with self._readers.channel(doing) as channel:
            connection = await channel.open()
            async with connection.transaction(isolation="repeatable_read", readonly=True):
                yield channel

    async def _places(self, channel: Channel, listing: Listing) -> AsyncIterator[tuple[Position, Session | None]]:
        """The places of the list in its order, and what is there; None for what does not belong there."""
        if listing.sort != "last_activity":
            async for stored, s in self._rows(channel, listing, listing.after):
                yield (listing.position(s) if s is not None else stored), s
            return
        # What is stored may lie a grain before what the session says: so much is read ahead, and put in order.
        ahead: list[tuple[Position, Session | None]] = []
        async for stored, s in self._rows(channel, listing, _widened(listing)):
            assert isinstance(stored[0], int)
            ready = _ready(ahead, stored[0], listing.descending)
            for place in ready:
                yield place
            del ahead[: len(ready)]
            place = listing.position(s) if s is not None else stored
            if listing.after is None or listing.is_behind(place, listing.after):
                ahead.append((place, s))
                ahead.sort(key=_position_of, reverse=listing.descending)
        for place in ahead:
            yield place

    async def _rows(
        self, channel: Channel, listing: Listing, after: Position | None
    ) -> AsyncIterator[tuple[Position, Session | None]]:
        """The rows behind a stored position, in the order of what is stored."""
        piece = min(PIECE, listing.limit + 1)
        while True:
            sql, parameters = self._page(listing, after, piece)
            rows = await channel.fetch(sql, *parameters)
            for *head, value in rows:
                tenant, number, session_id, size, crc, data = head
                after = (decode_text(value) if listing.sort == "title" else value, number)
                s = decode_head(tenant, number, 0, session_id, size, crc, data)
                yield after, s if s is not None and listing.matches(s) else None
            if len(rows) < piece:
                return
            piece = PIECE

    def _page(self, listing: Listing, after: Position | None, limit: int) -> tuple[str, list[Any]]:
        """The statement for some rows behind `after`, and its parameters."""
        column = _SORTED[listing.sort]
        parameters: list[Any] = [encode_text(listing.tenant), listing.status]
        where = "tenant = $1 AND status = $2"
        for name, value in (("client_id", listing.client_id), ("user_id", listing.user_id)):
            if value:  # an empty one is left to `matches`: it may be that of all sessions
                parameters.append(encode_text(value))
                where += f" AND {name} = ${len(parameters)}"
        direction, sign = ("DESC", "<") if listing.descending else ("ASC", ">")
        order = ", ".join(f"{name} {direction}" for name in dict.fromkeys((column, "number")))
        if after is not None:
            place, number = after
            parameters += [encode_text(place) if isinstance(place, str) else _bounded(place), _bounded(number)]
            where += f" AND ({column}, number) {sign} (${len(parameters) - 1}, ${len(parameters)})"
        parameters.append(limit)
        sql = f"SELECT {HEAD}, {column} FROM {self._table} WHERE {where} ORDER BY {order} LIMIT ${len(parameters)}"
        return sql, parameters

    async def _finished(
        self, channel: Channel, listing: Listing, found: list[Session], reached: Position | None
    ) -> Found:
        """The page, with the state of its sessions or without."""
        if not listing.with_state:
            return Found(found, reached)
        rows = await channel.fetch(
            f"SELECT tenant, number, 0, session_id, size, head_crc, head, crc, data FROM {self._table} "
            "WHERE number = ANY($1::bigint[])",
            [s.number for s in found],
        )
        whole = {s.number: s for row in rows if (s := decode_session(*row)) is not None}
        return Found([whole[s.number] for s in found if s.number in whole], reached)

    # -- references, and what is due

    async def named(self, reference: Reference, is_live: Callable[[Session], bool]) -> Found:
        """The most recently active that `reference` names, of each kind."""
        r, tenant = reference, encode_text(reference.tenant)
        found: dict[int, Session] = {}
        async with self._moment("looking sessions up") as channel:
            if r.prefix:
                prefix = encode_text(r.prefix)
                where = "session_id >= $2 AND session_id < $3"
                kind = Reference(r.tenant, prefix=r.prefix)
                found |= await self._meant(channel, kind, where, [tenant, prefix, prefix + b"\xff"], is_live)
            if r.external_id:
                where = "external_id = $2 AND external_id <> '' AND status = 0"
                kind = Reference(r.tenant, external_id=r.external_id)
                found |= await self._meant(channel, kind, where, [tenant, encode_text(r.external_id)], is_live)
            if r.title:
                kind = Reference(r.tenant, title=r.title)
                where = "status = 0 AND title = $2"
                found |= await self._meant(channel, kind, where, [tenant, encode_text(r.title)], is_live)
        return Found(sorted(found.values(), key=_activity, reverse=True))

    async def _meant(
        self, channel: Channel, kind: Reference, where: str, parameters: list[Any], is_live: Callable[[Session], bool]
    ) -> dict[int, Session]:
        sql = f"SELECT {HEAD} FROM {self._table} WHERE tenant = $1 AND {where} LIMIT {SCAN_LIMIT}"
        heads = [
            decode_head(tenant, number, 0, session_id, size, crc, head)
            for tenant, number, session_id, size, crc, head in await channel.fetch(sql, *parameters)
        ]
        meant = [s for s in heads if s is not None and kind.matches(s) and (kind.prefix or is_live(s))]
        return {s.number: s for s in sorted(meant, key=_activity, reverse=True)[: MAX_MATCHES + 1]}

    async def due(self, question: Due) -> DueFound:
        """Sessions that may be due, by the end that is stored."""
        rows = await self._readers.fetch(
            "looking for what is due",
            f"SELECT tenant, session_id, due_at, number, size FROM {self._table} "
            "WHERE status = $1 AND due_at <= $2 AND (due_at, number) > ($3, $4) ORDER BY due_at, number LIMIT $5",
            *(question.status, _bounded(question.before), *map(_bounded, map(int, question.after)), question.limit),
        )
        return DueFound(
            [
                DueSession((tenant.decode(), SESSION, session_id.decode()), due_at, number, size)
                for tenant, session_id, due_at, number, size in rows
            ]
        )


def _widened(listing: Listing) -> Position | None:
    """Where to begin among what is stored, so that nothing behind `after` is missed."""
    if listing.after is None:
        return None
    value = listing.after[0]
    assert isinstance(value, int)
    return (value, MAX_INTEGER) if listing.descending else (value - GRAIN_MS, -1)


def _ready(ahead: list[tuple[Position, Session | None]], reached: int, descending: bool) -> list[Any]:
    """Those that nothing can come before any more, now that rows stored at `reached` are read."""
    count = 0
    for (value, _number), _ in ahead:
        assert isinstance(value, int)
        if not (value >= reached + GRAIN_MS if descending else value < reached):
            break
        count += 1
    return ahead[:count]


def _bounded(number: int) -> int:
    """The nearest number that the database knows."""
    return max(-MAX_INTEGER - 1, min(number, MAX_INTEGER))


def _position_of(place: tuple[Position, Session | None]) -> Position:
    return place[0]


def _activity(s: Session) -> tuple[int, int]:
    return s.active_at, s.number
