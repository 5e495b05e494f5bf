"""The contract over the wire: all of it, or what belongs to one command.

It is the same for as long as the process lives, so it is encoded once, when it is
first asked for.
"""

from functools import cache
from typing import Any

import msgspec
from msgspec import Raw

from stui_sessions.errors import CODES
from stui_sessions.protocol.definitions import Schema, name_in, resolved
from stui_sessions.protocol.registry import Registry
from stui_sessions.protocol.schema import contract


@cache  # a name that no command has raises, so it takes no room here
def describe(registry: Registry, command: str | None = None) -> Raw:
    """The text of the contract, or of what belongs to one command; raises Refusal if there is no such command."""
    document = contract(registry) if command is None else command_contract(registry, registry.find(command).name)
    return Raw(msgspec.json.encode(document))


def command_contract(registry: Registry, name: str) -> Schema:
    """The part of the contract about one command, complete in itself.

    Its `parameters` and `result` are schemas; what they refer to is in its own `$defs`.  The errors are
    those of the command alone: what any request can be answered with is the same for all.
    """
    document = contract(registry)
    definitions, entry = document["$defs"], document["commands"][name]
    # That of the request, because it has the rules between parameters too.
    parameters = resolved(definitions[f"{name}.request"]["properties"]["parameters"], definitions)
    result = resolved(entry["result"], definitions)
    part = {
        "command": name,
        "summary": entry["summary"],
        "parameters": parameters,
        "result": result,
        "errors": {code: msgspec.to_builtins(CODES[code]) for code in entry["errors"]},
    }
    needed = _referred_to([parameters, result], definitions)
    return part | ({"$defs": needed} if needed else {})


def _referred_to(value: Any, definitions: dict[str, Schema]) -> dict[str, Schema]:
    """The definitions that `value` needs, those that they need themselves included."""
    needed: dict[str, Schema] = {}
    todo = [value]
    while todo:
        item = todo.pop()
        if isinstance(item, list):
            todo += item
        elif isinstance(item, dict):
            todo += item.values()
            name = name_in(item)
            if name and name not in needed:
                needed[name] = definitions[name]
                todo.append(definitions[name])
    return needed
