"""Calls written as Python: Llama 3.2 and 4 in their pythonic form."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from langgraph_arbitrage.tools.formats.base import PROBE, CallFormat, ParsedCall, Tool

__all__ = ["Pythonic"]

_JSON_NAMES = {"true": True, "false": False, "null": None}


@dataclass(frozen=True)
class Pythonic(CallFormat):
    """`[name(key="value", other=1), ...]` as the whole answer."""

    opens = ("<|python_tag|>[",)
    closes = None

    @classmethod
    def of_sample(cls, sample: str) -> Pythonic | None:
        """Recognized by a call with a keyword."""
        name, args = PROBE
        key = next(iter(args))
        return cls() if re.search(rf"\[{name}\({key}=", sample) else None

    def may_begin(self, text: str) -> bool | None:
        """A bracket, a name and a parenthesis."""
        text = text.lstrip()
        if re.match(r"\[\s*[A-Za-z_][\w.]*\(", text):
            return True
        return None if re.fullmatch(r"(\[(\s*([A-Za-z_][\w.]*)?)?)?", text) else False

    def calls(self, body: str, mark: str, tools: Sequence[Tool]) -> list[ParsedCall]:
        """The calls of the list; nothing is run, literals alone are read."""
        raw = (mark or "<|python_tag|>") + body
        text = ("[" if mark else "") + body.strip()
        try:
            tree = ast.parse(text, mode="eval").body
            nodes = tree.elts if isinstance(tree, ast.List) else [tree]
            return [_call(node, raw) for node in nodes]
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            found = re.match(r"\s*\[?\s*([\w.]+)\(", text)
            return [ParsedCall(found and found[1], None, raw, f"no Python call: {error}")]

    def grammar(self, tool: Tool) -> list[Any]:
        """Required arguments in order, then those that may be left out."""
        function = tool["function"]
        parameters = function.get("parameters") or {}
        required = parameters.get("required", ())
        shared = {k: parameters[k] for k in ("$defs", "definitions") if k in parameters}
        properties = parameters.get("properties") or {}
        names = sorted(properties, key=lambda key: key not in required)
        parts: list[Any] = [f"[{function['name']}("]
        for i, key in enumerate(names):
            comma = ", " if i else ""
            argument = [f"{comma}{key}=", {**shared, **properties[key]}]
            # With none before it, an argument cannot be left out: the comma would be wrong.
            parts += argument if key in required or not i else [argument]
        return [*parts, ")]"]


def _call(node: ast.expr, raw: str) -> ParsedCall:
    if not isinstance(node, ast.Call) or node.args:
        return ParsedCall(None, None, raw, "a call has to name each of its arguments")
    name = ast.unparse(node.func)
    args: dict[str, Any] = {}
    for keyword in node.keywords:
        if keyword.arg is None:
            return ParsedCall(name, None, raw, "** is not read in a call")
        args[keyword.arg] = _literal(keyword.value)
    return ParsedCall(name, args, raw)


def _literal(node: ast.expr) -> Any:
    """A Python literal, with JSON's names for true, false and null."""

    class Names(ast.NodeTransformer):
        def visit_Name(self, found: ast.Name) -> ast.expr:
            if found.id not in _JSON_NAMES:
                raise ValueError(f"{found.id} is no literal")
            return ast.copy_location(ast.Constant(_JSON_NAMES[found.id]), found)

    return ast.literal_eval(Names().visit(node))
