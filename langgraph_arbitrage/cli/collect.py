"""`arbitrage collect`: rows for a router, from one's own questions and models."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from langgraph_arbitrage.cli.fields import add_fields, config_of
from langgraph_arbitrage.cli.options import LIMITS, add_options, settings_of

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

    from langgraph_arbitrage.training import Question

__all__ = ["add_command", "add_questions", "questions_of", "work_progress"]

MODELS = ("draft", "target", "device", "dtype", "chat_template", "separator")


def add_command(commands: Any) -> None:
    """Add the subcommand."""
    from langgraph_arbitrage.training.collect import CollectConfig

    parser: argparse.ArgumentParser = commands.add_parser(
        "collect",
        help="collect rows to train a router on",
        description="At each prefix both models write a step, and a PRM scores both. One row a "
        "prefix, flushed question by question: the same command again goes on where it was "
        "stopped.",
    )
    add_questions(parser)
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="FILE", help="Rows: .jsonl or .parquet"
    )
    add_fields(parser, CollectConfig)
    add_options(parser, (*MODELS, *LIMITS))
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
        "--column", default="question", metavar="NAME", help="Column of the questions (question)"
    )
    parser.add_argument("--split", default="train", help="Split of a data set of the hub (train)")
    parser.add_argument("--limit", type=int, metavar="N", help="At most so many questions")


def questions_of(args: argparse.Namespace) -> list[Question]:
    """The questions that the arguments name."""
    from langgraph_arbitrage.training import load_questions

    return load_questions(
        args.questions,
        args.column,
        answer_column=getattr(args, "answer_column", None),
        split=args.split,
        limit=args.limit,
    )


def work_progress(console: Console) -> Progress:
    """A progress bar for long work; nothing where nobody looks."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    from langgraph_arbitrage.cli.view import interactive

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

    from rich.console import Console

    from langgraph_arbitrage.models import Models
    from langgraph_arbitrage.policies import LearnedRouter
    from langgraph_arbitrage.scorers import load_scorer
    from langgraph_arbitrage.training import CollectConfig, Collector, RowFile, read_rows, summary
    from langgraph_arbitrage.training.verdict import CHECKER

    seed, args.seed = args.seed, None  # of the collection, not of sampling
    settings = settings_of(args)
    args.seed = seed
    config = config_of(args, CollectConfig)
    questions = questions_of(args)
    prm = None if config.prm == CHECKER else load_scorer(config.prm)
    policy = None if config.router is None else LearnedRouter(config.router)
    models = Models(settings)
    collector = Collector(models, config, prm, policy)
    console = Console(stderr=True)
    try:
        with RowFile(args.output) as file:
            known = len(file.done)
            if known:
                console.print(f"{known} questions are in {args.output} already", style="dim")
            with work_progress(console) as bar:
                task = bar.add_task("Questions", total=len(questions))
                counted = asyncio.run(
                    collector.collect(questions, file, lambda rows: bar.advance(task))
                )
                bar.update(task, completed=len(questions))
    finally:
        models.close()
    if counted.too_long:
        console.print(f"{counted.too_long} questions do not fit the models' context: left out")
    print(summary(read_rows([args.output])))
