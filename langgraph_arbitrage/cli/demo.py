"""`arbitrage demo`: a few problems live, then a table over many."""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING, Any

from langgraph_arbitrage.cli.options import MODELS, add_setting_options, settings_of
from langgraph_arbitrage.config.run_settings import default_policy
from langgraph_arbitrage.embedded.problems import LEVELS, Problem, problems
from langgraph_arbitrage.errors import SettingsError
from langgraph_arbitrage.policies import RSD, AlwaysDraft, AlwaysTarget

if TYPE_CHECKING:
    from rich.console import Console

    from langgraph_arbitrage.cli.scoreboard import Row
    from langgraph_arbitrage.runner import Runner

__all__ = ["add_command"]

RSD_THRESHOLD = 0.5
"""The best for the embedded PRM: escalates least within one point of the target's accuracy, on
problems that no other figure uses (`benchmarks/router`)."""


def add_command(commands: Any) -> None:
    """Add the subcommand."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "demo",
        help="watch the embedded models solve problems, then see the figures",
        description="Answer a few held-out word problems live, then compare draft, target, RSD and "
        "both models under the router over many.",
    )
    for name, default, text in (
        ("questions", 50, "Problems of the table"),
        ("live", 3, "Problems that are answered live before"),
        ("seed", 0, "Other problems for another seed"),
    ):
        help_text = f"{text} (default: {default})"
        parser.add_argument(f"--{name}", type=int, default=default, metavar="N", help=help_text)
    parser.add_argument(
        "--level",
        type=int,
        choices=list(LEVELS),
        help="Problems of this level only: more steps with each (default: mixed)",
    )
    add_setting_options(parser, *MODELS, "budgets")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Answer live, then fill the table; what is there is printed even when it is interrupted."""
    from rich.console import Console

    from langgraph_arbitrage.cli.view import waiting

    if min(args.questions, args.live) < 0:
        raise SettingsError("--questions and --live must be 0 or more")
    seed, args.seed = args.seed, None  # of the problems, not of sampling
    settings = settings_of(args, max_slots=1)  # one question at a time
    console = Console(highlight=False)
    start = time.perf_counter()
    with waiting(console, "Loading the models …"):
        from langgraph_arbitrage.cli.scoreboard import Row
        from langgraph_arbitrage.runner import Runner

        runner = Runner(settings)
        rows = [
            Row("draft only", runner.with_policy(AlwaysDraft())),
            Row("target only", runner.with_policy(AlwaysTarget())),
            Row("arbitraged", runner),
        ]
        if default_policy(settings.draft, settings.target) == runner.policy:  # the embedded trio
            rows.insert(2, Row("RSD", runner.with_policy(RSD("embedded:prm", RSD_THRESHOLD))))
        for row in rows:
            row.runner.check("Hello!")
        for row in rows:
            row.runner.warm_up()
    seconds = time.perf_counter() - start
    drawn = list(problems(args.live + args.questions, seed, args.level))
    console.print(f"Models loaded in {seconds:.1f} s, which no figure below counts.", style="dim")
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
    hard = " (the problem has a step that neither model has learned)" if problem.hard else ""
    verdict = f"✗ wrong: the answer is {problem.answer}{hard}"
    console.print(verdict, style="red", soft_wrap=not console.is_terminal)


def _compare(asked: list[Problem], rows: list[Row], console: Console) -> None:
    """Each problem goes to all rows before the next one, so that they share the machine's noise."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    from langgraph_arbitrage.cli.scoreboard import scoreboard
    from langgraph_arbitrage.cli.view import interactive
    from langgraph_arbitrage.embedded import check_answer

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    bar = Progress(
        *columns,
        TimeRemainingColumn(),
        console=console,
        transient=True,
        refresh_per_second=2,
        disable=not interactive(console),
    )
    done = 0
    console.print()
    try:
        with bar:
            task = bar.add_task("Comparing", total=len(asked))
            for problem in asked:
                answers = []
                for row in rows:
                    row.runner.warm_up()  # so that none finds in the cache what another has read
                    answers.append(row.runner.answer(problem.question))
                for row, answer in zip(rows, answers, strict=True):
                    row.answers.append((answer, check_answer(problem, answer.text)))
                done += 1
                bar.advance(task)
    finally:
        if done:
            console.print(scoreboard(asked[:done], rows, total=len(asked)))
