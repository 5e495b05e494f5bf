"""The client's methods and result types as source text, made from the registry.

`stui-sessions schema --client` writes them into the package; a test compares what is
there.  What a method is called, takes and returns is what users write programs with:
parameters by position only where the row says so, everything else by name.
"""

from collections.abc import Iterable
from textwrap import wrap
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from msgspec import NODEFAULT, Meta, Raw, Struct, UnsetType
from msgspec.structs import FieldInfo, fields

from stui_sessions.protocol.fields import NAMING
from stui_sessions.protocol.parameter import Parameter
from stui_sessions.protocol.registry import Command, Registry
from stui_sessions.protocol.schema import parameter_schemas
from stui_sessions.protocol.schemadiff import LEFT_OUT_WITH

WIDTH = 120

_NOTICE = "Made by `stui-sessions schema --client` from the registry of commands: not to be edited."

_METHODS_HEAD = f'''"""The commands as methods: one for each, with its parameters by name.

None stands for a parameter that is left out.  What names the subject (a session's id, a client's) may be
given by position; everything else is given by name.  Of the fields of a result that may be left out, those
that were are `msgspec.UNSET`, which is false.

{_NOTICE}
"""
# fmt: off
# ruff: noqa: ASYNC109, I001  (a session's timeout is no time-out of a call)

from collections.abc import Sequence
from typing import Any, Literal

from stui_sessions.client.arguments import DEFAULT, Asker, Remove, Seconds, State
'''

_RESULTS_HEAD = f'''"""What calls return: the results of the commands, with the state objects decoded.

Numbers become Python's: `1.10` is 1.1 and `-0` is 0 (an integer of 40 digits stays exact);
`Client.call_raw` keeps their text.

{_NOTICE}
"""
# fmt: off
# ruff: noqa: RUF022

from typing import Any, Literal

from msgspec import UNSET, Raw, Struct, UnsetType, field

JsonObject = dict[str, Any]
'''


# -- methods


def methods(registry: Registry) -> str:
    """The text of `client/commands.py`."""
    results = sorted({command.result.__name__ for command in registry})
    imports = _block("from stui_sessions.client.results import (", results, ")")
    head = f"{_METHODS_HEAD}{imports}\n\n\nclass Commands(Asker):\n"
    doc = '    """Every command; `Client` adds the way to ask."""\n'
    return head + doc + "".join(f"\n{_method(command)}" for command in registry)


def _method(command: Command) -> str:
    parameters = _in_order(command)
    by_name = [_argument(p) for p in parameters if p.name not in command.by_position]
    arguments = ["self", *(_argument(command.parameters[name]) for name in command.by_position)]
    arguments += ["*", *by_name, "reply_timeout: Seconds = DEFAULT"]
    result = command.result.__name__
    head = _block(f"    async def {command.name}(", arguments, f"    ) -> {result}:", indent=8)
    pairs = [f'"{p.name}": {p.name}' for p in parameters]
    names = _block("        parameters: dict[str, Any] = {", pairs, "        }", indent=12)
    call = f'        return await self._get({result}, "{command.name}", parameters, reply_timeout)\n'
    return f"{head}\n{_docstring(command)}{names}\n{call}"


def _in_order(command: Command) -> list[Parameter]:
    """The parameters, those that are needed first."""
    return sorted(command.parameters.values(), key=lambda p: not p.required)


def _argument(parameter: Parameter) -> str:
    type = _parameter_type(parameter.annotation)
    if parameter.required:
        return f"{parameter.name}: {type}"
    return f"{parameter.name}: {type}{' | Remove' if parameter.nullable else ''} | None = None"


