"""`arbitrage evaluate`: policies and thresholds on questions with answers, and the report."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from langgraph_arbitrage.cli.options import (
    add_options,
    add_setting_options,
    config_of,
    settings_of,
)
from langgraph_arbitrage.evaluation.configs import EvaluateConfig
from langgraph_arbitrage.training.configs import CHECKER

if TYPE_CHECKING:
    from rich.console import Console

    from langgraph_arbitrage.evaluation.dataset import Dataset
    from langgraph_arbitrage.evaluation.sweep import Progress, Sweep

__all__ = ["add_command"]

NOBODY = "nobody"
EVERY = 30.0  # seconds between two lines of progress where nobody looks at a terminal
POLICIES = "router, rsd, judge, confidence, random, oracle, exact, draft, target, assisted"


def add_command(commands: Any) -> None:
    """Add the subcommand."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "evaluate",
        help="sweep policies and thresholds over questions with answers, and make the report",
        description="Answer all questions under each policy and threshold, grade the answers, and "
        "write figures (CSV, JSON), plots (PNG, SVG) and one HTML report in which single answers "
        "can be read step by step. Answers are kept one by one: the same command again goes on "
        f"where it was stopped. Policies: {POLICIES} (assisted is transformers' token-level "
        "speculation, exact the exact oracle of embedded problems).",
    )
    _add_questions(parser)
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FOLDER", help="Where everything is written"
    )
    add_options(parser, EvaluateConfig)
    parser.add_argument(
        "--at",
        action="append",
        default=[],
        metavar="POLICY=X,Y",
        help="Thresholds of a policy in the place of those laid out; give it again for another",
    )
    parser.add_argument(
        "--router", dest="policy_router", metavar="CHECKPOINT",
        help="Trained router, for the policy router (default: the embedded one for the embedded "
        "pair)",
    )  # fmt: skip
    parser.add_argument(
        "--prm", dest="policy_prm", metavar="CHECKPOINT",
        help="Process reward model, for rsd and oracle (default: the embedded one for the embedded "
        "pair)",
    )  # fmt: skip
    parser.add_argument(
        "--scored-by",
        metavar="MODEL",
        help="Who scores both steps for the report and tells which escalations were wasted, not in "
        f"the time that is told: a PRM, {CHECKER} (the exact checker of embedded problems) or "
        f"{NOBODY} (default: --prm)",
    )
    pair = ("draft", "target", "device", "dtype", "chat_template", "timeout")
    add_setting_options(parser, *pair, "limits", "sampling")
    parser.set_defaults(run=run)


def _add_questions(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "questions",
        metavar="QUESTIONS",
        help="gsm8k, math500 or olympiadbench (from the hub); a JSONL file of one of these formats "
        "or with columns of one's own; a data set of the hub (owner/name or owner/name:config); "
        "embedded:N:SEED for N of the embedded problems",
    )
    parser.add_argument(
        "--column", metavar="NAME", help="Column of the questions (default: the known format's)"
    )
    parser.add_argument(
        "--answer-column",
        metavar="NAME",
        help="Column of the right answers (default: the known format's)",
    )
    parser.add_argument(
        "--split", metavar="NAME", help="Split of a data set of the hub (default: the known one's)"
    )
    parser.add_argument("--limit", type=int, metavar="N", help="At most so many questions")
    parser.add_argument(
        "--instruction",
        metavar="TEXT",
        help="Added to each question; '' adds nothing (default: to reason step by step and to box "
        "the answer; nothing for embedded problems)",
    )
    parser.add_argument(
        "--check-references",
        action="store_true",
        help="Only tell which references cannot be graded, or do not grade themselves as right",
    )


def run(args: argparse.Namespace) -> int | None:
    """Check everything, then sweep, then write."""
    from rich.console import Console

    from langgraph_arbitrage.errors import SettingsError

    if args.limit is not None and args.limit < 1:
        raise SettingsError(f"--limit must be at least 1, not {args.limit}")
    console = Console(stderr=True, highlight=False)
    config = config_of(args, EvaluateConfig)
    dataset = _dataset(args, config, console)
    if args.check_references:
        return _check(dataset, config)
    if args.output is None:
        raise SettingsError("say where everything is to be written: -o FOLDER")
    _tell_left_out(dataset, console)
    sweep = _sweep(args, config, dataset)
    with sweep, _progress(console) as tell:
        sweep.tell = tell
        if sweep.resumed:
            console.print(f"{sweep.resumed:,} answers are in {args.output} already")
        try:
            _run(sweep)
        except KeyboardInterrupt:
            console.print("stopped: the same command goes on", soft_wrap=True)
            raise
        _write(sweep, args.output, console)
    return None


def _dataset(args: argparse.Namespace, config: EvaluateConfig, console: Console) -> Dataset:
    from langgraph_arbitrage.cli.view import waiting
    from langgraph_arbitrage.evaluation.dataset import load_dataset
    from langgraph_arbitrage.evaluation.grading import Grader

    embedded = args.questions.startswith("embedded")
    grader = None if embedded else Grader(config.grading_limit)
    try:
        with waiting(console, "Reading the questions …"):
            return load_dataset(
                args.questions,
                column=args.column,
                answer_column=args.answer_column,
                split=args.split,
                limit=args.limit,
                instruction=args.instruction,
                grader=grader,
            )
    finally:
        if grader is not None:
            grader.close()


