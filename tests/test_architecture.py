"""The rooms of the house: imports point downwards, the pure parts stay pure, nothing grows too big."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import stui_sessions

ROOT = Path(stui_sessions.__file__).parent
NAME = ROOT.name

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 45

BELOW = {
    "errors": set(),
    "protocol": {"errors"},
    "domain": {"protocol", "errors"},
    "commands": {"domain", "protocol", "errors"},
    "storage": {"domain", "protocol", "errors"},
    "config": {"protocol", "errors"},
    "logs": {"errors"},
    "loops": set(),
    "engine": {"storage", "commands", "domain", "protocol", "errors", "logs"},
    "gates": {"engine", "commands", "domain", "protocol", "errors", "logs"},
    "app": {"gates", "engine", "storage", "commands", "domain", "protocol", "errors", "config", "logs", "loops"},
    "client": {"config", "protocol", "errors"},
    "bench": {"client", "protocol", "errors"},
    "cli": {
        *("app", "gates", "engine", "storage", "client", "bench", "commands", "domain", "protocol"),
        *("errors", "config", "logs", "loops"),
    },
    "__main__": {"cli"},
    "__init__": set(),
}
"""What each room may import."""

PURE = ("protocol", "domain", "commands")
IMPURE_MODULES = {
    *("asyncio", "socket", "select", "selectors", "ssl", "threading", "concurrent", "multiprocessing", "subprocess"),
    *("logging", "structlog", "aiosqlite", "sqlite3", "uvloop", "random", "secrets", "os", "io", "pathlib", "tempfile"),
}
CLOCKS = {
    *("time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns", "process_time", "sleep"),
    *("localtime", "ctime", "now", "utcnow", "today"),
}
"""Names of the standard library that read a clock (`time.strftime` and `time.gmtime` of a given time do not)."""

GENERATED = "Made by `stui-sessions schema --client`"
"""Nobody reads these from end to end."""

FILES = sorted(ROOT.rglob("*.py"))


def label(path: Path) -> str:
    return str(path.relative_to(ROOT))


def room_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imports_of(path: Path) -> Iterator[tuple[int, str]]:
    """The modules that a file imports, by their full names, and where."""
    package = [NAME, *path.relative_to(ROOT).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(filter(None, (base, node.module or "")))
            if module == NAME:
                yield from ((node.lineno, f"{NAME}.{alias.name}") for alias in node.names)
            else:
                yield node.lineno, module


@pytest.mark.parametrize("path", FILES, ids=label)
def test_imports_point_downwards(path: Path) -> None:
    room = room_of(path)
    allowed = BELOW[room] | {room}
    wrong = [
        f"{label(path)}:{line} imports {module}"
        for line, module in imports_of(path)
        if module.startswith(f"{NAME}.") and module.split(".")[1] not in allowed | {"__version__"}
    ]
    assert not wrong


def test_no_two_rooms_may_import_each_other() -> None:
    assert [(a, b) for a in BELOW for b in BELOW[a] if a in BELOW[b]] == []


@pytest.mark.parametrize("path", [p for p in FILES if room_of(p) in PURE], ids=label)
def test_the_pure_parts_know_no_loop_no_file_and_no_log(path: Path) -> None:
    wrong = [
        f"{label(path)}:{line} imports {module}"
        for line, module in imports_of(path)
        if module.split(".")[0] in IMPURE_MODULES
    ]
    assert not wrong


@pytest.mark.parametrize("path", [p for p in FILES if room_of(p) in PURE], ids=label)
def test_the_pure_parts_read_no_clock(path: Path) -> None:
    wrong = [
        f"{label(path)}:{node.lineno} reads {ast.unparse(node)}"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute)
        and node.attr in CLOCKS
        and isinstance(node.value, ast.Name)
        and node.value.id in {"time", "datetime", "date"}
    ]
    wrong += [
        f"{label(path)}:{node.lineno} imports {alias.name}"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and node.module in {"time", "datetime"}
        for alias in node.names
        if alias.name in CLOCKS | {"datetime", "date"}
    ]
    assert not wrong


@pytest.mark.parametrize("path", [p for p in FILES if room_of(p) in PURE], ids=label)
def test_the_pure_parts_never_wait(path: Path) -> None:
    waits = (ast.AsyncFunctionDef, ast.Await, ast.AsyncFor, ast.AsyncWith)
    assert [node.lineno for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, waits)] == []


@pytest.mark.parametrize("path", FILES, ids=label)
def test_no_file_grows_too_big(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= MAX_FILE_LINES or GENERATED in text


@pytest.mark.parametrize("path", FILES, ids=label)
def test_no_function_grows_too_big(path: Path) -> None:
    if GENERATED in path.read_text():
        return
    big = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            length = node.end_lineno - node.lineno + 1
            if length > MAX_FUNCTION_LINES:
                big.append(f"{label(path)}:{node.lineno} {node.name} has {length} lines")
    assert not big
