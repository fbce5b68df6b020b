"""Reads the command line, runs the subcommand, turns errors into one line and an exit status."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any, NoReturn

from langgraph_arbitrage.cli import (
    ask,
    batch,
    bench,
    calibrate,
    collect,
    compare,
    demo,
    evaluate,
    graph,
    replay,
    serve,
    train,
)
from langgraph_arbitrage.config.removed import refuse_removed
from langgraph_arbitrage.embedded.notice import DemoModelsWarning
from langgraph_arbitrage.errors import ArbitrageError

__all__ = ["main"]

FAILED = 2  # as argparse has it
INTERRUPTED = 128 + 2  # as shells have it: killed by SIGINT
BROKEN_PIPE = 128 + 13


class _Parser(argparse.ArgumentParser):
    """Tells what is wrong in one line, without the whole usage before it."""

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Refuse an option that was removed, by name; anything else as usual."""
        found, unknown = self.parse_known_args(args, namespace)
        if unknown:
            refuse_removed(option.partition("=")[0] for option in unknown)
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return found

    def error(self, message: str) -> NoReturn:
        print_error(f"{message} (see {self.prog} --help)")
        raise SystemExit(FAILED)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command `arbitrage`.

    Args:
        argv: The arguments; those of the process by default.

    Returns:
        0, or 1 after a batch job that has lines without an answer or a comparison that is strict
        and finds something worse, or 2 after an error of the user's, or 130 after Ctrl-C.
    """
    try:
        status = _run(argv)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader has gone; Python would complain once more while it flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    return status


def _run(argv: Sequence[str] | None) -> int:
    warnings.simplefilter("ignore", DemoModelsWarning)  # commands have their own notice
    try:
        args = _parser().parse_args(argv)
        return args.run(args) or 0
    except SystemExit as end:  # argparse: help, version, a wrong argument
        return end.code if isinstance(end.code, int) else FAILED
    except ArbitrageError as error:
        print_error(str(error))
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED


def print_error(message: str) -> None:
    """One line on stderr, red on a terminal."""
    from rich.console import Console
    from rich.text import Text

    from langgraph_arbitrage.cli.text import printable

    line = f"arbitrage: error: {' '.join(printable(message).split())}"
    Console(stderr=True).print(Text(line, style="red"), soft_wrap=True)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="arbitrage",
        description="A small draft model reasons step by step; a large target model writes again "
        "the steps where it pays.",
    )
    parser.add_argument(
        "--version", action="version", version=f"arbitrage {version('langgraph-arbitrage')}"
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in (
        ask,
        replay,
        batch,
        serve,
        demo,
        graph,
        collect,
        train,
        calibrate,
        evaluate,
        compare,
        bench,
    ):
        command.add_command(commands)
    return parser
