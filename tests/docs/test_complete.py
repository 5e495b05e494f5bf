"""What is not documented fails here; so does what is documented and not there."""

import re
from urllib.parse import unquote

import pytest

from stui_sessions.commands import REGISTRY
from stui_sessions.commands.lists import Summary
from stui_sessions.config import SETTINGS
from stui_sessions.errors import CODES
from stui_sessions.protocol.reference import reference
from stui_sessions.protocol.registry import Command
from tests.docs.markdown import ROOT, anchors, between, links, read, section, table

PROTOCOL = read("protocol.md")
README = read("README.md")
REFERENCE = between(PROTOCOL, "reference")
PROSE = PROTOCOL.replace(REFERENCE, "")
DOCUMENTS = ["README.md", "protocol.md", "examples/README.md"]


def names(text: str) -> set[str]:
    """Every name in code marks, or in the JSON of an example."""
    return set(re.findall(r"`([a-z_][a-z0-9_]*)`", text)) | set(re.findall(r'"([a-z_][a-z0-9_]*)"', text))


def test_the_reference_is_in_step() -> None:
    assert REFERENCE.strip() == reference(REGISTRY).strip(), "run: stui-sessions schema --write protocol.md"


@pytest.mark.parametrize("command", REGISTRY, ids=lambda c: c.name)
def test_every_command_is_documented(command: Command) -> None:
    assert command.name in names(PROSE), "there is no prose about it"
    text = section(REFERENCE, f"`{command.name}`")
    documented = names(text)
    if elsewhere := re.search(r"The result is that of \[`(\w+)`\]", text):
        documented |= names(section(REFERENCE, f"`{elsewhere[1]}`"))
    assert set(command.parameters) <= documented
    assert set(command.result.__struct_fields__) <= documented
    assert set(command.errors) - {"storage_unavailable"} <= documented


def test_every_parameter_and_result_field_is_in_the_prose_too() -> None:
    fields = {field for command in REGISTRY for field in command.result.__struct_fields__}
    fields |= {name for command in REGISTRY for name in command.parameters}
    fields |= set(Summary.__struct_fields__)
    assert fields - names(PROSE) == set()


def test_every_error_code_is_documented() -> None:
    rows = {row[0].strip("`"): row for row in table(section(REFERENCE, "Error codes"))}
    assert set(rows) == set(CODES)
    for name, code in CODES.items():
        assert rows[name][1] == f"`{code.error_type}`"
        assert code.meaning in rows[name]


def test_every_setting_is_documented() -> None:
    documented = names(README)
    assert set(SETTINGS) <= documented
    for name in names(PROSE) & {name.replace("-", "_") for name in SETTINGS}:
        assert name in SETTINGS


def test_defaults_in_the_prose_are_the_real_ones() -> None:
    """Where protocol.md says "(… by default)" after a setting, that is its default."""
    said = re.findall(r"`(\w+)`[^`(]{0,60}\(([^()`]*?) by default\)", PROSE)
    found = {name: value for name, value in said if name in SETTINGS}
    assert len(found) >= 6
    spoken = {"seven days": 604_800, "30 days": 2_592_000, "30 seconds": 30, "1 MiB": 1024**2, "2 MiB": 2 * 1024**2}
    for name, value in found.items():
        assert (spoken[value] if value in spoken else int(value)) == SETTINGS[name].default, name


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_resolve(name: str) -> None:
    found = links(read(name))
    assert found
    for target in found:
        if target.startswith("https://"):
            continue
        path, _, anchor = unquote(target).partition("#")
        file = (ROOT / name).parent / path if path else ROOT / name
        assert file.exists(), target
        if anchor:
            assert anchor in anchors(file.read_text(encoding="utf-8")), target
