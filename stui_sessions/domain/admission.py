"""Who may create sessions, how fast, and how large they may be."""

from stui_sessions.domain.draft import Bucket, Draft
from stui_sessions.errors import Refusal, quote


def check_size(draft: Draft, size: int) -> None:
    """Raise Refusal if the four state objects together may not have so many bytes."""
    limit = draft.world.rules.max_state_bytes
    if size > limit:
        raise Refusal(
            "state_too_large",
            f"the four state objects together would be {size} bytes, and may be {limit}",
            limit=limit,
            size=size,
        )


def check_admitted(draft: Draft, client_id: str) -> None:
    """Raise Refusal if the lists keep this client out."""
    if not draft.world.lists.admits(client_id):
        who = f"the client {quote(client_id)}" if client_id else "sessions without a client_id"
        raise Refusal("client_not_allowed", f"this server does not admit {who}")


def bucket(draft: Draft, user_id: str, client_id: str) -> Bucket:
    """Whose rate of creation a new session counts for."""
    if client_id:
        return "client", user_id, client_id
    return ("user", user_id) if user_id else ("address", draft.caller.address)


def check_rate(draft: Draft, bucket: Bucket) -> None:
    """Raise Refusal if sessions are created too fast."""
    rate = draft.world.rate
    wait = rate.seconds_to_wait(bucket, draft.now.monotonic)
    if wait:
        raise Refusal(
            "create_rate_exceeded",
            f"the {bucket[0]} {quote(bucket[-1])} may create {rate.per_minute} sessions a minute; "
            f"try again in {wait} s",
            limit=rate.per_minute,
            retry_after=wait,
        )
