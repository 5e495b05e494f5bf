"""The contract is locked: what has changed since the locked copy, and the version that this asks for.

A change that a client could notice as a break asks for a new major version, an
addition for a new minor one.  Other words for the same thing ask for none, only
for the copy to be written anew.
"""

import re
from collections.abc import Iterable
from typing import Any

import msgspec

from stui_sessions.protocol.definitions import Schema, name_in
from stui_sessions.protocol.schemadiff import LEFT_OUT_WITH, NOT_ALWAYS, Change, Comparison, Effect, Side

_RULED = {"$defs", "commands", "universal_errors", "errors", "protocol_version"}
"""Parts of the document that are compared by their meaning."""
_BY_NAME = {"oneOf", "$schema", "title", "description"}
"""Parts that say nothing of their own about what is on the wire."""

_COMMAND_PARTS = {"summary", "parameters", "result", "request", "reply", "errors"}
_CODE_PARTS = {"error_type", "meaning", "details"}


def changes(locked: Schema, current: Schema) -> list[Change]:
    """What differs between two contracts, their versions apart, in the order of the document."""
    found = _commands(locked, current)
    found += _error_reply(locked, current)
    gained, lost = "can be the answer to any request", "is no longer the answer to any request"
    found += _lists("universal_errors", locked["universal_errors"], current["universal_errors"], gained, lost)
    found += _codes(locked["errors"], current["errors"])
    found += _unruled("contract", _without(locked, _BY_NAME), _without(current, _BY_NAME), _RULED)
    if not found and not _same(_without(locked, ["protocol_version"]), _without(current, ["protocol_version"])):
        found.append(Change("contract", "the same is written differently", Effect.WORDING))
    return found


def needed_bump(locked: Schema, current: Schema) -> Effect:
    """The effect of the worst change: a break needs a major version, an addition a minor one."""
    return max((change.effect for change in changes(locked, current)), default=Effect.NONE)


def needed_version(locked: Schema, current: Schema) -> str:
    """The lowest version that `current` may have."""
    major, minor, patch = _version(locked)
    effect = needed_bump(locked, current)
    if effect is Effect.BREAK:
        return f"{major + 1}.0.0"
    return f"{major}.{minor + 1}.0" if effect is Effect.ADDITION else f"{major}.{minor}.{patch}"


def fits(locked: Schema, current: Schema) -> bool:
    """The version of `current` tells clients what has changed since `locked`."""
    return _version(current) >= _parsed(needed_version(locked, current))


def check(locked: Schema, current: Schema) -> list[str]:
    """Why `locked` does not stand for `current`: each change, then what to do; empty if it does."""
    if _same(locked, current):
        return []
    version, was = current["protocol_version"], locked["protocol_version"]
    if fits(locked, current):
        verdict = f"protocol_version {version} fits (the locked copy has {was}); the copy must be written anew"
    else:
        verdict = f"protocol_version is {version} and must be {needed_version(locked, current)} or higher"
    return [*(str(change) for change in changes(locked, current)), verdict]


# -- the parts of a contract


def _commands(locked: Schema, current: Schema) -> list[Change]:
    before, after = locked["commands"], current["commands"]
    found: list[Change] = []
    for name in dict.fromkeys((*before, *after)):
        if name not in after:
            found.append(Change(name, "the command is removed", Effect.BREAK))
        elif name not in before:
            found.append(Change(name, "the command is new", Effect.ADDITION))
        else:
            found += _command(name, locked, current)
    return found


def _command(name: str, locked: Schema, current: Schema) -> list[Change]:
    before, after = locked["commands"][name], current["commands"][name]
    found = []
    if before["summary"] != after["summary"]:
        found.append(Change(f"{name}.summary", "says it in other words", Effect.WORDING))
    for side, part in ((Side.SENT, "request"), (Side.RECEIVED, "reply")):
        comparison = Comparison(side, locked["$defs"], current["$defs"])
        comparison.compare(f"{name}.{part}", *(_undescribed(c, c["commands"][name][part]) for c in (locked, current)))
        found += [_short(name, _excused(change, name, locked, current)) for change in comparison.found]
    # A client must be ready for a code that it does not know, so one more breaks nothing.
    gained, lost = "can be the answer", "is no longer the answer"
    found += _lists(f"{name}.errors", before["errors"], after["errors"], gained, lost)
    return found + _unruled(name, before, after, _COMMAND_PARTS)


