"""What a call can raise.

    ClientError
      SessionServerError      the server answered with an error
        SessionError            a rule of session management says no
        SessionNotFound         the session is unknown, expired, closed or deleted
        ServerRuntimeError      the server failed; safe to send again
        RequestError            the request itself is wrong
      ConnectionLost          no answer will come: the connection is gone (also a ConnectionError)
      ReplyTimeout            no answer came in time (also a TimeoutError)
      ProtocolViolation       what came is not a reply of this protocol

After `ConnectionLost` and `ReplyTimeout` nobody knows whether the request was carried out.
"""

from typing import Any


class ClientError(Exception):
    """Everything that a call raises, but for arguments that cannot be sent (TypeError, ValueError)."""


class SessionServerError(ClientError):
    """The server answered with an error.

    `error_type` is one of the protocol's four and decides the subclass, `error_code` (also `code`) is the
    stable name for programs, `message` is for people, `details` is what the code's row in protocol.md says,
    `id` is that of the request on its connection, None when the server could not tell.
    """

    def __init__(
        self,
        error_type: str,
        error_code: str,
        message: str,
        details: dict[str, Any] | None = None,
        id: int | None = None,
    ) -> None:
        # All of them, so that the exception can be copied and pickled.
        super().__init__(error_type, error_code, message, details, id)
        self.error_type = error_type
        self.error_code = error_code
        self.message = message
        self.details = details or {}
        self.id = id

    @property
    def code(self) -> str:
        """The same as `error_code`."""
        return self.error_code

    def __str__(self) -> str:
        return f"{self.message} [{self.error_code or self.error_type}]"


class SessionError(SessionServerError):
    """A rule of session management says no: limits, rates, lists, sizes."""


class SessionNotFound(SessionServerError):
    """The session is unknown, expired, closed or deleted: it cannot be used."""


class ServerRuntimeError(SessionServerError):
    """The server failed or is full; nothing was changed, and it is safe to send the request again."""


class RequestError(SessionServerError):
    """The request itself is wrong."""


class ConnectionLost(ClientError, ConnectionError):
    """The connection ended before the reply came; the request may have been carried out."""


class ReplyTimeout(ClientError, TimeoutError):
    """No reply came in time; the request may have been carried out, and the connection can still be used."""


class ProtocolViolation(ClientError):
    """What the server sent is not a reply of this protocol, or is longer than the client takes."""


_BY_TYPE: dict[str, type[SessionServerError]] = {
    "SessionError": SessionError,
    "SessionNotFound": SessionNotFound,
    "RuntimeError": ServerRuntimeError,
    "Error": RequestError,
}


def server_error(
    error_type: str, error_code: str, message: str, details: dict[str, Any], id: int | None
) -> SessionServerError:
    """The exception for an error reply; of the base class for a type that is not known (yet)."""
    return _BY_TYPE.get(error_type, SessionServerError)(error_type, error_code, message, details, id)
