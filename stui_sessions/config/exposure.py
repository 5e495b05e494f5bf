"""May the server listen there?  Not where other machines can reach it, unless someone said so in as many words."""

import ipaddress
import socket
from collections.abc import Callable

from stui_sessions.config.settings import Settings, SettingsError
from stui_sessions.errors import quote


def resolve_host(host: str) -> list[str]:
    """The numeric addresses behind `host`; an empty one means every address of this machine.  Raises OSError."""
    found = socket.getaddrinfo(host or None, 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def check_exposure(settings: Settings, resolve: Callable[[str], list[str]] = resolve_host) -> list[str]:
    """The TCP addresses to listen on (none without TCP), all of them loopback unless `insecure`.

    Listen on these, not on `settings.host`: a name may resolve differently a moment later.
    Raises `SettingsError`.
    """
    if not settings.tcp:
        return []
    try:
        addresses = resolve(settings.host)
    except (OSError, UnicodeError) as problem:
        # UnicodeError: a label of more than 63 characters, "a..b".
        reason = getattr(problem, "strerror", None) or "not a host name"
        raise SettingsError(
            f"host {quote(settings.host)} cannot be resolved ({reason}); expected an address of this machine"
        ) from problem
    exposed = [address for address in addresses if not _is_loopback(address)]
    if exposed and not settings.insecure:
        raise SettingsError(_refusal(settings.host, exposed))
    return addresses


def _is_loopback(address: str) -> bool:
    ip = ipaddress.ip_address(address)
    mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
    return (mapped or ip).is_loopback


def _refusal(host: str, exposed: list[str]) -> str:
    return (
        f"host {quote(host)} is not loopback ({', '.join(exposed[:4])}): other machines could connect, and there is"
        " no authentication yet, so whoever connects can read and change every session;"
        " listen on 127.0.0.1, or accept this with --insecure"
    )
