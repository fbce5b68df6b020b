"""`arbitrage serve`: the chat model for any OpenAI client."""

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

KEY = "ARBITRAGE_API_KEY"


def add_command(commands: Any) -> None:
    """Add the subcommand."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "serve",
        help="serve any OpenAI client over HTTP",
        description="Serve chat completions over HTTP, as OpenAI's clients ask for them: streams, "
        "tools, response_format, usage, stop, seed. /v1/models lists the pair and each model "
        "alone, /v1/completions goes on from raw text, /health tells that the server is up. "
        "Told to stop (Ctrl-C, SIGTERM), it finishes the answers that are running. "
        "Needs pip install 'langgraph-arbitrage[serve]'.",
    )
    add_options(parser, ServeSettings)
    add_setting_options(parser, *SERVICE)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Check everything, then serve."""
    args.api_key = args.api_key or os.environ.get(KEY)
    serving = config_of(args, ServeSettings)
    settings = settings_of(args, max_slots=serving.concurrency)
    if missing := [name for name in ("fastapi", "uvicorn") if find_spec(name) is None]:
        raise MissingExtraError(
            f"serving needs {' and '.join(missing)}, which is not installed: "
            "pip install 'langgraph-arbitrage[serve]'"
        )
    from langgraph_arbitrage.chat_model import ChatArbitrage
    from langgraph_arbitrage.serve.server import serve

    llm = ChatArbitrage(**settings.given)
    llm.prepare()

    def ready(address: str) -> None:
        print(f"serving {serving.name}, draft and target at {address}", file=sys.stderr, flush=True)

    serve(llm, serving, ready)
