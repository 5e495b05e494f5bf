"""Who asks.  Every decision takes the caller, so that authentication adds callers and changes no rule."""

from msgspec import Struct


class Caller(Struct, frozen=True):
    """The one a request is decided for."""

    kind: str
    address: str = ""
    """Where it comes from, if that can be told: an IP address.  Only for the rate of those who name nothing else."""


ANYONE_LOCAL = Caller("local")
"""Until there is authentication: whoever can reach the socket may see everything."""
