"""The reference part of protocol.md, made from the table."""

from collections.abc import Iterable
from typing import Any

from stui_sessions.errors import CODES
from stui_sessions.protocol.commands import COMMANDS, UNIVERSAL_ERRORS, Command
from stui_sessions.protocol.schema import Schema, contract

BEGIN = "<!-- reference: begin -->"
END = "<!-- reference: end -->"


def write_reference(text: str) -> str:
    """`text` (protocol.md) with what is between the two markers written anew; raises ValueError without them."""
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ValueError(f"the text has no place for the reference: one line {BEGIN} and, below it, one {END}")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{reference()}\n{END}{after}"


def reference() -> str:
    """The commands and the error codes, in Markdown; headings begin at the third level."""
    definitions = contract()["$defs"]
    sections = [_command(command, definitions) for command in COMMANDS.values()]
    return "\n\n".join([*sections, _codes()]) + "\n"


def _command(command: Command, definitions: dict[str, Schema]) -> str:
    result = definitions[command.result.__name__]
    parts = [f"### `{command.name}`", command.summary, _parameters(command, definitions), _fields("Result", result)]
    parts += [
        _fields(f"Each of `{name}`", definitions[item])
        for name, field in result["properties"].items()
        if (item := _items(field))
    ]
    own = "".join(f"`{code}`, " for code in command.errors if code not in UNIVERSAL_ERRORS)
    parts.append(f"Errors: {own}and [those that any request can get](#error-codes).".replace(": and", ":"))
    return "\n\n".join(parts)


def _parameters(command: Command, definitions: dict[str, Schema]) -> str:
    properties = definitions[command.params.__name__]["properties"]
    if not properties:
        return "No parameters."
    rows = (
        (
            f"`{name}`",
            type_text(schema),
            "yes" if name in command.required else "no",
            _value(schema["default"]) if "default" in schema else "",
            schema["description"],
        )
        for name, schema in properties.items()
    )
    return _table(("Parameter", "Type", "Required", "Default", "Meaning"), rows)


def _fields(title: str, schema: Schema) -> str:
    rows = ((f"`{name}`", type_text(field), field["description"]) for name, field in schema["properties"].items())
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
    if "enum" in schema:
        return " or ".join(_value(value) for value in schema["enum"])
    if _items(schema):
        return "array of objects"
    text: str = schema["type"]
    if "maxLength" in schema:
        text += f" of {schema.get('minLength', 0)} to {schema['maxLength']} characters"
    if "minimum" in schema:
        text += f", {schema['minimum']} or more"
    return text


def _items(schema: Schema) -> str:
    """The name of the type of an array's items; empty if they are no objects of the table."""
    reference: str = schema.get("items", {}).get("$ref", "")
    return reference.rpartition("/")[2]


def _value(value: Any) -> str:
    return f'`"{value}"`' if isinstance(value, str) else f"`{value}`"


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines)