def _tell_left_out(dataset: Dataset, console: Console) -> None:
    if not dataset.left_out:
        return
    console.print(f"left out: {len(dataset.left_out)} questions", style="yellow")
    for one in dataset.left_out[:10]:
        console.print(f"  {one.reason}: {one.reference!r}", soft_wrap=True, markup=False)


def _check(dataset: Dataset, config: EvaluateConfig) -> int:
    """Grade each reference by itself; 1 if any does not pass."""
    from langgraph_arbitrage.evaluation.grading import Grader, final_reference

    wrong = []
    with Grader(config.grading_limit) as grader:
        for task in dataset.tasks:
            grade = grader.grade(f"\\boxed{{{final_reference(task.reference)}}}", task.reference)
            if grade != "right":
                wrong.append((grade, task.reference))
    every = len(dataset.tasks) + len(dataset.left_out)
    print(f"{len(dataset.tasks) - len(wrong):,} of {every:,} references grade themselves as right")
    for grade, reference in wrong:
        print(f"  {grade}: {reference!r}")
    for one in dataset.left_out:
        print(f"  {one.reason}: {one.reference!r}")
    return int(bool(wrong or dataset.left_out))


def _sweep(args: argparse.Namespace, config: EvaluateConfig, dataset: Dataset) -> Sweep:
    from langgraph_arbitrage.errors import SettingsError
    from langgraph_arbitrage.evaluation.points import Lineup, explicit
    from langgraph_arbitrage.evaluation.sweep import Sweep
    from langgraph_arbitrage.scorers import load_scorer

    settings = settings_of(args)
    if settings.temperature and settings.seed is None:
        settings = settings.model_copy(update={"seed": 0})  # or else no sweep could go on
    problems = {t.prompt: t.problem for t in dataset.tasks if t.problem is not None}
    known = problems if len(problems) == len(dataset.tasks) else None
    lineup = Lineup.of(settings, args.policy_router, args.policy_prm, known)
    kinds = lineup.kinds(config.policies)
    by = args.scored_by or lineup.prm or NOBODY
    if by == CHECKER and known is None:
        raise SettingsError(
            "the exact checker knows embedded problems only: name a PRM with --scored-by"
        )
    scorer: Any = None if by == NOBODY else CHECKER if by == CHECKER else load_scorer(by)
    return Sweep(dataset, lineup, config, kinds, explicit(args.at, kinds), args.output, scorer)


def _run(sweep: Sweep) -> None:
    import asyncio

    asyncio.run(sweep.run())


def _write(sweep: Sweep, folder: Path, console: Console) -> None:
    """Everything that comes of the answers."""
    from langgraph_arbitrage.evaluation.plots import save_plots
    from langgraph_arbitrage.evaluation.report import save_report
    from langgraph_arbitrage.evaluation.results import results_of, save_results
    from langgraph_arbitrage.evaluation.tables import headlines, points_table, save_points

    answers = sweep.answers()
    left_out = [*sweep.dataset.left_out, *sweep.left_out]
    results = results_of(sweep.points, sweep.tasks, left_out, answers, sweep.config, sweep.header)
    written = [save_results(results, folder), save_points(results, folder)]
    written += save_plots(results, folder)
    written.append(save_report(results, answers, folder, sweep.config.traces))
    from rich.console import Console

    out = Console(highlight=False)
    out.print(points_table(results))
    for line in headlines(results):
        out.print(line, soft_wrap=True)
    console.print(f"written: {', '.join(map(str, written))}", style="dim", soft_wrap=True)


@contextmanager
def _progress(console: Console) -> Iterator[Callable[[Progress], None]]:
    """A bar on a terminal; elsewhere a line now and then."""
    from langgraph_arbitrage.cli.collect import bar
    from langgraph_arbitrage.cli.view import interactive

    if not interactive(console):
        yield _Lines(console)
        return
    with bar() as progress:
        task = progress.add_task("", total=None)

        def tell(now: Progress) -> None:
            progress.update(task, description=now.what, completed=now.done, total=now.total or None)

        yield tell


class _Lines:
    """Progress for a log: the first line after some time, so that short sweeps tell nothing."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._told = time.monotonic()
        self._began: tuple[float, int] | None = None

    def __call__(self, now: Progress) -> None:
        time_now = time.monotonic()
        if self._began is None and now.total:
            self._began = time_now, now.done
        if time_now - self._told < EVERY or self._began is None:
            return
        self._told = time_now
        start, before = self._began
        rate = (now.done - before) / max(1e-9, time_now - start)
        left = (now.total - now.done) / rate / 60 if rate else float("inf")
        told = f"{now.done:,} of {now.total:,} answers, {rate:.1f} a second, {left:.0f} min left"
        self._console.print(told, soft_wrap=True)
