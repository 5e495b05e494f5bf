"""Who asks.  Every decision sees its caller, so that authentication adds callers and changes no rule."""

from msgspec import Struct


class Caller(Struct, frozen=True):
    """The one a request is decided for."""

    name: str
    """What records say of who did it."""
    tenant: str = ""
    address: str = ""
    """Where it comes from, if that can be told: an IP address.  Only for the rate of those who name nothing else."""
    connection: int = 0
    """The number of its connection; 0 for the server itself."""


ANYONE_LOCAL = Caller("local")
"""Until there is authentication: whoever can reach the socket may see everything."""

SYSTEM = Caller("system")
"""The server itself: the sweeper, and what records uses."""
