"""`arbitrage calibrate`: what a router's thresholds do, stored beside it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from langgraph_arbitrage.cli.collect import MODELS, add_questions, questions_of, work_progress
from langgraph_arbitrage.cli.fields import add_fields, config_of
from langgraph_arbitrage.cli.options import LIMITS, add_options, settings_of

if TYPE_CHECKING:
    from rich.table import Table

    from langgraph_arbitrage.policies.calibration import Calibration
    from langgraph_arbitrage.training import CalibrateConfig

__all__ = ["add_command"]


def add_command(commands: Any) -> None:
    """Add the subcommand."""
    from langgraph_arbitrage.training.calibrate import CalibrateConfig

    parser: argparse.ArgumentParser = commands.add_parser(
        "calibrate",
        help="find a router's thresholds",
        description="What happens at each threshold: escalations, wasted ones, scores, accuracy, "
        "and what is lost against the target alone, with a bound that holds. The table is stored "
        "beside the router; then threshold='rate:0.3' and 'loss:0.01' are understood.",
    )
    parser.add_argument("router", metavar="ROUTER", help="Checkpoint of the router, a folder")
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
    add_fields(parser, CalibrateConfig)
    add_options(parser, (*MODELS, *LIMITS))
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Measure, store, print."""
    from rich.console import Console

    from langgraph_arbitrage.errors import SettingsError
    from langgraph_arbitrage.policies.calibration import parse
    from langgraph_arbitrage.training import CalibrateConfig

    if (args.questions is None) == (args.rows is None):
        raise SettingsError("give questions to run, or --rows with collected ones")
    if not Path(args.router).is_dir():
        raise SettingsError(
            f"{args.router} is no folder here; the table is stored beside the router: download it "
            f"first with `hf download {args.router} --local-dir FOLDER`"
        )
    for wanted in args.find:
        parse(wanted)
    config = config_of(args, CalibrateConfig)
    measure = _from_rows if args.rows else _from_questions
    calibration = measure(args, config)
    path = calibration.save(args.router)
    console = Console(highlight=False)
    console.print(table(calibration))
    console.print(f"stored in {path}", style="dim", soft_wrap=True)
    for wanted in args.find:
        found = calibration.threshold(wanted, Path(args.router).name)
        console.print(f"{wanted}: threshold {found:.4g}")


def _from_rows(args: argparse.Namespace, config: CalibrateConfig) -> Calibration:
    import asyncio

    from rich.console import Console

    from langgraph_arbitrage.errors import DataError
    from langgraph_arbitrage.models import Models
    from langgraph_arbitrage.scorers import load_scorer
    from langgraph_arbitrage.training import calibrate_rows, question_id, read_rows
    from langgraph_arbitrage.training.card import TrainingRecord
    from langgraph_arbitrage.training.examples import Example
    from langgraph_arbitrage.training.replay import replay

    known = set(TrainingRecord.questions_of(args.router))
    every = read_rows(args.rows)
    rows = [row for row in every if question_id(row["question"]) not in known]
    if not rows:
        raise DataError(
            f"the router was trained on all of these {len(every)} rows: calibrate on rows of "
            "other questions"
        )
    examples = [
        Example(r["question"], tuple(r["history"]), tuple(r["tags"]), r["z_d"], r["y"], r["delta"])
        for r in rows
    ]
    models = Models(settings_of(args))
    try:
        with work_progress(Console(stderr=True)) as bar:
            task = bar.add_task("Questions", total=len({e.question for e in examples}))
            replayed = asyncio.run(
                replay(
                    models,
                    load_scorer(args.router),
                    examples,
                    concurrency=config.concurrency,
                    progress=lambda: bar.advance(task),
                )
            )
    finally:
        models.close()
    return calibrate_rows(rows, [r.judgement.value for r in replayed], config)


def _from_questions(args: argparse.Namespace, config: CalibrateConfig) -> Calibration:
    import asyncio

    from rich.console import Console

    from langgraph_arbitrage.models import Models
    from langgraph_arbitrage.policies import LearnedRouter
    from langgraph_arbitrage.scorers import load_scorer
    from langgraph_arbitrage.training import Calibrator, unused
    from langgraph_arbitrage.training.card import TrainingRecord
    from langgraph_arbitrage.training.verdict import CHECKER

    questions = unused(questions_of(args), TrainingRecord.questions_of(args.router))
    prm = args.prm if args.prm in (None, CHECKER) else load_scorer(args.prm)
    policy = LearnedRouter(args.router)
    models = Models(settings_of(args, router=policy))
    calibrator = Calibrator(models, policy, config, prm)
    try:
        with work_progress(Console(stderr=True)) as bar:
            task = bar.add_task("Questions", total=len(questions))
            return asyncio.run(calibrator.calibrate(questions, lambda: bar.advance(task)))
    finally:
        models.close()


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
