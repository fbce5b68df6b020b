"""`arbitrage bench`: what a pair costs, what it could cost, and whether the loop pays for it."""

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

SEED = 61  # of the embedded problems, which no other figure uses


def add_command(commands: Any) -> None:
    """Add the subcommand."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "bench",
        help="measure a pair of models here: will the loop pay?",
        description="Measure what the device reaches and what draft, target and router cost on it; "
        "from these the floor of each, the acceptance rate to break even, and the speed-up at each "
        "escalation rate.",
    )
    parser.add_argument(
        "question",
        nargs="*",
        metavar="QUESTION",
        help="What to measure on. By default word problems, as the embedded models know them.",
    )
    parser.add_argument(
        "--questions",
        type=int,
        default=4,
        metavar="N",
        help="Word problems to measure on, where no QUESTION is given (default: 4)",
    )
    parser.add_argument(
        "--check",
        type=int,
        default=4,
        metavar="N",
        help="Questions that the loop and the target alone then answer, to hold the forecast "
        "against; 0 leaves that out (default: 4)",
    )
    parser.add_argument(
        "--batch",
        type=int,
        nargs="+",
        default=[],
        metavar="B",
        help="Measure decoding with so many sequences at a time, too",
    )
    parser.add_argument(
        "--rounds",
        type=int,
        default=7,
        metavar="N",
        help="Rounds of each measurement, of which the median is taken (default: 7)",
    )
    add_setting_options(parser, *MODELS, "sampling")
    parser.add_argument("--json", action="store_true", help="Print one JSON object instead.")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Measure, then print."""
    for name, least in (("questions", 1), ("check", 0), ("rounds", 1)):
        if getattr(args, name) < least:
            raise SettingsError(f"--{name} must be {least} or more, not {getattr(args, name)}")
    if any(size < 1 for size in args.batch):
        raise SettingsError(f"--batch must be 1 or more, not {min(args.batch)}")
    settings = settings_of(args, max_slots=max([1, *args.batch]))
    from rich.console import Console

    from langgraph_arbitrage.cli.ask import check_question
    from langgraph_arbitrage.cli.view import interactive
    from langgraph_arbitrage.embedded.problems import problems
    from langgraph_arbitrage.performance import run_bench

    if args.question:
        asked = [check_question(question) for question in args.question]
        check = (asked * args.check)[: args.check]
    else:
        drawn = [p.question for p in problems(args.questions + args.check, SEED)]
        asked, check = drawn[: args.questions], drawn[args.questions :]
    progress, console = Console(stderr=True), Console(highlight=False)

    def tell(text: str) -> None:
        if interactive(progress):
            progress.print(f"{text} …", style="dim")

    bench = run_bench(
        settings, asked, check=check, batches=args.batch, rounds=args.rounds, tell=tell
    )
    if args.json:
        print(json.dumps(bench.record, ensure_ascii=False))
        return
    for table in (_models(bench), _speed_ups(bench)):
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


def _models(bench: Bench) -> Table:
    """Each model: its size, its floors, its costs."""
    roles, whole = list(bench.roles.values()), bench.forecast.alone
    table = _table("Each model at batch 1, in milliseconds", *bench.roles)
    rows = {
        "parameters": [f"{r.parameters / 1e6:.3g} M" for r in roles],
        "weights that a token needs": [f"{r.weights / 2**20:.3g} MiB" for r in roles],
        "the device reads so many at": [f"{r.bandwidth / 1e9:.1f} GB/s" for r in roles],
        "and computes": [f"{r.operations / 1e9:.0f} GFLOP/s" for r in roles],
        "a token, floor": [_ms(r.token_floor) for r in roles],
        "a token, measured": [_ms(r.token) for r in roles],
        "a step, floor": [_ms(r.step_floor) for r in roles],
        "a step, measured": [_ms(r.step) for r in roles],
        "of it the floor": [f"{r.share:.0%}" for r in roles],
        "of the target's step": [f"{r.step / whole:.3f}" for r in roles],
    }
    for size in roles[0].batches:
        found = [f"{r.batches[size]:.0f}" if r.batches else "–" for r in roles]
        rows[f"tokens a second, {size} at a time"] = found
    for name, cells in rows.items():
        table.add_row(name, *cells)
    return table


def _speed_ups(bench: Bench) -> Table:
    """What the loop should bring at each rate of escalation."""
    from langgraph_arbitrage.performance.forecast import RATES

    f = bench.forecast
    heads = ("ms a step", "ms a question", "speed-up", "if nothing is kept")
    table = _table("The loop, by the part of the steps that is escalated", *heads)
    for rate in RATES:
        table.add_row(
            f"{rate:.0%}",
            _ms(f.step(rate)),
            _ms(f.question(rate)),
            f"{f.speed_up(rate):.2f}×",
            f"{f.speed_up(rate, keeps=False):.2f}×",
        )
    alone = f.alone + f.graph
    table.add_row("target alone", _ms(alone), _ms(f.question_alone), "1.00×", "1.00×", style="dim")
    return table


def _notes(bench: Bench) -> list[str]:
    """What the tables stand on, what came of the check, the verdict."""
    f = bench.forecast
    steps = (
        f"{bench.steps} steps of {f.draft_step:.0f} tokens (target {f.target_step:.0f}). "
        f"{bench.policy} escalates {bench.rate:.0%}, and the target keeps {bench.agreement:.0%} "
        f"of their tokens. The graph takes {1e3 * f.graph:.2f} ms a step."
    )
    even = (
        f"Acceptance to break even: {_part(f.break_even())}; if nothing of an escalated step is "
        f"kept, {_part(f.break_even(keeps=False))}; (draft + router) / target = {f.paper:.2f}."
    )
    lines = [steps, even]
    if bench.check is not None:
        c = bench.check
        found = (
            f"Forecast against {c.questions} whole answers, ms a question: target alone "
            f"{_against(c.alone_forecast, c.alone)}, loop {_against(c.loop_forecast, c.loop)} at "
            f"{c.rate:.0%} escalated; speed-up {c.speed_up_forecast:.2f}× forecast, "
            f"{c.speed_up:.2f}× measured."
        )
        lines.append(found)
    return [*lines, bench.verdict]


def _against(forecast: float, measured: float) -> str:
    return (
        f"{1e3 * forecast:.4g} forecast, {1e3 * measured:.4g} measured "
        f"({forecast / measured - 1:+.0%})"
    )


def _part(acceptance: float | None) -> str:
    if acceptance is None:
        return "at none"
    return f"{acceptance:.0%}" if acceptance else "at any"


def _ms(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    return f"{1e3 * seconds:.3f}" if seconds < 1e-3 else f"{1e3 * seconds:.4g}"
