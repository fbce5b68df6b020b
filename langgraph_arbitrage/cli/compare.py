"""`arbitrage compare`: two evaluations side by side."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

__all__ = ["add_command"]

WORSE = 1


def add_command(commands: Any) -> None:
    """Add the subcommand."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "compare",
        help="put two evaluations side by side",
        description="What became better and what worse between two runs of `arbitrage evaluate`: "
        "accuracy, seconds and escalation of each policy and threshold, on the questions that both "
        "have, with bootstrap intervals. Exit status: 0; 1 with --strict if something is worse.",
    )
    for name, text in (("before", "Results of one run"), ("after", "Results of the other run")):
        parser.add_argument(
            name, type=Path, metavar=f"{name.upper()}.json", help=f"{text}: its results.json"
        )
    parser.add_argument(
        "--slack",
        type=float,
        default=0.05,
        metavar="X",
        help="Share by which seconds may differ and count as the same (default: 0.05)",
    )
    parser.add_argument("--strict", action="store_true", help="Exit status 1 if something is worse")
    parser.add_argument("--json", action="store_true", help="Print it as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Read both, compare, print."""
    import json

    from rich.console import Console

    from langgraph_arbitrage.errors import SettingsError
    from langgraph_arbitrage.evaluation.comparison import compare, comparison_table
    from langgraph_arbitrage.evaluation.results import load_results

    if not args.slack >= 0:
        raise SettingsError(f"--slack must be 0 or more, not {args.slack}")
    found = compare(load_results(args.before), load_results(args.after), args.slack)
    console = Console(highlight=False)
    if args.json:
        print(json.dumps(found.plain, ensure_ascii=False))
    else:
        console.print(comparison_table(found))
        for note in found.notes:
            console.print(f"note: {note}", soft_wrap=True, markup=False)
        for side, titles in (("before", found.only_before), ("after", found.only_after)):
            if titles:
                console.print(f"only {side}: {', '.join(titles)}", soft_wrap=True, markup=False)
        worse = len(found.worse)
        told = f"{worse} of {len(found.changes)} points are worse" if worse else "nothing is worse"
        console.print(told, style="bold red" if worse else "green")
    return WORSE if args.strict and found.worse else 0
