"""`arbitrage collect`: rows for a router, from one's own questions and models."""

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

__all__ = ["PAIR", "add_command", "add_questions", "bar", "questions_of"]

PAIR = ("draft", "target", "device", "dtype", "chat_template", "separator", "limits")
"""Settings of a pair that is run."""


def add_command(commands: Any) -> None:
    """Add the subcommand."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "collect",
        help="collect rows to train a router on",
        description="At each prefix both models write a step, and a PRM scores both: one row. "
        "Rows are kept question by question: the same command again goes on where it was stopped.",
    )
    add_questions(parser)
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="FILE", help="Rows: .jsonl or .parquet"
    )
    add_options(parser, CollectConfig)
    add_setting_options(parser, *PAIR)
    parser.set_defaults(run=run)


def add_questions(parser: argparse.ArgumentParser, nargs: str | None = None) -> None:
    """Add what names the questions."""
    parser.add_argument(
        "questions",
        nargs=nargs,
        metavar="QUESTIONS",
        help="A JSONL file, a data set of the hub (owner/name or owner/name:config), or "
        "embedded:N:SEED for N of the embedded problems",
    )
    parser.add_argument(
        "--column",
        default="question",
        metavar="NAME",
        help="Column of the questions (default: question)",
    )
    parser.add_argument(
        "--split",
        default="train",
        metavar="NAME",
        help="Split of a data set of the hub (default: train)",
    )
    parser.add_argument("--limit", type=int, metavar="N", help="At most so many questions")


def questions_of(args: argparse.Namespace, answer_column: str | None = None) -> list[Question]:
    """The questions that the arguments name."""
    from langgraph_arbitrage.training import load_questions

    return load_questions(
        args.questions,
        args.column,
        answer_column=answer_column,
        split=args.split,
        limit=args.limit,
    )


def bar() -> Progress:
    """A progress bar for long work; nothing where nobody looks."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    from langgraph_arbitrage.cli.view import interactive

    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        refresh_per_second=2,
        disable=not interactive(console),
    )


def run(args: argparse.Namespace) -> None:
    """Check everything, then collect."""
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
        with RowFile(args.output, collector.origin) as file, bar() as progress:
            known = sum(question in file for question in questions)
            if known:
                progress.console.print(f"{known} questions are in {args.output} already")
            task = progress.add_task("Questions", total=len(questions), completed=known)
            collected = asyncio.run(
                collector.collect(questions, file, lambda: progress.advance(task))
            )
    finally:
        models.close()
    print(summary(read_rows([args.output])))
    if collected.too_long:
        print(f"left out, for they do not fit the models' contexts: {collected.too_long} questions")
