"""The requests of a benchmark: pre-built text, so that the load generator has little to do."""

import random
from collections.abc import Sequence

import msgspec

KINDS: dict[str, tuple[str, str]] = {
    "update": ("update_session_state", "session_id"),
    "restore": ("restore_session", "session_id"),
    "info": ("get_session_info", "session_id"),
    "list": ("list_client_sessions", "client_id"),
    "statistics": ("get_session_statistics", ""),
    "ping": ("ping", ""),
}
"""What a mix can consist of: the command, and the parameter that names its subject."""

_VARIANTS = 16
"""Different states that updates save, so that an update changes something."""


class Kind:
    """One kind of request of a mix: makes the text of bursts."""

    def __init__(self, name: str, subjects: Sequence[str], state_bytes: int, rng: random.Random) -> None:
        command, parameter = KINDS[name]
        self.name = name
        self._rng = rng
        if not parameter:
            subjects, self._head = [""], f'{{"id":1,"command":"{command}"'.encode()
            self._tails = [b"}\n"]
        else:
            self._head = f'{{"id":1,"command":"{command}","parameters":{{"{parameter}":'.encode()
            self._tails = [b"}}\n"]
        if name == "update":
            self._tails = [b',"state_data":' + state_text(state_bytes, rng) + b"}}\n" for _ in range(_VARIANTS)]
        self._subjects = [msgspec.json.encode(subject) if subject else b"" for subject in subjects]

    def burst(self, size: int) -> bytes:
        """The lines of `size` requests about random subjects."""
        tail = self._rng.choice(self._tails)
        return self._head + (tail + self._head).join(self._rng.choices(self._subjects, k=size)) + tail


def state_text(size: int, rng: random.Random) -> bytes:
    """A state object whose JSON text has `size` bytes (11 at least)."""
    frame = b'{"data":""}'
    letters = "".join(rng.choices("abcdefghijklmnopqrstuvwxyz0123456789", k=max(0, size - len(frame))))
    return frame[:-2] + letters.encode() + frame[-2:]


def parse_mix(text: str) -> dict[str, float]:
    """`update=7,info=2,restore=1` as weights by kind; raises ValueError with the reason."""
    weights: dict[str, float] = {}
    for part in text.split(","):
        name, _, weight = (piece.strip() for piece in part.partition("="))
        if name not in KINDS:
            raise ValueError(f'"{name}" is no kind of request; there are {", ".join(KINDS)}')
        if name in weights:
            raise ValueError(f"{name} is named twice")
        try:
            weights[name] = float(weight or 1)
        except ValueError:
            raise ValueError(f'the weight of {name} is a number, not "{weight}"') from None
        if not 0 < weights[name] <= 1e9:
            raise ValueError(f"the weight of {name} is a number above 0")
    return weights
