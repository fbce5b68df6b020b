"""`arbitrage evaluate`: sweeps policies and thresholds over a dataset and writes the report."""

from __future__ import annotations

import argparse
import sys
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

NO_SCORER = "nobody"
"""Value of --scored-by that disables the scores."""
PIPE_WIDTH = 110
"""Columns of the table if stdout is not a terminal."""
LOG_INTERVAL = 30.0
"""Seconds between progress lines if stderr is not an interactive terminal."""
POLICIES = (
    "router, rsd, judge, likelihood, confidence, random, oracle, exact, draft, target, assisted"
)


def add_command(commands: Any) -> None:
    """Add the subcommand."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "evaluate",
        help="evaluate policies and thresholds on a dataset",
        description="Answer all questions of a dataset under each policy and threshold, and grade "
        "the answers. Write tables (CSV, JSON), plots (PNG, SVG) and an HTML report that shows "
        "answers step by step. Each answer is saved as soon as it is complete, and repeating the "
        f"command resumes an interrupted evaluation. Policies: {POLICIES}. assisted is the "
        "token-level speculative decoding of transformers; exact is an oracle that uses the exact "
        "checker of the embedded problems.",
    )
    _add_question_options(parser)
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="FOLDER",
        help="Folder to which all results are written. Required unless --check-references is "
        "given.",
    )
    add_options(parser, EvaluateConfig)
    parser.add_argument(
        "--at",
        action="append",
        default=[],
        metavar="POLICY=X,Y",
        help="Thresholds of a policy, instead of those chosen from --points. May be given several "
        "times.",
    )
    parser.add_argument(
        "--router",
        dest="policy_router",
        metavar="CHECKPOINT",
        help="Trained router for the policy router. (default: the embedded one for the embedded "
        "pair)",
    )
    parser.add_argument(
        "--prm",
        dest="policy_prm",
        metavar="CHECKPOINT",
        help="Process reward model for the policies rsd and oracle. (default: the embedded one "
        "for the embedded pair)",
    )
    parser.add_argument(
        "--scored-by",
        metavar="MODEL",
        help="Scorer of the draft's and the target's steps. The report shows the scores and "
        "derives the wasted escalations from them. Scoring is not part of the measured time. A "
        f"PRM checkpoint, {CHECKER} for the exact checker of the embedded problems, or "
        f"{NO_SCORER} for no scores. (default: the PRM of --prm)",
    )
    pair = ("draft", "target", "device", "dtype", "chat_template", "timeout")
    add_setting_options(parser, *pair, "limits", "sampling")
    parser.set_defaults(run=run)


def _add_question_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "questions",
        metavar="QUESTIONS",
        help="Dataset: gsm8k, math500 or olympiadbench (loaded from the hub); a JSONL file in one "
        "of these formats or with the columns named below; a dataset on the hub (owner/name or "
        "owner/name:config); or embedded:N:SEED for N generated word problems.",
    )
    parser.add_argument(
        "--column",
        metavar="NAME",
        help="Column of the questions. (default: that of the known format)",
    )
    parser.add_argument(
        "--answer-column",
        metavar="NAME",
        help="Column of the reference answers. (default: that of the known format)",
    )
    parser.add_argument(
        "--split",
        metavar="NAME",
        help="Split of a dataset on the hub. (default: that of the known format)",
    )
    parser.add_argument(
        "--limit", type=int, metavar="N", help="Maximum number of questions. (default: all)"
    )
    parser.add_argument(
        "--instruction",
        metavar="TEXT",
        help="Instruction appended to each question; '' appends none. (default: reason step by "
        "step and box the answer; none for embedded problems and for the embedded pair)",
    )
    parser.add_argument(
        "--check-references",
        action="store_true",
        help="Only check the reference answers: print those that cannot be graded or are not "
        "graded as right when given as the answer.",
    )


def run(args: argparse.Namespace) -> int | None:
    """Validate everything, then run the sweep and write its results."""
    from rich.console import Console

    from langgraph_arbitrage.errors import SettingsError

    if args.limit is not None and args.limit < 1:
        raise SettingsError(f"--limit must be at least 1, not {args.limit}")
    console = Console(stderr=True, highlight=False)
    config = config_of(args, EvaluateConfig)
    dataset = _load_dataset(args, config, console)
    if args.check_references:
        return _check_references(dataset, config)
    if args.output is None:
        raise SettingsError("the output folder is missing. Add -o FOLDER")
    _print_excluded(dataset, console)
    sweep = _sweep(args, config, dataset)
    with sweep, _progress(console) as report:
        sweep.tell = report
        if sweep.resumed:
            console.print(f"Resuming: {args.output} already contains {sweep.resumed:,} answers")
        try:
            _run(sweep)
        except KeyboardInterrupt:
            console.print("Interrupted. Repeat the command to resume.", soft_wrap=True)
            raise
        _write_results(sweep, args.output, console)
    return None


def _load_dataset(args: argparse.Namespace, config: EvaluateConfig, console: Console) -> Dataset:
    from langgraph_arbitrage.cli.view import spinner
    from langgraph_arbitrage.evaluation.dataset import default_instruction, load_dataset
    from langgraph_arbitrage.evaluation.grading import Grader

    embedded = args.questions.startswith("embedded")
    instruction = args.instruction
    if instruction is None and not embedded:
        settings = settings_of(args)
        instruction = default_instruction(settings.draft, settings.target)
    grader = None if embedded else Grader(config.grading_limit)
    try:
        with spinner(console, "Loading the questions …"):
            return load_dataset(
                args.questions,
                column=args.column,
                answer_column=args.answer_column,
                split=args.split,
                limit=args.limit,
                instruction=instruction,
                grader=grader,
            )
    finally:
        if grader is not None:
            grader.close()


def _print_excluded(dataset: Dataset, console: Console) -> None:
    if not dataset.left_out:
        return
    console.print(f"Excluded: {len(dataset.left_out)} questions", style="yellow")
    for question in dataset.left_out[:10]:
        console.print(f"  {question.reason}: {question.reference!r}", soft_wrap=True, markup=False)


def _check_references(dataset: Dataset, config: EvaluateConfig) -> int:
    """Grade each reference answer against itself. Return 1 if any is not graded as right."""
    from langgraph_arbitrage.evaluation.grading import Grader, final_reference

    failures = []
    with Grader(config.grading_limit) as grader:
        for task in dataset.tasks:
            grade = grader.grade(f"\\boxed{{{final_reference(task.reference)}}}", task.reference)
            if grade != "right":
                failures.append((grade, task.reference))
    right, total = len(dataset.tasks) - len(failures), len(dataset.tasks) + len(dataset.left_out)
    print(f"{right:,} of {total:,} references are graded as right against themselves")
    for grade, reference in failures:
        print(f"  {grade}: {reference!r}")
    for question in dataset.left_out:
        print(f"  {question.reason}: {question.reference!r}")
    return int(bool(failures or dataset.left_out))


def _sweep(args: argparse.Namespace, config: EvaluateConfig, dataset: Dataset) -> Sweep:
    from langgraph_arbitrage.errors import SettingsError
    from langgraph_arbitrage.evaluation.points import Lineup, explicit
    from langgraph_arbitrage.evaluation.sweep import Sweep
    from langgraph_arbitrage.scorers import load_scorer

    # Greedy unless asked otherwise, whatever the checkpoint's generation config says.
    settings = settings_of(args, temperature=args.temperature or 0.0)
    if settings.temperature and settings.seed is None:
        # Without a fixed seed, a resumed sweep would not reproduce the interrupted one.
        settings = settings.model_copy(update={"seed": 0})
    problems = {t.prompt: t.problem for t in dataset.tasks if t.problem is not None}
    embedded_problems = problems if len(problems) == len(dataset.tasks) else None
    lineup = Lineup.of(settings, args.policy_router, args.policy_prm, embedded_problems)
    kinds = lineup.kinds(config.policies)
    scored_by = args.scored_by or lineup.prm or NO_SCORER
    scorer: Any = None
    if scored_by == CHECKER:
        if embedded_problems is None:
            raise SettingsError(
                f"--scored-by {CHECKER} works for embedded problems only. Pass a PRM instead"
            )
        scorer = CHECKER
    elif scored_by != NO_SCORER:
        scorer = load_scorer(scored_by)
    return Sweep(dataset, lineup, config, kinds, explicit(args.at, kinds), args.output, scorer)


def _run(sweep: Sweep) -> None:
    import asyncio

    asyncio.run(sweep.run())


def _write_results(sweep: Sweep, folder: Path, console: Console) -> None:
    """Write results, tables, plots and the report, and print the main table."""
    from rich.console import Console

    from langgraph_arbitrage.evaluation.plots import save_plots
    from langgraph_arbitrage.evaluation.report import save_report
    from langgraph_arbitrage.evaluation.results import results_of, save_results
    from langgraph_arbitrage.evaluation.tables import headlines, points_table, save_points

    answers = sweep.answers()
    left_out = [*sweep.dataset.left_out, *sweep.left_out]
    results = results_of(
        sweep.points, sweep.tasks, left_out, answers, sweep.config, sweep.header, sweep.draft_scores
    )
    written = [save_results(results, folder), save_points(results, folder)]
    written += save_plots(results, folder)
    written.append(save_report(results, answers, folder, sweep.config.traces))
    # The table needs more than the 80 columns that rich assumes for a pipe.
    out = Console(highlight=False, width=None if sys.stdout.isatty() else PIPE_WIDTH)
    out.print(points_table(results))
    for line in headlines(results):
        out.print(line, soft_wrap=True)
    console.print(f"Written: {', '.join(map(str, written))}", style="dim", soft_wrap=True)


@contextmanager
def _progress(console: Console) -> Iterator[Callable[[Progress], None]]:
    """Yield a function that reports progress: as a bar on a terminal, else as log lines."""
    from langgraph_arbitrage.cli.collect import progress_bar
    from langgraph_arbitrage.cli.view import is_interactive

    if not is_interactive(console):
        yield _ProgressLog(console)
        return
    with progress_bar() as bar:
        task = bar.add_task("", total=None)

        def report(now: Progress) -> None:
            bar.update(task, description=now.what, completed=now.done, total=now.total or None)

        yield report


class _ProgressLog:
    """Prints a progress line every `LOG_INTERVAL` seconds. Short sweeps print none."""

    def __init__(self, console: Console) -> None:
        self._console = console
        # Time, number of finished answers and number of tokens when the first answer began.
        self._start: tuple[float, int, int] | None = None
        self._last_line = time.monotonic()

    def __call__(self, now: Progress) -> None:
        time_now = time.monotonic()
        if self._start is None and now.total:
            self._start = time_now, now.done, now.tokens
        if time_now - self._last_line < LOG_INTERVAL:
            return
        self._last_line = time_now
        if self._start is None:
            self._console.print(f"{now.what} …", soft_wrap=True)
            return
        start, done_before, tokens_before = self._start
        seconds, done = max(1e-9, time_now - start), now.done - done_before
        rate = (now.tokens - tokens_before) / seconds
        line = f"{now.done:,} of {now.total:,} answers, {rate:.1f} tokens/s"
        if done:
            line += f", {seconds / done:.1f} s per answer"
            line += f", {_duration((now.total - now.done) * seconds / done)} left"
        self._console.print(f"{line} ({now.what})", soft_wrap=True)


def _duration(seconds: float) -> str:
    """Format a duration, such as `40 s`, `12 min` or `3.5 h`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
