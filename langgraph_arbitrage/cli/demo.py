"""`arbitrage demo`: answers a few problems live, then compares policies on many problems."""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING, Any

from langgraph_arbitrage.cli.notice import print_demo_notice
from langgraph_arbitrage.cli.options import MODELS, add_setting_options, settings_of
from langgraph_arbitrage.config.run_settings import default_policy
from langgraph_arbitrage.embedded.problems import LEVELS, Problem, problems
from langgraph_arbitrage.errors import SettingsError
from langgraph_arbitrage.policies import RSD, AlwaysDraft, AlwaysTarget

if TYPE_CHECKING:
    from rich.console import Console

    from langgraph_arbitrage.cli.demo_table import PolicyAnswers
    from langgraph_arbitrage.runner import Runner

__all__ = ["add_command"]

RSD_THRESHOLD = 0.5
"""Threshold of RSD with the embedded PRM: the lowest escalation rate within one point of the
target's accuracy, measured by `benchmarks/router` on other problems."""


def add_command(commands: Any) -> None:
    """Add the subcommand."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "demo",
        help="solve word problems with the embedded models and compare policies",
        description="Answer a few held-out word problems live. Then answer many more and print a "
        "table that compares the draft alone, the target alone, RSD and the router.",
    )
    for name, default, text in (
        ("questions", 50, "Number of problems for the table."),
        ("live", 3, "Number of problems answered live."),
        ("seed", 0, "Seed of the problems."),
    ):
        help_text = f"{text} (default: {default})"
        parser.add_argument(f"--{name}", type=int, default=default, metavar="N", help=help_text)
    parser.add_argument(
        "--level",
        type=int,
        choices=list(LEVELS),
        help="Level of the problems; a higher level has more steps. (default: all levels)",
    )
    add_setting_options(parser, *MODELS, "budgets")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Answer live, then fill the table. An interrupted table is printed with the rows so far."""
    from rich.console import Console

    from langgraph_arbitrage.cli.view import spinner

    if min(args.questions, args.live) < 0:
        raise SettingsError("--questions and --live must be 0 or more")
    seed, args.seed = args.seed, None  # --seed selects problems; decoding is greedy
    settings = settings_of(args, max_slots=1)  # one question at a time
    print_demo_notice(settings)
    console = Console(highlight=False)
    start = time.perf_counter()
    with spinner(console, "Loading the models …"):
        from langgraph_arbitrage.cli.demo_table import PolicyAnswers
        from langgraph_arbitrage.runner import Runner

        runner = Runner(settings)
        rows = [
            PolicyAnswers("draft only", runner.with_policy(AlwaysDraft())),
            PolicyAnswers("target only", runner.with_policy(AlwaysTarget())),
            PolicyAnswers("arbitraged", runner),
        ]
        if default_policy(settings.draft, settings.target) == runner.policy:  # the embedded pair
            rsd = runner.with_policy(RSD("embedded:prm", RSD_THRESHOLD))
            rows.insert(2, PolicyAnswers("RSD", rsd))
        for row in rows:
            row.runner.check("Hello!")
        for row in rows:
            row.runner.warm_up()
    seconds = time.perf_counter() - start
    drawn = list(problems(args.live + args.questions, seed, args.level))
    console.print(
        f"Loaded the models in {seconds:.1f} s, which the times below exclude.", style="dim"
    )
    for problem in drawn[: args.live]:
        _show_live(problem, runner, console)
    if args.questions:
        _compare(drawn[args.live :], rows, console)


def _show_live(problem: Problem, runner: Runner, console: Console) -> None:
    from langgraph_arbitrage.cli.ask import show_answer, show_question
    from langgraph_arbitrage.embedded import check_answer

    show_question(problem.question, console)
    answer = show_answer(problem.question, runner, console)
    if check_answer(problem, answer.text):
        console.print(f"✓ {problem.answer} is right", style="green")
        return
    hard = " (it has a step that neither model was trained on)" if problem.hard else ""
    verdict = f"✗ wrong: the answer is {problem.answer}{hard}"
    console.print(verdict, style="red", soft_wrap=not console.is_terminal)


def _compare(drawn: list[Problem], rows: list[PolicyAnswers], console: Console) -> None:
    """Answer each problem with all policies before the next one, so they share the same noise."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    from langgraph_arbitrage.cli.demo_table import demo_table
    from langgraph_arbitrage.cli.view import is_interactive
    from langgraph_arbitrage.embedded import check_answer

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    bar = Progress(
        *columns,
        TimeRemainingColumn(),
        console=console,
        transient=True,
        refresh_per_second=2,
        disable=not is_interactive(console),
    )
    done = 0
    console.print()
    try:
        with bar:
            task = bar.add_task("Comparing", total=len(drawn))
            for problem in drawn:
                answers = []
                for row in rows:
                    row.runner.warm_up()  # clears what earlier answers left in the KV caches
                    answers.append(row.runner.answer(problem.question))
                for row, answer in zip(rows, answers, strict=True):
                    row.answers.append((answer, check_answer(problem, answer.text)))
                done += 1
                bar.advance(task)
    finally:
        if done:
            console.print(demo_table(drawn[:done], rows, total=len(drawn)))
