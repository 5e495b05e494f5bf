"""`stui-sessions call`: one request, its reply as JSON.

Exit codes: 0 for a success, 1 for an error reply, 2 when it could not ask.
"""

import contextlib
import socket
import sys
import time

import click
import msgspec
from click.shell_completion import CompletionItem

from stui_sessions.cli.parameters import Parameters
from stui_sessions.cli.target import Seconds, Unable, chosen_target, connected, reason, target_options
from stui_sessions.client.core import MAX_REPLY_BYTES, Reply, read_reply, request_line
from stui_sessions.client.errors import ProtocolViolation
from stui_sessions.commands import REGISTRY
from stui_sessions.config import Address
from stui_sessions.protocol.framing import OVERFLOW, LineFramer
from stui_sessions.protocol.schema import parameter_schemas

HELP = """Send one request and print the reply: one line of JSON, exactly as the server wrote it.

\b
  stui-sessions call create_session client_id=me
  stui-sessions call update_session_state session_id=$ID state_data='{"line": 42}'
  stui-sessions call restore_session session_id=$ID | jq .result.session_state
  stui-sessions call list_sessions client_id=me tags='["draft"]' limit=5
  stui-sessions call update_session session_id=$ID pin=true title:=null

A value has the type that its parameter has in the protocol: strings are taken as they are; integers, true and
false, arrays and objects are JSON. key:=VALUE is JSON whatever the type, such as null. key=@FILE takes the value
from a file and key=@- from stdin (a string without the newline at its end); key=@@home is the string "@home".
Commands and parameters that are not known here are sent all the same, as strings unless key:= says otherwise: the
server says what is wrong with them, or is newer and knows them.

Exit code: 0 for a success, 1 for an error reply, 2 when it could not ask (usage, no connection, time-out)."""

EPILOG = """\b
Completion of commands and parameters, for ~/.bashrc (zsh: zsh_source; fish: … fish_source … | source):
  eval "$(_STUI_SESSIONS_COMPLETE=bash_source stui-sessions)"
"""

_ID = 1


def ask(target: Address, line: bytes, seconds: float) -> tuple[bytes, Reply]:
    """Send a request's line and wait for its reply, `seconds` in all; the reply's line too.  Raises Unable."""
    deadline = time.monotonic() + seconds
    with connected(target, seconds) as sock:
        try:
            # A server that refuses (too many connections) may have closed already; what it said can still be read.
            with contextlib.suppress(ConnectionError):
                sock.sendall(line)
            return _receive(sock, deadline)
        except TimeoutError:
            raise Unable(f"{target} did not answer within {seconds:g} s") from None
        except (OSError, ProtocolViolation) as error:
            raise Unable(f"{target}: {reason(error)}") from None


def _receive(sock: socket.socket, deadline: float) -> tuple[bytes, Reply]:
    framer = LineFramer(MAX_REPLY_BYTES)
    while True:
        sock.settimeout(max(0.001, deadline - time.monotonic()))
        data = sock.recv(1 << 18)
        if not data:
            raise ProtocolViolation("the connection ended without a reply")
        for line in framer.feed(data):
            if line is OVERFLOW:
                raise ProtocolViolation(f"the reply is longer than {MAX_REPLY_BYTES} bytes")
            reply = read_reply(line)
            if reply.id in (_ID, None):
                return line, reply


def _complete_command(context: click.Context, option: click.Parameter, incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(c.name, help=c.summary) for c in REGISTRY if c.name.startswith(incomplete)]


def _complete_parameter(context: click.Context, option: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """`key=` for the parameters that are not there yet, and the values of those that have a few.

    bash takes `=` for the end of a word: `mode=me` arrives as "mode", "=", "me", and after `mode=`, of which
    click drops the sign, there is a lone "mode" (which is never right, so that it can be nothing else).
    """
    before = list(context.params.get("parameters") or ())
    command = context.params.get("command") or ""
    if command not in REGISTRY:
        return []
    schemas = parameter_schemas(REGISTRY[command])
    name, equals, value = incomplete.partition("=")
    if incomplete == "" and before and before[-1] in schemas:
        return _values(schemas[before[-1]], "", "")
    if before[-1:] == ["="]:
        return _values(schemas.get((before[-2:-1] or [""])[0], {}), "", incomplete)
    if equals:
        return _values(schemas.get(name, {}), f"{name}=", value)
    given = {argument.partition("=")[0].removesuffix(":") for argument in before}
    return [
        CompletionItem(f"{name}=", help=schema["description"])
        for name, schema in schemas.items()
        if name.startswith(incomplete) and name not in given
    ]


def _values(schema: dict[str, object], prefix: str, incomplete: str) -> list[CompletionItem]:
    values = ("true", "false") if schema.get("type") == "boolean" else schema.get("enum", ())
    assert isinstance(values, list | tuple)
    return [CompletionItem(prefix + value) for value in values if value.startswith(incomplete)]


@click.command(help=HELP, epilog=EPILOG)
@click.argument("command", shell_complete=_complete_command)
@click.argument("parameters", nargs=-1, metavar="[KEY=VALUE]...", shell_complete=_complete_parameter)
@click.option(
    "--json",
    "json_object",
    metavar="OBJECT",
    help="Parameters as one JSON object; also @FILE and @-.",
)
@click.option("--pretty", is_flag=True, help="Indent the reply; every value keeps its text.")
@click.option(
    "--timeout",
    type=Seconds(),
    default=30.0,
    show_default=True,
    help="Seconds to wait for the connection and the reply together.",
)
@target_options
@click.pass_context
def call(
    context: click.Context,
    command: str,
    parameters: tuple[str, ...],
    json_object: str | None,
    pretty: bool,
    timeout: float,
    host: str | None,
    port: int | None,
    unix: str | None,
) -> None:
    """Ask once."""
    target = chosen_target(host, port, unix)
    gathered = Parameters(command)
    if json_object is not None:
        gathered.add_object(json_object)
    for parameter in parameters:
        gathered.add(parameter)
    try:
        request = request_line(_ID, command, gathered.encode())
    except UnicodeEncodeError:
        raise click.UsageError("the command or the name of a parameter is not UTF-8") from None
    line, reply = ask(target, request, timeout)
    sys.stdout.buffer.write((msgspec.json.format(line, indent=2) if pretty else line) + b"\n")
    context.exit(0 if reply.status == "success" else 1)
