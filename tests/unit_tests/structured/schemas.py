"""Random JSON schemas: what pydantic and hand-written tools hold, nested up to three deep."""

from __future__ import annotations

import random
from typing import Any

NAMES = "name id tags size price unit city kind active start end items note user code".split()
PATTERNS = ["^[a-z]{2,5}$", "^[A-Z][0-9]{3}$", "^(yes|no)$", r"^\d{4}-\d{2}$"]


def schema(rng: random.Random, depth: int = 3) -> dict[str, Any]:
    """A schema of an object, so that it is one of an answer or of a tool's arguments."""
    names = rng.sample(NAMES, rng.randint(1, 5))
    properties = {name: value(rng, depth - 1) for name in names}
    found: dict[str, Any] = {"type": "object", "properties": properties}
    found["required"] = [name for name in names if rng.random() < 0.7]
    if rng.random() < 0.3:
        found["additionalProperties"] = rng.random() < 0.3
    if rng.random() < 0.2:
        found["$defs"] = {"Part": value(rng, 1)}
        properties["part"] = {"$ref": "#/$defs/Part"}
    return found


def value(rng: random.Random, depth: int) -> dict[str, Any]:
    """A schema of any value."""
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
            few = {"minItems": rng.randint(0, 2), "maxItems": rng.randint(2, 4)}
            bounds = few if rng.random() < 0.5 else {}
            return {"type": "array", "items": value(rng, depth - 1)} | bounds
        case "object":
            return schema_of_object(rng, depth)
        case "anyOf":
            return {"anyOf": [value(rng, depth - 1) for _ in range(2)]}
        case kind:
            told = {"description": "A value."} if rng.random() < 0.2 else {}
            return {"type": kind} | told


def schema_of_object(rng: random.Random, depth: int) -> dict[str, Any]:
    names = rng.sample(NAMES, rng.randint(1, 3))
    properties = {name: value(rng, depth - 1) for name in names}
    return {"type": "object", "properties": properties, "required": names[:1]}
