"""Who asks.  Every decision takes the caller, so that authentication adds callers and changes no rule."""

from msgspec import Struct


class Caller(Struct, frozen=True):
    """The one a request is decided for."""

    kind: str


ANYONE_LOCAL = Caller("local")
"""Until there is authentication: whoever can reach the socket may see everything."""
