"""`arbitrage graph`: draws the state machine without network access."""

from __future__ import annotations

import argparse
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from langgraph_arbitrage.errors import SettingsError

__all__ = ["add_command"]

FORMATS = {"mermaid": None, "png": "pygraphviz", "ascii": "grandalf"}
"""Formats and the package that draws each. LangChain's mermaid PNG is not used because a web
service renders it."""


def add_command(commands: Any) -> None:
    """Add the subcommand."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "graph",
        help="draw the state machine",
        description="Draw the state machine of the reasoning loop. Works without network access.",
    )
    parser.add_argument(
        "--format",
        choices=list(FORMATS),
        help="Format of the drawing. mermaid is text for Markdown. (default: png if FILE ends "
        "with .png, else mermaid)",
    )
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="File to write. (default: stdout)"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Draw the graph and write the drawing."""
    file: Path | None = args.output
    kind = args.format or ("png" if file and file.suffix.lower() == ".png" else "mermaid")
    if kind == "png" and file is None and sys.stdout.isatty():
        raise SettingsError("a terminal cannot show a PNG. Write it to a file with -o FILE.png")
    package = FORMATS[kind]
    if package is not None and find_spec(package) is None:
        raise SettingsError(
            f"drawing as {kind} needs {package}, which is not installed: "
            f"pip install 'langgraph-arbitrage[draw]' (or: pip install {package})"
        )
    drawing = _draw(kind)
    if file is None:
        sys.stdout.buffer.write(drawing)
        return
    try:
        file.write_bytes(drawing)
    except OSError as error:
        raise SettingsError(f"{file} cannot be written: {error.strerror}") from None


def _draw(kind: str) -> bytes:
    from langgraph_arbitrage.graphs import create_arbitrage_graph

    graph = create_arbitrage_graph().compile().get_graph()
    if kind == "png":
        return bytes(graph.draw_png(None))
    text = graph.draw_mermaid() if kind == "mermaid" else graph.draw_ascii()
    return (text.rstrip() + "\n").encode()
