"""Generates docs/settings.md from the declarations of the settings.

python -m langgraph_arbitrage.cli.reference > docs/settings.md
"""

from __future__ import annotations

import inspect
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from langgraph_arbitrage import embedded
from langgraph_arbitrage.batch.ray_settings import RaySettings
from langgraph_arbitrage.batch.settings import BatchSettings
from langgraph_arbitrage.cli.options import option_name
from langgraph_arbitrage.config.base import Flag
from langgraph_arbitrage.config.context import Context
from langgraph_arbitrage.config.run_options import RunOptions
from langgraph_arbitrage.config.settings import ModelSettings
from langgraph_arbitrage.serve.settings import ServeSettings

__all__ = ["reference"]

HEAD = """# Settings

Generated from the declarations by `python -m langgraph_arbitrage.cli.reference`.

An unknown setting is refused, and the error suggests the nearest name. A setting without an option
can be set in Python only.
"""
MODELS = "Fields of `ChatArbitrage`, `create_arbitrage_graph` and `ArbitrageSettings`."
RUN = """Fields of the same classes. A single run overrides them:
`llm.invoke("…", max_tokens=256)`, or `context=Context(max_tokens=256)` for a graph."""
CONTEXT = "Fields of `Context`, and options of a call of the chat model."
BATCH = "Fields of `BatchSettings`; options of `arbitrage batch`."
RAY = "Fields of `RaySettings`; options of `arbitrage batch --ray`."
SERVER = "Fields of `ServeSettings`; options of `arbitrage serve`."
DEFAULTS = {embedded.DRAFT: "the embedded draft", embedded.TARGET: "the embedded target"}
INTERNAL = ("cancel", "quiet")


def reference() -> str:
    """The page in Markdown."""
    extra = {n: f for n, f in Context.model_fields.items() if n not in RunOptions.model_fields}
    context_only = {name: field for name, field in extra.items() if name not in INTERNAL}
    sections = [
        ("Models", MODELS, ModelSettings.model_fields, ""),
        ("Options of a run", RUN, RunOptions.model_fields, ""),
        ("Only in a run's context", CONTEXT, context_only, None),
        ("Batch jobs", BATCH, BatchSettings.model_fields, "all"),
        ("Batch jobs on Ray", RAY, RaySettings.model_fields, "all"),
        ("Server", SERVER, ServeSettings.model_fields, "all"),
    ]
    parts = [HEAD]
    for title, text, fields, options in sections:
        parts += [f"## {title}\n", f"{text}\n", _table(fields, options)]
    return "\n".join(parts)


def _table(fields: dict[str, FieldInfo], options: str | None) -> str:
    """Rows of name, type, default, option and description.

    Args:
        fields: The fields.
        options: None if no field has an option, "all" if every field has one.
    """
    rows = ["| setting | type | default | option | meaning |", "|---|---|---|---|---|"]
    for name, field in fields.items():
        flagged = options == "all" or any(isinstance(m, Flag) for m in field.metadata)
        option = f"`{option_name(name)}`" if flagged and options is not None else ""
        meaning = " ".join((field.description or "").split())
        cells = [f"`{name}`", _type(field.annotation), _default(field), option, meaning]
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows) + "\n"


def _type(annotation: Any) -> str:
    if get_origin(annotation) is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(annotation))
    parts = [part for part in get_args(annotation) if part is not type(None)]
    if parts and get_origin(annotation) not in (tuple, dict, list):
        if inspect.isclass(get_origin(annotation)) and hasattr(annotation, "__metadata__"):
            parts = parts[:1]
        return " or ".join(dict.fromkeys(_type(part) for part in parts if not _is_marker(part)))
    if get_origin(annotation) is tuple:
        return "one or several str"
    if annotation is Any:
        return "any"
    origin = get_origin(annotation) or annotation
    return getattr(origin, "__name__", str(origin))


def _is_marker(part: Any) -> bool:
    """True for metadata of an annotated type, such as a validator."""
    return not (inspect.isclass(part) or get_origin(part) is not None or part is Any)


def _default(field: FieldInfo) -> str:
    default = field.default
    if field.default_factory is not None:
        return "`{}`"
    if isinstance(default, tuple):
        return " ".join(f"`{text.encode('unicode_escape').decode()}`" for text in default) or "none"
    if isinstance(default, str) and default in DEFAULTS:
        return DEFAULTS[default]
    if default is None:
        return ""
    return f"`{default}`"


def main() -> None:
    """Print the page."""
    print(reference(), end="")


if __name__ == "__main__":
    main()
