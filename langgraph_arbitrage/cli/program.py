"""Parses the command line, runs the subcommand and turns errors into messages and exit statuses."""

from __future__ import annotations

import argparse
import os
import sys
import textwrap
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
    fit,
    graph,
    replay,
    serve,
    train,
)
from langgraph_arbitrage.config.removed import refuse_removed
from langgraph_arbitrage.embedded.notice import DemoModelsWarning
from langgraph_arbitrage.errors import ArbitrageError

__all__ = ["main"]

USAGE_ERROR = 2  # as in argparse
INTERRUPTED = 128 + 2  # as in shells: terminated by SIGINT
BROKEN_PIPE = 128 + 13  # as in shells: terminated by SIGPIPE


class _HelpFormatter(argparse.HelpFormatter):
    """Wraps help texts at spaces only, which keeps names and commands in one piece."""

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n".join(indent + line for line in self._split_lines(text, width - len(indent)))


class _Parser(argparse.ArgumentParser):
    """An argument parser that reports errors in one line, without the usage."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"formatter_class": _HelpFormatter, **kwargs})

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse the arguments; an option that was removed is reported by name."""
        parsed, unknown = self.parse_known_args(args, namespace)
        if unknown:
            refuse_removed(option.partition("=")[0] for option in unknown)
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return parsed

    def error(self, message: str) -> NoReturn:
        print_error(f"{message} (see {self.prog} --help)")
        raise SystemExit(USAGE_ERROR)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command `arbitrage`.

    Args:
        argv: Arguments. Default: those of the process.

    Returns:
        Exit status. 0: success. 1: a batch job left requests unanswered, `compare --strict` found
        a worse point, `evaluate --check-references` found an ungradable reference, or `fit` found
        too little memory. 2: invalid arguments or input. 130: interrupted by Ctrl-C. 141: the
        reader of stdout closed the pipe.
    """
    try:
        status = _run(argv)
        sys.stdout.flush()
    except BrokenPipeError:
        # Without this redirection, Python reports the closed pipe again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    return status


def _run(argv: Sequence[str] | None) -> int:
    warnings.simplefilter("ignore", DemoModelsWarning)  # see `cli.notice`
    try:
        args = _parser().parse_args(argv)
        return args.run(args) or 0
    except SystemExit as end:  # raised by argparse after --help, --version and errors
        return end.code if isinstance(end.code, int) else USAGE_ERROR
    except ArbitrageError as error:
        print_error(str(error))
        return USAGE_ERROR
    except KeyboardInterrupt:
        return INTERRUPTED


def print_error(message: str) -> None:
    """Print an error on stderr as one line, in red if stderr is a terminal."""
    from rich.console import Console
    from rich.text import Text

    from langgraph_arbitrage.cli.text import printable

    line = f"arbitrage: error: {' '.join(printable(message).split())}"
    Console(stderr=True).print(Text(line, style="red"), soft_wrap=True)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="arbitrage",
        description="Step-level speculative reasoning: a small draft model writes each step, and "
        "a large target model rewrites the steps that a policy escalates.",
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
        fit,
    ):
        command.add_command(commands)
    return parser