def _parameter_type(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _parameter_type(arguments[0])
    if origin in (Union, UnionType):
        (one,) = [a for a in arguments if a not in (UnsetType, NoneType)]
        return _parameter_type(one)
    if origin is list:
        item = _parameter_type(arguments[0])
        return f"Sequence[{item}]"
    if annotation is Raw:
        return "State"
    return "Any" if isinstance(annotation, type) and issubclass(annotation, Struct) else _plain(annotation)


def _docstring(command: Command) -> str:
    about = parameter_schemas(command)
    named = NAMING if command.names_session else ()
    told = [p for p in command.parameters.values() if p.name not in (*named, "user_id" if named else "")]
    lines = wrap(command.summary, WIDTH - 12)
    if told:
        lines.append("")
    for parameter in told:
        text = f"{parameter.name}: {about[parameter.name]['description']}"
        lines += wrap(text.replace("`null`", "`REMOVE`") if parameter.nullable else text, WIDTH - 10,
                      subsequent_indent="    ")  # fmt: skip
    if len(lines) == 1:
        return f'        """{lines[0]}"""\n'
    first, *rest = lines
    return "\n".join([f'        """{first}', *(f"        {line}".rstrip() for line in rest), '        """']) + "\n"


# -- results


def results(registry: Registry) -> str:
    """The text of `client/results.py`."""
    types: dict[str, type[Struct]] = {}
    for command in registry:
        _gather(command.result, types)
    names = _block("__all__ = [", [f'"{name}"' for name in sorted([*types, "JsonObject", "RESULTS"])], "]")
    classes = "".join(f"\n\n{_class(type, registry)}" for type in types.values())
    pairs = [f'"{command.name}": {command.result.__name__}' for command in registry]
    table = _block("RESULTS: dict[str, type[Struct]] = {", pairs, "}")
    return f'{_RESULTS_HEAD}\n{names}\n{classes}\n\n{table}\n"""The type of each command\'s result."""\n'


def _gather(type: type[Struct], types: dict[str, type[Struct]]) -> None:
    """Note a type behind all that it needs."""
    for base in type.__bases__:
        if base is not Struct:
            _gather(base, types)
    for annotation in get_type_hints(type, include_extras=True).values():
        for inner in _structs_in(annotation):
            _gather(inner, types)
    types.setdefault(type.__name__, type)


def _structs_in(annotation: Any) -> list[type[Struct]]:
    if isinstance(annotation, type):
        return [annotation] if issubclass(annotation, Struct) else []
    return [found for one in get_args(annotation) for found in _structs_in(one)]


def _class(type: type[Struct], registry: Registry) -> str:
    (base,) = type.__bases__
    inherited = set() if base is Struct else {f.name for f in fields(base)}
    answers = [f"`{command.name}`" for command in registry if command.result is type]
    doc = type.__doc__ or f"What {_listed(answers)} answers."
    own = [f for f in fields(type) if f.name not in inherited]
    hints = get_type_hints(type, include_extras=True)
    texts = [f"{f.name}: {_field(f, hints[f.name])}" for f in own]
    optional = ["= " in text for text in texts]
    needs_names = optional != sorted(optional)  # else Python wants the fields that are always there to come first
    lines = [
        f"class {type.__name__}({base.__name__}{', kw_only=True' if needs_names else ''}):",
        f'    """{doc}"""',
        "",
    ]
    return "\n".join([*lines, *(f"    {text}" for text in texts)]) + "\n"


def _field(info: FieldInfo, annotation: Any) -> str:
    if _asked_away(annotation):
        bare = _result_type(annotation).removesuffix(" | UnsetType")
        return f"{bare} = UNSET  # type: ignore[assignment]  # UNSET where the request asked for that"
    text = _result_type(annotation)
    if info.default_factory is not NODEFAULT:
        return f"{text} = field(default_factory={info.default_factory.__name__})"
    if info.default is not NODEFAULT:
        return f"{text} = {'UNSET' if text.endswith('UnsetType') else repr(info.default)}"
    return text


def _asked_away(annotation: Any) -> bool:
    """A request may ask for the field to be left out; callers that do not ask need not check for it."""
    return any(isinstance(one, Meta) and LEFT_OUT_WITH in (one.extra_json_schema or {}) for one in get_args(annotation))


def _result_type(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        metas = [one for one in arguments[1:] if isinstance(one, Meta)]
        if arguments[0] is Raw and any("$ref" in (meta.extra_json_schema or {}) for meta in metas):
            return "Raw"  # handed on as the text that came: its checksum is over that text
        return _result_type(arguments[0])
    if origin in (Union, UnionType):
        return " | ".join(_result_type(one) for one in arguments)
    if origin is list:
        return f"list[{_result_type(arguments[0])}]"
    return "JsonObject" if annotation is Raw else _plain(annotation)


# -- text


def _plain(annotation: Any) -> str:
    if annotation is NoneType:
        return "None"
    if get_origin(annotation) is Literal:
        return f"Literal[{', '.join(repr(value).replace(chr(39), chr(34)) for value in get_args(annotation))}]"
    name: str = annotation.__name__
    return name


def _listed(texts: list[str]) -> str:
    *most, last = texts
    return f"{', '.join(most)} and {last}" if most else last


def _block(head: str, items: Iterable[str], tail: str, indent: int = 4) -> str:
    """`head`, items with commas, `tail`: on one line if it is short, else filled like text."""
    items = list(items)
    line = f"{head}{', '.join(items)}{tail.lstrip()}"
    if len(line) <= WIDTH:
        return line
    rows, row = [], ""
    for item in items:
        if row and indent + len(row) + len(item) + 2 > WIDTH:
            rows.append(row)
            row = ""
        row += f"{' ' if row else ''}{item},"
    return "\n".join([head, *(" " * indent + text for text in [*rows, row]), tail])
