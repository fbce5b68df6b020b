"""`arbitrage calibrate`: measures a router at many thresholds and stores the table beside it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from langgraph_arbitrage.cli.collect import (
    PAIR_OPTIONS,
    add_question_options,
    progress_bar,
    questions_of,
)
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
        help="measure a router's thresholds",
        description="Measure a router at many thresholds: escalation rate, wasted escalations, "
        "PRM scores, accuracy, and the loss against the target alone with an upper bound. The "
        "table is stored in the router's folder. Afterwards the router accepts the thresholds "
        "rate:R and loss:E, such as rate:0.3 and loss:0.01.",
    )
    parser.add_argument("checkpoint", metavar="ROUTER", help="Folder of the router's checkpoint.")
    add_question_options(parser, nargs="?")
    parser.add_argument(
        "--rows",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="Rows of `arbitrage collect` to calibrate on instead of QUESTIONS. Only the router "
        "is run.",
    )
    parser.add_argument(
        "--answer-column",
        metavar="NAME",
        help="Column of the right answers. Not needed for embedded problems.",
    )
    parser.add_argument(
        "--prm",
        metavar="MODEL",
        help="PRM for the score columns: a checkpoint, or `checker` for the exact checker of the "
        "embedded problems. (default: no score columns)",
    )
    parser.add_argument(
        "--find",
        action="append",
        default=[],
        metavar="rate:R|loss:E",
        help="Print the threshold for this escalation rate or loss. May be given several times.",
    )
    add_options(parser, CalibrateConfig)
    add_setting_options(parser, *PAIR_OPTIONS)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Measure, store and print the table."""
    from langgraph_arbitrage.errors import SettingsError
    from langgraph_arbitrage.models.identifiers import local_path
    from langgraph_arbitrage.policies.calibration import parse_threshold_rule

    if (args.questions is None) == (args.rows is None):
        raise SettingsError("pass either QUESTIONS to run or collected --rows")
    folder = Path(local_path(args.checkpoint))
    if not folder.is_dir():
        raise SettingsError(
            f"{args.checkpoint} is not a local folder, and the table is stored in the router's "
            f"folder. Download it with `hf download {args.checkpoint} --local-dir FOLDER` and "
            "pass the folder"
        )
    for rule in args.find:
        parse_threshold_rule(rule)
    config = config_of(args, CalibrateConfig)
    measure = _from_rows if args.rows else _from_questions
    calibration = measure(args, folder, config)
    path = calibration.save(folder)

    from rich.console import Console

    console = Console(highlight=False)
    console.print(calibration_table(calibration))
    console.print(f"Stored in {path}", style="dim", soft_wrap=True)
    for rule in args.find:
        threshold = calibration.threshold(rule, folder.name)
        console.print(f"{rule}: threshold {threshold:.4g}")


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

    all_rows = read_rows(args.rows)
    rows = exclude_seen(all_rows, lambda row: row["question"], TrainingRecord.question_ids(folder))
    _print_excluded(len(all_rows) - len(rows), "rows")
    examples = [router_examples([row], margin=0.0).examples[0] for row in rows]
    models = Models(settings_of(args))
    try:
        with progress_bar() as progress:
            task = progress.add_task("Questions", total=len({e.question for e in examples}))
            scoring = score_examples(
                models,
                LearnedRouter(str(folder), threshold=0.5).scorer,
                examples,
                concurrency=config.concurrency,
                progress=lambda: progress.advance(task),
            )
            scores = asyncio.run(scoring)
    finally:
        models.close()
    return calibrate_rows(rows, [s.score.value for s in scores], config)


def _from_questions(args: argparse.Namespace, folder: Path, config: CalibrateConfig) -> Calibration:
    import asyncio

    from langgraph_arbitrage.loop.models import Models
    from langgraph_arbitrage.policies import LearnedRouter
    from langgraph_arbitrage.scorers import load_scorer
    from langgraph_arbitrage.training import Calibrator, TrainingRecord, exclude_seen

    all_questions = questions_of(args, args.answer_column)
    questions = exclude_seen(all_questions, lambda q: q.text, TrainingRecord.question_ids(folder))
    _print_excluded(len(all_questions) - len(questions), "questions")
    prm = args.prm if args.prm in (None, CHECKER) else load_scorer(args.prm)
    # An explicit threshold, because the default one would be read from an earlier table.
    policy = LearnedRouter(str(folder), threshold=0.5)
    models = Models(settings_of(args))
    calibrator = Calibrator(models, policy, config, prm)
    try:
        with progress_bar() as progress:
            task = progress.add_task("Questions", total=len(questions))
            calibration = calibrator.calibrate(questions, lambda: progress.advance(task))
            return asyncio.run(calibration)
    finally:
        models.close()


def _print_excluded(count: int, noun: str) -> None:
    if count:
        print(f"Excluded because the router was trained on their questions: {count:,} {noun}")


def calibration_table(calibration: Calibration) -> Table:
    """A table of the operating points."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    c = calibration
    table = Table(
        box=SIMPLE_HEAD,
        title=f"{c.questions:,} questions, {c.steps:,} steps, measured on {c.source}",
        caption=f"loss: {c.loss_of} of the target alone minus that of the router. loss bound: "
        f"upper bound on the loss; each holds with {c.confidence:.0%} confidence.",
        caption_justify="left",
    )
    for head in ("τ", "escalated", "wasted", "score", "accuracy", "loss", "loss bound"):
        table.add_column(head, justify="right")
    for point in c.table:
        table.add_row(
            f"{point.threshold:.4f}",
            f"{point.escalation_rate:.1%}",
            "–" if point.wasted is None else f"{point.wasted:.0%}",
            "–" if point.score is None else f"{point.score:.3f}",
            "–" if point.accuracy is None else f"{point.accuracy:.1%}",
            f"{point.loss:+.4f}",
            f"{point.loss_bound:.4f}",
        )
    return table
