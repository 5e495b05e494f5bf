"""A database at a URL: what is one, what is wrong with it, and how it may be shown.

Everything that repeats what `db` says goes through `shown_url`: no log, error or process list may hold a password.
"""

import re
from urllib.parse import parse_qsl, unquote_plus

HIDDEN = "***"

_URL = re.compile(r"postgres(?:ql)?://", re.IGNORECASE)
_KEYWORDS = re.compile(r"(?:^|\s)(?:host|hostaddr|port|dbname|user|password|service)\s*=", re.IGNORECASE)
# One slash: pathlib makes one of two.
_ANY_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/|postgres(?:ql)?:", re.IGNORECASE)
# Of a URL, or of the keywords that libpq takes as well.
_PARAMETER = re.compile(r"(?:\A|[?&;\s])([^=&;?\s]*)\s*=")

TAKEN = (
    *("host", "port", "user", "password", "dbname", "passfile", "service", "target_session_attrs", "connect_timeout"),
    *("application_name", "options", "sslmode", "sslrootcert", "sslcert", "sslkey", "sslpassword", "sslcrl"),
    *("sslnegotiation", "ssl_min_protocol_version", "ssl_max_protocol_version", "krbsrvname", "gsslib"),
)
"""The parameters of a URL.  Any other would be sent to the database as a setting, and be refused in odd words."""

_CHOICES = {
    "sslmode": ("disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
    # The server writes: a standby is of no use to it.
    "target_session_attrs": ("read-write", "primary", "any"),
}


def is_url(db: str) -> bool:
    """Whether the setting `db` names a PostgreSQL and not a file."""
    return _URL.match(db) is not None


def has_password(db: str) -> bool:
    """Whether there is a password in the URL `db`."""
    return is_url(db) and shown_url(db) != db


def shown_url(text: str) -> str:
    """`text` with `***` in the place of a password.

    It need not be a good URL, nor be one alone: a slip must not show the password either, so this hides too much
    rather than too little.
    """
    parameter = next((found.end() for found in _PARAMETER.finditer(text) if _is_secret(found[1])), len(text))
    end = HIDDEN if parameter < len(text) else ""
    if scheme := _ANY_SCHEME.search(text):
        # A password may hold "@", "/" or "?" that should have been written otherwise: up to the last "@".
        colon, at = text.find(":", scheme.end()), text.rfind("@")
        if parameter < at and scheme.end() <= colon < parameter:
            return text[: colon + 1] + HIDDEN
        if scheme.end() <= colon < at - 1:
            return text[: colon + 1] + HIDDEN + text[at:parameter] + end
    return text[:parameter] + end


def _is_secret(name: str) -> bool:
    name = unquote_plus(name).lower()
    return name != "passfile" and any(word in name for word in ("pass", "pwd", "secret"))


def expected_url(db: str) -> str:
    """What `db` should have been, where it was meant as a URL and is no good one; else empty."""
    if not is_url(db):
        if re.match(r"\s*(?:[A-Za-z][A-Za-z0-9+.-]*://|postgres(?:ql)?:)", db, re.IGNORECASE):
            return "a path, or a URL that begins with postgresql://"
        return "a path, or a URL such as postgresql://USER@HOST/NAME" if _KEYWORDS.search(db) else ""
    if not db.isprintable() or "#" in db:
        return "no control characters, and %23 for # in a name or password"
    place, _, query = db[db.index("://") + 3 :].partition("?")
    return _expected_place(place) or _expected_parameters(query)


def _expected_place(place: str) -> str:
    """`place` is the part of a URL between its scheme and its parameters."""
    authority, _, name = place.partition("/")
    hosts = authority.rpartition("@")[2]
    if "@" in authority.removesuffix(f"@{hosts}") or "@" in name:
        return "%40 for @, %3A for : and %2F for / in a name or password"
    for host in hosts.split(",") if hosts else ():
        found = re.fullmatch(r"(?:\[[0-9A-Za-z:.%]+\]|[^\[\]:\s]+)(?::([0-9]{1,5}))?", host)
        if found is None or not 0 < int(found[1] or 1) <= 65_535:
            return (
                "USER@HOST:PORT, several hosts separated by commas, and %40 for @, %3A for : and %2F for / in a name"
                " or password"
            )
    return ""


def _expected_parameters(query: str) -> str:
    try:
        given = parse_qsl(query, keep_blank_values=True, strict_parsing=True) if query else []
    except ValueError:
        return "name=value behind the ?, separated by &, and %26 for & in a value"
    for name, value in given:
        if name not in TAKEN:
            return "no parameter but " + ", ".join(TAKEN)
        if name in _CHOICES and value not in _CHOICES[name]:
            return f"{name} to be one of " + ", ".join(_CHOICES[name])
        if name == "connect_timeout" and re.fullmatch("[1-9][0-9]{0,3}", value) is None:
            return "connect_timeout to be a number of seconds from 1 to 9999"
        if name in ("host", "port") and not value:
            return f"a value for {name}, or no such parameter"
        if name == "port" and not all(re.fullmatch("[0-9]{1,5}", port) for port in value.split(",")):
            return "port to be a number, or one for each host, separated by commas"
    return ""
