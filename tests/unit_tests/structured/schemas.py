"""Random JSON schemas with the keywords of pydantic and typical tools, up to three levels deep."""

from __future__ import annotations

import random
from typing import Any

NAMES = "name id tags size price unit city kind active start end items note user code".split()
PATTERNS = ["^[a-z]{2,5}$", "^[A-Z][0-9]{3}$", "^(yes|no)$", r"^\d{4}-\d{2}$"]


def schema(rng: random.Random, depth: int = 3) -> dict[str, Any]:
    """Generate the schema of an object, as for an answer or a tool's arguments."""
    names = rng.sample(NAMES, rng.randint(1, 5))
    properties = {name: value(rng, depth - 1) for name in names}
    result: dict[str, Any] = {"type": "object", "properties": properties}
    result["required"] = [name for name in names if rng.random() < 0.7]
    if rng.random() < 0.3:
        result["additionalProperties"] = rng.random() < 0.3
    if rng.random() < 0.2:
        result["$defs"] = {"Part": value(rng, 1)}
        properties["part"] = {"$ref": "#/$defs/Part"}
    return result


def value(rng: random.Random, depth: int) -> dict[str, Any]:
    """Generate a schema of any type."""
    kinds = [
        "string",
        "integer",
        "number",
        "boolean",
        "enum",
        "const",
        "null",
        "pattern",
        "bounded",
    ]
    if depth > 0:
        kinds += ["array", "object", "anyOf", "object", "array"]
    match rng.choice(kinds):
        case "enum":
            return {"enum": rng.sample(["red", "green", 3, True, None, "a b", 'q"x'], 3)}
        case "const":
            return {"const": rng.choice(["fixed", 7, False])}
        case "pattern":
            return {"type": "string", "pattern": rng.choice(PATTERNS)}
        case "bounded":
            low = rng.randint(-50, 50)
            return rng.choice(
                [
                    {"type": "integer", "minimum": low, "maximum": low + rng.randint(0, 500)},
                    {"type": "number", "exclusiveMinimum": low, "maximum": low + 10},
                    {"type": "string", "minLength": rng.randint(0, 3), "maxLength": 8},
                ]
            )
        case "array":
            limits = {"minItems": rng.randint(0, 2), "maxItems": rng.randint(2, 4)}
            bounds = limits if rng.random() < 0.5 else {}
            return {"type": "array", "items": value(rng, depth - 1)} | bounds
        case "object":
            return object_schema(rng, depth)
        case "anyOf":
            return {"anyOf": [value(rng, depth - 1) for _ in range(2)]}
        case kind:
            description = {"description": "A value."} if rng.random() < 0.2 else {}
            return {"type": kind} | description


def object_schema(rng: random.Random, depth: int) -> dict[str, Any]:
    """Generate the schema of a nested object."""
    names = rng.sample(NAMES, rng.randint(1, 3))
    properties = {name: value(rng, depth - 1) for name in names}
    return {"type": "object", "properties": properties, "required": names[:1]}
