"""`arbitrage calibrate`: what a router's thresholds do, stored beside it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from langgraph_arbitrage.cli.collect import PAIR, add_questions, bar, questions_of
from langgraph_arbitrage.cli.options import (
    add_options,
    add_setting_options,
    config_of,
    settings_of,
)
from langgraph_arbitrage.training.configs import CHECKER, CalibrateConfig

if TYPE_CHECKING:
    from rich.table import Table

    from langgraph_arbitrage.policies.calibration import Calibration

__all__ = ["add_command"]


def add_command(commands: Any) -> None:
    """Add the subcommand."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "calibrate",
        help="find a router's thresholds",
        description="What happens at each threshold: escalations, wasted ones, scores, accuracy, "
        "and what is lost against the target alone, with a bound that holds. The table is stored "
        "beside the router; then threshold='rate:0.3' and 'loss:0.01' are understood.",
    )
    parser.add_argument("checkpoint", metavar="ROUTER", help="Checkpoint of the router, a folder")
    add_questions(parser, nargs="?")
    parser.add_argument(
        "--rows",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="Collected rows in the place of questions: nothing is run but the router",
    )
    parser.add_argument(
        "--answer-column",
        metavar="NAME",
        help="Column of the right answers; embedded problems bring theirs",
    )
    parser.add_argument(
        "--prm",
        metavar="MODEL",
        help="PRM for the columns on scores: a checkpoint, or checker for embedded problems "
        "(default: those columns stay empty)",
    )
    parser.add_argument(
        "--find",
        action="append",
        default=[],
        metavar="rate:R|loss:E",
        help="Say the threshold for it; give it again for another",
    )
    add_options(parser, CalibrateConfig)
    add_setting_options(parser, *PAIR)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Measure, store, print."""
    from langgraph_arbitrage.errors import SettingsError
    from langgraph_arbitrage.models.identifiers import local_path
    from langgraph_arbitrage.policies.calibration import parse

    if (args.questions is None) == (args.rows is None):
        raise SettingsError("give questions to run, or --rows with collected ones")
    folder = Path(local_path(args.checkpoint))
    if not folder.is_dir():
        raise SettingsError(
            f"{args.checkpoint} is no folder here; the table is stored beside the router: download "
            f"it first with `hf download {args.checkpoint} --local-dir FOLDER`"
        )
    for wanted in args.find:
        parse(wanted)
    config = config_of(args, CalibrateConfig)
    measure = _from_rows if args.rows else _from_questions
    calibration = measure(args, folder, config)
    path = calibration.save(folder)

    from rich.console import Console

    console = Console(highlight=False)
    console.print(table(calibration))
    console.print(f"stored in {path}", style="dim", soft_wrap=True)
    for wanted in args.find:
        found = calibration.threshold(wanted, folder.name)
        console.print(f"{wanted}: threshold {found:.4g}")


def _from_rows(args: argparse.Namespace, folder: Path, config: CalibrateConfig) -> Calibration:
    import asyncio

    from langgraph_arbitrage.loop.models import Models
    from langgraph_arbitrage.policies import LearnedRouter
    from langgraph_arbitrage.training import (
        TrainingRecord,
        calibrate_rows,
        exclude_seen,
        read_rows,
        router_examples,
        score_examples,
    )

    every = read_rows(args.rows)
    rows = exclude_seen(every, lambda row: row["question"], TrainingRecord.question_ids(folder))
    _tell_left_out(len(every) - len(rows), "rows")
    examples = [router_examples([row], margin=0.0).examples[0] for row in rows]
    models = Models(settings_of(args))
    try:
        with bar() as progress:
            task = progress.add_task("Questions", total=len({e.question for e in examples}))
            reading = score_examples(
                models,
                LearnedRouter(str(folder), threshold=0.5).scorer,
                examples,
                concurrency=config.concurrency,
                progress=lambda: progress.advance(task),
            )
            judged = asyncio.run(reading)
    finally:
        models.close()
    return calibrate_rows(rows, [j.score.value for j in judged], config)


def _from_questions(args: argparse.Namespace, folder: Path, config: CalibrateConfig) -> Calibration:
    import asyncio

    from langgraph_arbitrage.loop.models import Models
    from langgraph_arbitrage.policies import LearnedRouter
    from langgraph_arbitrage.scorers import load_scorer
    from langgraph_arbitrage.training import Calibrator, TrainingRecord, exclude_seen

    every = questions_of(args, args.answer_column)
    questions = exclude_seen(every, lambda q: q.text, TrainingRecord.question_ids(folder))
    _tell_left_out(len(every) - len(questions), "questions")
    prm = args.prm if args.prm in (None, CHECKER) else load_scorer(args.prm)
    policy = LearnedRouter(str(folder), threshold=0.5)  # whatever an older table says
    models = Models(settings_of(args))
    calibrator = Calibrator(models, policy, config, prm)
    try:
        with bar() as progress:
            task = progress.add_task("Questions", total=len(questions))
            running = calibrator.calibrate(questions, lambda: progress.advance(task))
            return asyncio.run(running)
    finally:
        models.close()


def _tell_left_out(count: int, what: str) -> None:
    if count:
        print(f"left out, for the router was trained on their questions: {count:,} {what}")


def table(calibration: Calibration) -> Table:
    """The table as one reads it."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    c = calibration
    shown = Table(
        box=SIMPLE_HEAD,
        title=f"{c.questions:,} questions, {c.steps:,} steps, by {c.source}",
        caption=f"loss: {c.loss_of} that the target alone would gain; at most: bound on it with "
        f"{c.confidence:.0%} confidence for each line",
        caption_justify="left",
    )
    for head in ("τ", "escalated", "wasted", "score", "accuracy", "loss", "at most"):
        shown.add_column(head, justify="right")
    for row in c.table:
        shown.add_row(
            f"{row.threshold:.4f}",
            f"{row.escalation_rate:.1%}",
            "–" if row.wasted is None else f"{row.wasted:.0%}",
            "–" if row.score is None else f"{row.score:.3f}",
            "–" if row.accuracy is None else f"{row.accuracy:.1%}",
            f"{row.loss:+.4f}",
            f"{row.loss_bound:.4f}",
        )
    return shown
