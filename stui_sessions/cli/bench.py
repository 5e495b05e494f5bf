"""`stui-sessions bench`: how fast is the server that runs there?

Exit codes: 0 when all went well, 1 when there were error replies, 2 when it could not ask.
"""

import sys

import click
import msgspec

from stui_sessions.bench.report import Report
from stui_sessions.bench.requests import KINDS, parse_mix
from stui_sessions.bench.run import Bench, BenchPlan
from stui_sessions.cli.target import Seconds, Unable, chosen_target, target_options, unreachable
from stui_sessions.cli.words import counted
from stui_sessions.client.errors import ClientError, SessionServerError
from stui_sessions.config import Address
from stui_sessions.loops import run_quickly

HELP = f"""Measure a running server with real requests over real connections.

Each connection sends --pipeline requests in one write, waits for all their replies, and sends the next; the
requests of one such burst are of one kind, drawn from --mix. It works on sessions of its own (clients
"bench-..."), which are removed at the end, also after Ctrl-C. Kinds: {", ".join(KINDS)}.

The load generator is one process of Python and shares the machine with the server. Where it uses a whole core,
what is measured is itself: the report says so. Figures differ between machines; compare on one.

Exit code: 0 when all went well, 1 when there were error replies, 2 when it could not ask, 130 after Ctrl-C."""

_SIZE = click.IntRange(0, 64 * 1024 * 1024)


class ProgressLine:
    """One line on stderr that is written over and over; nothing where stderr is no terminal."""

    def __init__(self) -> None:
        self._shown = sys.stderr.isatty()

    def say(self, text: str) -> None:
        if self._shown:
            click.echo(f"\r\x1b[K{text}", err=True, nl=False)


def _mix(context: click.Context, option: click.Parameter, value: str) -> dict[str, float]:
    try:
        return parse_mix(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@click.command(help=HELP)
@click.option("--connections", type=click.IntRange(1, 100_000), default=50, show_default=True, help="Connections.")
@click.option(
    "--pipeline",
    type=click.IntRange(1, 10_000),
    default=1,
    show_default=True,
    help="Requests in flight on each connection.",
)
@click.option("--duration", type=Seconds(), default=5.0, show_default=True, help="Seconds to measure.")
@click.option(
    "--sessions", type=click.IntRange(1, 10_000_000), default=1000, show_default=True, help="Sessions to work on."
)
@click.option(
    "--mix", callback=_mix, metavar="KIND=WEIGHT,...", default="update=1", show_default=True, help="What to ask."
)
@click.option("--state-bytes", type=_SIZE, default=200, show_default=True, help="Size of the state that is saved.")
@click.option("--timeout", type=Seconds(), default=30.0, show_default=True, help="Seconds that a reply may take.")
@click.option("--json", "as_json", is_flag=True, help="The report as one line of JSON.")
@target_options
@click.pass_context
def bench(
    context: click.Context,
    connections: int,
    pipeline: int,
    duration: float,
    sessions: int,
    mix: dict[str, float],
    state_bytes: int,
    timeout: float,
    as_json: bool,
    host: str | None,
    port: int | None,
    unix: str | None,
) -> None:
    """Run it and print the report."""
    target = chosen_target(host, port, unix)
    plan = BenchPlan(
        host=target.host,
        port=target.port,
        unix=target.unix,
        connections=connections,
        pipeline=pipeline,
        duration=duration,
        sessions=sessions,
        mix=mix,
        state_bytes=state_bytes,
        timeout=timeout,
    )
    context.exit(_run(plan, target, as_json))


def _run(plan: BenchPlan, target: Address, as_json: bool) -> int:
    running = Bench(plan, ProgressLine().say)
    try:
        report = _measured(running)
    except SessionServerError as error:
        click.echo(f"stui-sessions: {target}: {error}", err=True)
        return 1
    except ClientError as error:
        raise Unable(f"{target}: {error}") from None
    except (OSError, UnicodeError) as error:
        raise unreachable(target, error) from None
    if report is not None:
        _show(report, plan, target, as_json)
    if running.interrupted:
        # As the shell says it of a command that Ctrl-C ended.
        return 130
    return 1 if report is not None and report.errors else 0


def _measured(running: Bench) -> Report | None:
    try:
        return run_quickly(running.run())
    finally:
        running.say("")
        if left := running.left_behind:
            click.echo(f"stui-sessions: {counted(left, 'session')} could not be closed; they will expire", err=True)


def _show(report: Report, plan: BenchPlan, target: Address, as_json: bool) -> None:
    if as_json:
        settings = {k: v for k, v in msgspec.structs.asdict(plan).items() if k not in ("host", "port", "unix")}
        document = {"target": str(target), "settings": settings, **msgspec.to_builtins(report)}
        click.echo(msgspec.json.encode(document))
        return
    click.echo(
        f"{target}: {counted(plan.connections, 'connection')} with {plan.pipeline:,} in flight each, "
        f"{counted(plan.sessions, 'session')}, {counted(plan.state_bytes, 'byte')} of state, {report.seconds:.1f} s\n"
    )
    click.echo(report.text(plan.pipeline))
