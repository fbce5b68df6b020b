"""`arbitrage bench`: measures a pair of models and forecasts the speed-up of the loop."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from langgraph_arbitrage.cli.options import MODELS, add_setting_options, settings_of
from langgraph_arbitrage.errors import SettingsError

if TYPE_CHECKING:
    from rich.table import Table

    from langgraph_arbitrage.performance import Bench

__all__ = ["add_command"]

SEED = 61
"""Seed of the embedded problems. No other benchmark uses it."""


def add_command(commands: Any) -> None:
    """Add the subcommand."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "bench",
        help="measure a pair of models and forecast the speed-up",
        description="Measure the memory bandwidth and compute of this device, and the cost of "
        "draft, target and router on it. Print a lower bound for the time of each model, the "
        "acceptance rate at which the loop breaks even, and the speed-up at each escalation rate.",
    )
    parser.add_argument(
        "question",
        nargs="*",
        metavar="QUESTION",
        help="Questions to measure on. (default: generated word problems, which the embedded "
        "models can solve)",
    )
    parser.add_argument(
        "--questions",
        type=int,
        default=4,
        metavar="N",
        help="Number of word problems to measure on if no QUESTION is given. (default: 4)",
    )
    parser.add_argument(
        "--check",
        type=int,
        default=4,
        metavar="N",
        help="Number of questions answered by the loop and by the target alone to check the "
        "forecast; 0 skips the check. (default: 4)",
    )
    parser.add_argument(
        "--batch",
        type=int,
        nargs="+",
        default=[],
        metavar="B",
        help="Batch sizes at which decoding is measured in addition to 1.",
    )
    parser.add_argument(
        "--rounds",
        type=int,
        default=7,
        metavar="N",
        help="Number of repetitions of each measurement; the median is used. (default: 7)",
    )
    add_setting_options(parser, *MODELS, "sampling")
    parser.add_argument("--json", action="store_true", help="Print the results as a JSON object.")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Measure, then print the results."""
    for name, minimum in (("questions", 1), ("check", 0), ("rounds", 1)):
        if getattr(args, name) < minimum:
            raise SettingsError(f"--{name} must be at least {minimum}, not {getattr(args, name)}")
    if any(size < 1 for size in args.batch):
        raise SettingsError(f"--batch must be at least 1, not {min(args.batch)}")
    settings = settings_of(args, max_slots=max([1, *args.batch]), temperature=0.0)
    from rich.console import Console

    from langgraph_arbitrage.cli.ask import check_question
    from langgraph_arbitrage.cli.view import is_interactive
    from langgraph_arbitrage.embedded.problems import problems
    from langgraph_arbitrage.performance import run_bench

    if args.question:
        questions = [check_question(question) for question in args.question]
        check = (questions * args.check)[: args.check]
    else:
        drawn = [p.question for p in problems(args.questions + args.check, SEED)]
        questions, check = drawn[: args.questions], drawn[args.questions :]
    progress, console = Console(stderr=True), Console(highlight=False)

    def report(activity: str) -> None:
        if is_interactive(progress):
            progress.print(f"{activity} …", style="dim")

    bench = run_bench(
        settings, questions, check=check, batches=args.batch, rounds=args.rounds, tell=report
    )
    if args.json:
        print(json.dumps(bench.record, ensure_ascii=False))
        return
    for table in (_model_table(bench), _speed_up_table(bench)):
        console.print(table)
    for line in _notes(bench):
        console.print(line, soft_wrap=not console.is_terminal)


def _table(title: str, *heads: str) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, title=title, title_justify="left")
    table.add_column("")
    for head in heads:
        table.add_column(head, justify="right")
    return table


def _model_table(bench: Bench) -> Table:
    """A table with the size, lower bounds and measured times of each model."""
    roles, alone = list(bench.roles.values()), bench.forecast.alone
    table = _table("Each model at batch size 1, times in milliseconds", *bench.roles)
    rows = {
        "parameters": [f"{r.parameters / 1e6:.3g} M" for r in roles],
        "weights read per token": [f"{r.weights / 2**20:.3g} MiB" for r in roles],
        "memory bandwidth": [f"{r.bandwidth / 1e9:.1f} GB/s" for r in roles],
        "compute": [f"{r.operations / 1e9:.0f} GFLOP/s" for r in roles],
        "token, lower bound": [_ms(r.token_floor) for r in roles],
        "token, measured": [_ms(r.token) for r in roles],
        "step, lower bound": [_ms(r.step_floor) for r in roles],
        "step, measured": [_ms(r.step) for r in roles],
        "lower bound / measured": [f"{r.share:.0%}" for r in roles],
        "step / target's step": [f"{r.step / alone:.3f}" for r in roles],
    }
    for size in roles[0].batches:
        cells = [f"{r.batches[size]:.0f}" if r.batches else "–" for r in roles]
        rows[f"tokens/s at batch size {size}"] = cells
    for name, cells in rows.items():
        table.add_row(name, *cells)
    return table


def _speed_up_table(bench: Bench) -> Table:
    """A table with the forecast at each escalation rate."""
    from langgraph_arbitrage.performance.forecast import RATES

    f = bench.forecast
    heads = ("ms per step", "ms per question", "speed-up", "no draft tokens accepted")
    table = _table("Forecast of the loop, by escalation rate", *heads)
    for rate in RATES:
        table.add_row(
            f"{rate:.0%}",
            _ms(f.step(rate)),
            _ms(f.question(rate)),
            f"{f.speed_up(rate):.2f}×",
            f"{f.speed_up(rate, verified=False):.2f}×",
        )
    alone = f.alone + f.graph
    table.add_row("target alone", _ms(alone), _ms(f.question_alone), "1.00×", "1.00×", style="dim")
    return table


def _notes(bench: Bench) -> list[str]:
    """The measurements behind the forecast, its check and the verdict."""
    f = bench.forecast
    steps = (
        f"Measured on {bench.steps} steps with a mean of {f.draft_step:.0f} tokens (target: "
        f"{f.target_step:.0f}). {bench.policy} escalates {bench.rate:.0%} of them, and the target "
        f"accepts {bench.agreement:.0%} of their draft tokens. The graph adds "
        f"{1e3 * f.graph:.2f} ms per step."
    )
    break_even = (
        f"Acceptance rate at break-even: {_acceptance(f.break_even())}; if the target accepts no "
        f"draft tokens: {_acceptance(f.break_even(verified=False))}; "
        f"(draft + router) / target: {f.paper:.2f}."
    )
    lines = [steps, break_even]
    if bench.check is not None:
        c = bench.check
        check = (
            f"Check on {c.questions} questions, in ms per question: target alone "
            f"{_against(c.alone_forecast, c.alone)}; loop {_against(c.loop_forecast, c.loop)} at "
            f"an escalation rate of {c.rate:.0%}; speed-up {c.speed_up_forecast:.2f}× forecast, "
            f"{c.speed_up:.2f}× measured."
        )
        lines.append(check)
    return [*lines, bench.verdict]


def _against(forecast: float, measured: float) -> str:
    return (
        f"{1e3 * forecast:.4g} forecast, {1e3 * measured:.4g} measured "
        f"({forecast / measured - 1:+.0%})"
    )


def _acceptance(rate: float | None) -> str:
    if rate is None:
        return "none (the loop never pays)"
    return f"{rate:.0%}" if rate else "0% (the loop always pays)"


def _ms(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    return f"{1e3 * seconds:.3f}" if seconds < 1e-3 else f"{1e3 * seconds:.4g}"
