"""Calls in Python syntax: the pythonic format of Llama 3.2 and 4."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from langgraph_arbitrage.tools.formats.base import PROBE, CallFormat, ParsedCall, Tool

__all__ = ["Pythonic"]

_JSON_CONSTANTS = {"true": True, "false": False, "null": None}


@dataclass(frozen=True)
class Pythonic(CallFormat):
    """`[name(key="value", other=1), ...]` as the whole answer."""

    opening_marks = ("<|python_tag|>[",)
    closing_mark = None

    @classmethod
    def from_sample(cls, sample: str) -> Pythonic | None:
        """Return the format if the sample has a call with a keyword argument."""
        name, args = PROBE
        key = next(iter(args))
        return cls() if re.search(rf"\[{name}\({key}=", sample) else None

    def starts_unmarked_call(self, text: str) -> bool | None:
        """Return True for a bracket, a name and a parenthesis."""
        text = text.lstrip()
        if re.match(r"\[\s*[A-Za-z_][\w.]*\(", text):
            return True
        return None if re.fullmatch(r"(\[(\s*([A-Za-z_][\w.]*)?)?)?", text) else False

    def parse_calls(self, body: str, mark: str, tools: Sequence[Tool]) -> list[ParsedCall]:
        """Parse the calls of the list. Arguments must be literals; no code is executed."""
        raw = (mark or "<|python_tag|>") + body
        text = ("[" if mark else "") + body.strip()
        try:
            tree = ast.parse(text, mode="eval").body
            nodes = tree.elts if isinstance(tree, ast.List) else [tree]
            return [_parse_call(node, raw) for node in nodes]
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            name = re.match(r"\s*\[?\s*([\w.]+)\(", text)
            problem = f"the call is not valid Python: {error}"
            return [ParsedCall(name and name[1], None, raw, problem)]

    def grammar_parts(self, tool: Tool) -> list[Any]:
        """Return the required arguments, then the optional ones."""
        function = tool["function"]
        parameters = function.get("parameters") or {}
        required = parameters.get("required", ())
        definitions = {k: parameters[k] for k in ("$defs", "definitions") if k in parameters}
        properties = parameters.get("properties") or {}
        names = sorted(properties, key=lambda key: key not in required)
        parts: list[Any] = [f"[{function['name']}("]
        for i, key in enumerate(names):
            comma = ", " if i else ""
            argument = [f"{comma}{key}=", {**definitions, **properties[key]}]
            # The first argument is never optional: the next one would start with a comma.
            parts += argument if key in required or not i else [argument]
        return [*parts, ")]"]


def _parse_call(node: ast.expr, raw: str) -> ParsedCall:
    if not isinstance(node, ast.Call) or node.args:
        problem = "the call must have the form name(key=value), without positional arguments"
        return ParsedCall(None, None, raw, problem)
    name = ast.unparse(node.func)
    args: dict[str, Any] = {}
    for keyword in node.keywords:
        if keyword.arg is None:
            return ParsedCall(name, None, raw, "the call unpacks arguments with **")
        args[keyword.arg] = _literal(keyword.value)
    return ParsedCall(name, args, raw)


def _literal(node: ast.expr) -> Any:
    """Evaluate a Python literal, which may contain JSON's `true`, `false` and `null`.

    Raises:
        ValueError: The expression is not a literal.
    """

    class ReplaceConstants(ast.NodeTransformer):
        def visit_Name(self, name: ast.Name) -> ast.expr:
            if name.id not in _JSON_CONSTANTS:
                raise ValueError(f"{name.id} is not a literal")
            return ast.copy_location(ast.Constant(_JSON_CONSTANTS[name.id]), name)

    return ast.literal_eval(ReplaceConstants().visit(node))