def _excused(change: Change, name: str, locked: Schema, current: Schema) -> Change:
    """`change`, which is an addition where a field is missing only for clients that ask for that.

    They ask with a value of a parameter that the contract did not have before, and that is
    not the default: no client that was written for it meets a reply without the field.
    """
    if change.what != NOT_ALWAYS:
        return change
    result = _definition(current, current["commands"][name]["result"])
    field = result["properties"].get(change.path.removeprefix(f"{name}.reply.result."), {})
    asked = field.get(LEFT_OUT_WITH, {})
    before, after = (_definition(c, c["commands"][name]["parameters"])["properties"] for c in (locked, current))
    if not asked or any(
        value in before.get(parameter, {}).get("enum", ()) or after[parameter].get("default") == value
        for parameter, value in asked.items()
    ):
        return change
    return Change(change.path, f"{change.what}, and only if {asked} asks for that, which is new", Effect.ADDITION)


def _definition(document: Schema, reference: Schema) -> Schema:
    definition: Schema = document["$defs"][name_in(reference)]
    return definition


def _undescribed(document: Schema, reference: Schema) -> Schema:
    """The definition of a request or a reply; the description of one is the command's summary again."""
    return _without(_definition(document, reference), ["description"])


def _short(command: str, change: Change) -> Change:
    """`change` with the path that people use: `ping.result.pong`, not `ping.reply.result.pong`."""
    path = re.sub(
        rf"^{re.escape(command)}\.(request\.(?=parameters\b)|reply\.(?=result\b))", f"{command}.", change.path
    )
    return Change(path, change.what, change.effect)


def _error_reply(locked: Schema, current: Schema) -> list[Change]:
    comparison = Comparison(Side.RECEIVED, locked["$defs"], current["$defs"])
    comparison.compare("error", *(_with_any_code(c["$defs"]["error"]) for c in (locked, current)))
    return comparison.found


def _with_any_code(error: Schema) -> Schema:
    """The schema of an error reply without the list of codes: those are compared one by one."""
    properties = dict(error["properties"])
    if "error_code" in properties:
        properties["error_code"] = _without(properties["error_code"], ["enum"])
    return error | {"properties": properties}


def _codes(before: Schema, after: Schema) -> list[Change]:
    found = []
    for name in dict.fromkeys((*before, *after)):
        path = f"errors.{name}"
        if name not in after:
            # Programs wait for the name; a code that only got another one looks just like this.
            found.append(Change(path, "the code is removed", Effect.BREAK))
        elif name not in before:
            found.append(Change(path, "the code is new", Effect.ADDITION))
        else:
            found += _code(path, before[name], after[name])
    return found


def _code(path: str, before: Schema, after: Schema) -> list[Change]:
    found = []
    if before["error_type"] != after["error_type"]:
        what = f"{before['error_type']} -> {after['error_type']}"
        found.append(Change(f"{path}.error_type", what, Effect.BREAK))
    if before["meaning"] != after["meaning"]:
        found.append(Change(f"{path}.meaning", "says it in other words", Effect.WORDING))
    if before["details"] != after["details"]:
        found += _details(f"{path}.details", before["details"], after["details"])
    return found + _unruled(path, before, after, _CODE_PARTS)


def _details(path: str, before: str, after: str) -> list[Change]:
    """The fields of `details` are named in a text, each in code marks."""
    old, new = re.findall("`(.+?)`", before), re.findall("`(.+?)`", after)
    found = [Change(f"{path}.{name}", "removed", Effect.BREAK) for name in old if name not in new]
    found += [Change(f"{path}.{name}", "new", Effect.ADDITION) for name in new if name not in old]
    return found or [Change(path, "says it in other words", Effect.WORDING)]


def _lists(path: str, before: list[str], after: list[str], gained: str, lost: str) -> list[Change]:
    """Lists of error codes: neither more nor fewer is a break."""
    found = [Change(path, f"{code} {gained}", Effect.ADDITION) for code in after if code not in before]
    return found + [Change(path, f"{code} {lost}", Effect.ADDITION) for code in before if code not in after]


def _unruled(path: str, before: Schema, after: Schema, ruled: Iterable[str]) -> list[Change]:
    """Parts that nothing here knows: a difference in them may be anything, so it counts as a break."""
    names = [name for name in dict.fromkeys((*before, *after)) if name not in ruled]
    return [
        Change(f"{path}.{name}", "has changed, and there is no rule for it", Effect.BREAK)
        for name in names
        if name not in before or name not in after or not _same(before[name], after[name])
    ]


# -- small things


def _version(document: Schema) -> tuple[int, ...]:
    return _parsed(document["protocol_version"])


def _parsed(version: str) -> tuple[int, ...]:
    if not re.fullmatch(r"(0|[1-9]\d*)(\.(0|[1-9]\d*)){2}", version):
        raise ValueError(f"a version is MAJOR.MINOR.PATCH, three numbers, not {version!r}")
    return tuple(int(number) for number in version.split("."))


def _without(schema: Schema, keys: Iterable[str]) -> Schema:
    return {key: value for key, value in schema.items() if key not in keys}


def _same(a: Any, b: Any) -> bool:
    """The same JSON, whatever the order of keys."""
    return msgspec.json.encode(a, order="deterministic") == msgspec.json.encode(b, order="deterministic")
