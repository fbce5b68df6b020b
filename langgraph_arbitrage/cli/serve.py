"""`arbitrage serve`: serves the chat model to OpenAI clients."""

from __future__ import annotations

import argparse
import os
import sys
from importlib.util import find_spec
from typing import Any

from langgraph_arbitrage.cli.options import (
    SERVICE,
    add_options,
    add_setting_options,
    config_of,
    settings_of,
)
from langgraph_arbitrage.errors import MissingExtraError
from langgraph_arbitrage.serve import ServeSettings

__all__ = ["add_command"]

API_KEY_VARIABLE = "ARBITRAGE_API_KEY"


def add_command(commands: Any) -> None:
    """Add the subcommand."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "serve",
        help="serve the models to OpenAI clients over HTTP",
        description="Serve an OpenAI-compatible HTTP API. /v1/chat/completions supports streams, "
        "tools, response_format, usage, stop and seed. /v1/models lists the pair and each of its "
        "models. /v1/completions continues raw text with one model. /health reports whether the "
        "server is up. On Ctrl-C or SIGTERM the server finishes the answers in progress, then "
        "exits. Requires: pip install 'langgraph-arbitrage[serve]'.",
    )
    add_options(parser, ServeSettings)
    add_setting_options(parser, *SERVICE)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Validate everything, then serve."""
    args.api_key = args.api_key or os.environ.get(API_KEY_VARIABLE)
    serve_settings = config_of(args, ServeSettings)
    settings = settings_of(args, max_slots=serve_settings.concurrency)
    if missing := [name for name in ("fastapi", "uvicorn") if find_spec(name) is None]:
        verb = "is" if len(missing) == 1 else "are"
        raise MissingExtraError(
            f"serving needs {' and '.join(missing)}, which {verb} not installed: "
            "pip install 'langgraph-arbitrage[serve]'"
        )
    from langgraph_arbitrage.chat_model import ChatArbitrage
    from langgraph_arbitrage.serve.server import serve

    llm = ChatArbitrage(**settings.given)
    llm.prepare()

    def print_address(address: str) -> None:
        line = f"Serving {serve_settings.name}, draft and target at {address}"
        print(line, file=sys.stderr, flush=True)

    serve(llm, serve_settings, print_address)
