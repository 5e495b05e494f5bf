"""References of JSON Schema: the one way in which a document names its definitions, its `$defs`."""

from typing import Any

Schema = dict[str, Any]

TEMPLATE = "#/$defs/{name}"
_PREFIX = TEMPLATE.removesuffix("{name}")


def reference_to(name: str) -> Schema:
    """The schema that stands for a definition."""
    return {"$ref": TEMPLATE.format(name=name)}


def name_in(schema: Schema) -> str:
    """The name of the definition that `schema` refers to; empty if it refers to none."""
    return str(schema.get("$ref", "")).removeprefix(_PREFIX)


def resolved(schema: Schema, definitions: dict[str, Schema]) -> Schema:
    """`schema` with what it refers to in place of the reference; what stands beside that goes before."""
    while name := name_in(schema):
        beside = {key: value for key, value in schema.items() if key != "$ref"}
        schema = definitions[name] | beside
    return schema
