"""The reference part of protocol.md, made from the registry."""

from collections.abc import Iterable
from typing import Any

import msgspec

from stui_sessions.errors import CODES
from stui_sessions.protocol.definitions import Schema, name_in
from stui_sessions.protocol.parameter import any_of
from stui_sessions.protocol.registry import UNIVERSAL_ERRORS, Command, Registry
from stui_sessions.protocol.schema import NULL, alternatives, contract

Definitions = dict[str, Schema]

BEGIN = "<!-- reference: begin -->"
END = "<!-- reference: end -->"


def write_reference(registry: Registry, text: str) -> str:
    """`text` (protocol.md) with what is between the two markers written anew; raises ValueError without them."""
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ValueError(f"the text has no place for the reference: one line {BEGIN} and, below it, one {END}")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{reference(registry)}\n{END}{after}"


def reference(registry: Registry) -> str:
    """The commands and the error codes, in Markdown; headings begin at the third level."""
    definitions = contract(registry)["$defs"]
    told: dict[str, str] = {}
    sections = [_command(command, definitions, told) for command in registry]
    return "\n\n".join([*sections, _codes()]) + "\n"


def _command(command: Command, definitions: Definitions, told: dict[str, str]) -> str:
    """A command's section.  `told`: the types that have a table already, and the commands under which it stands."""
    parts = [f"### `{command.name}`", command.summary, _parameters(command, definitions)]
    parts += _inner(command, command.params.__name__, definitions, told)
    parts += _result(command, definitions, told)
    own = "".join(f"`{code}`, " for code in command.errors if code not in UNIVERSAL_ERRORS)
    parts.append(f"Errors: {own}and [those that any request can get](#error-codes).".replace(": and", ":"))
    return "\n\n".join(parts)


def _result(command: Command, definitions: Definitions, told: dict[str, str]) -> list[str]:
    """The tables of the result and of the items of its arrays; where one stands already, a pointer to it."""
    name = command.result.__name__
    if name in told:
        return [f"The result is that of {_link(told[name])}."]
    told[name] = command.name
    return [_fields("Result", definitions[name]), *_inner(command, name, definitions, told)]


def _inner(command: Command, name: str, definitions: Definitions, told: dict[str, str]) -> list[str]:
    """The tables of the objects in the fields of a type, and of those in theirs."""
    parts = []
    for field, schema in definitions[name]["properties"].items():
        item = name_in(schema) or _items(schema)
        if not item:
            continue
        which = f"Each of `{field}`" if _items(schema) else f"`{field}`"
        if item in told:
            parts.append(f"{which} is what {_link(told[item])} answers.")
        else:
            told[item] = command.name
            parts += [_fields(which, definitions[item]), *_inner(command, item, definitions, told)]
    return parts


def _link(command: str) -> str:
    return f"[`{command}`](#{command})"


def _parameters(command: Command, definitions: Definitions) -> str:
    properties = definitions[command.params.__name__]["properties"]
    if not properties:
        return "No parameters."
    rows = (
        (
            f"`{name}`",
            type_text(schema),
            _required(command, name),
            _value(schema["default"]) if "default" in schema else "",
            schema["description"],
        )
        for name, schema in properties.items()
    )
    return _table(("Parameter", "Type", "Required", "Default", "Meaning"), rows)


def _required(command: Command, name: str) -> str:
    for names in command.one_of:
        if name in names:
            return "this or " + any_of([f"`{other}`" for other in names if other != name])
    return "yes" if name in command.required else "no"


def _fields(title: str, schema: Schema) -> str:
    always = schema["required"]
    rows = (
        (f"`{name}`", type_text(field) + ("" if name in always else ", or left out"), field["description"])
        for name, field in schema["properties"].items()
    )
    return _table((title, "Type", "Meaning"), rows)


def _codes() -> str:
    rows = (
        (f"`{name}`", f"`{code.error_type}`", "yes" if name in UNIVERSAL_ERRORS else "", code.meaning, code.details)
        for name, code in CODES.items()
    )
    table = _table(("`error_code`", "`error_type`", "Any request", "Meaning", "`details`"), rows)
    return f"### Error codes\n\nThose marked in the third column can be the answer to any request.\n\n{table}"


def type_text(schema: Schema) -> str:
    """The type and limits of a value, for people: `string of 1 to 8192 characters`."""
    texts = [_one_type(one) for one in alternatives(schema)]
    if NULL in schema.get("anyOf", ()):
        texts.append("null")
    # A limit that ends in "or more" would run into what follows.
    return (", or " if any("," in text for text in texts) else " or ").join(texts)


def _one_type(schema: Schema) -> str:
    if "enum" in schema:
        return any_of([_value(value) for value in schema["enum"]])
    if name_in(schema):
        return "object"
    if schema["type"] == "array":
        return _array(schema)
    text: str = schema["type"]
    if "maxLength" in schema:
        text += f" of {schema.get('minLength', 0)} to {schema['maxLength']} characters"
    if "minimum" in schema and "maximum" in schema:
        text += f" from {schema['minimum']} to {schema['maximum']}"
    elif "minimum" in schema:
        text += f", {schema['minimum']} or more"
    return text


def _array(schema: Schema) -> str:
    """`array of up to 32 strings of 1 to 64 characters`."""
    items = schema["items"]
    limit = f"up to {schema['maxItems']} " if "maxItems" in schema else ""
    if "enum" in items:
        return f"array of {limit}of {_one_type(items)}" if limit else f"array of {_one_type(items)}"
    kind, of, rest = ("object", "", "") if _items(schema) else _one_type(items).partition(" of ")
    return f"array of {limit}{kind}s{of}{rest}"


def _items(schema: Schema) -> str:
    """The name of the type of an array's items; empty if they are no objects of the table."""
    return name_in(schema.get("items", {}))


def _value(value: Any) -> str:
    return f"`{msgspec.json.encode(value).decode()}`"


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines)
