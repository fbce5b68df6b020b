"""`arbitrage collect`: collects training rows for a router from your own questions and models."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from langgraph_arbitrage.cli.options import (
    add_options,
    add_setting_options,
    config_of,
    settings_of,
)
from langgraph_arbitrage.training.configs import CHECKER, CollectConfig

if TYPE_CHECKING:
    from rich.progress import Progress

    from langgraph_arbitrage.training import Question

__all__ = ["PAIR_OPTIONS", "add_command", "add_question_options", "progress_bar", "questions_of"]

PAIR_OPTIONS = ("draft", "target", "device", "dtype", "chat_template", "separator", "limits")
"""Settings of commands that run a pair of models without a policy option."""


def add_command(commands: Any) -> None:
    """Add the subcommand."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "collect",
        help="collect rows to train a router",
        description="Collect rows to train a router. At each prefix of an answer, both models "
        "write a step and a PRM scores both steps; this is one row. Rows are saved after each "
        "question, and repeating the command resumes an interrupted collection.",
    )
    add_question_options(parser)
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        required=True,
        metavar="FILE",
        help="File to which the rows are written: .jsonl or .parquet.",
    )
    add_options(parser, CollectConfig)
    add_setting_options(parser, *PAIR_OPTIONS)
    parser.set_defaults(run=run)


def add_question_options(parser: argparse.ArgumentParser, nargs: str | None = None) -> None:
    """Add the options that select questions.

    Args:
        parser: The command's parser.
        nargs: Number of QUESTIONS arguments, as in `add_argument`.
    """
    parser.add_argument(
        "questions",
        nargs=nargs,
        metavar="QUESTIONS",
        help="Questions: a JSONL file, a dataset on the hub (owner/name or owner/name:config), or "
        "embedded:N:SEED for N generated word problems.",
    )
    parser.add_argument(
        "--column",
        default="question",
        metavar="NAME",
        help="Column of the questions. (default: question)",
    )
    parser.add_argument(
        "--split",
        default="train",
        metavar="NAME",
        help="Split of a dataset on the hub. (default: train)",
    )
    parser.add_argument(
        "--limit", type=int, metavar="N", help="Maximum number of questions. (default: all)"
    )


def questions_of(args: argparse.Namespace, answer_column: str | None = None) -> list[Question]:
    """Load the questions that the command line selects."""
    from langgraph_arbitrage.training import load_questions

    return load_questions(
        args.questions,
        args.column,
        answer_column=answer_column,
        split=args.split,
        limit=args.limit,
    )


def progress_bar() -> Progress:
    """A progress bar on stderr. It is disabled if stderr is not an interactive terminal."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    from langgraph_arbitrage.cli.view import is_interactive

    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        refresh_per_second=2,
        disable=not is_interactive(console),
    )


def run(args: argparse.Namespace) -> None:
    """Validate everything, then collect."""
    import asyncio

    config, settings = config_of(args, CollectConfig), settings_of(args)
    questions = questions_of(args)

    from langgraph_arbitrage.loop.models import Models
    from langgraph_arbitrage.policies import LearnedRouter
    from langgraph_arbitrage.scorers import load_scorer
    from langgraph_arbitrage.training import Collector, RowFile, read_rows, summary

    prm = None if config.prm == CHECKER else load_scorer(config.prm)
    router = None if config.follow in ("better", "draft") else LearnedRouter(config.follow)
    models = Models(settings)
    collector = Collector(models, config, prm, router)
    try:
        with RowFile(args.output, collector.origin) as file, progress_bar() as progress:
            completed = sum(question in file for question in questions)
            if completed:
                progress.console.print(
                    f"Resuming: {args.output} already contains {completed} questions"
                )
            task = progress.add_task("Questions", total=len(questions), completed=completed)
            collected = asyncio.run(
                collector.collect(questions, file, lambda: progress.advance(task))
            )
    finally:
        models.close()
    print(summary(read_rows([args.output])))
    if collected.too_long:
        print(f"Excluded because they exceed a model's context: {collected.too_long} questions")
