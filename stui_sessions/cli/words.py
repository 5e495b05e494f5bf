"""Words of what the commands say."""


def counted(count: int, noun: str) -> str:
    """`1 session`, `2,000 sessions`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
