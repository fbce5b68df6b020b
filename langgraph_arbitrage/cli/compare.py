"""`arbitrage compare`: compares two evaluations."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

__all__ = ["add_command"]

WORSE = 1
"""Exit status of --strict if a point became worse."""


def add_command(commands: Any) -> None:
    """Add the subcommand."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "compare",
        help="compare two evaluations",
        description="Compare two runs of `arbitrage evaluate`: accuracy, seconds and escalation "
        "rate of each policy and threshold, on the questions that both runs have in common, with "
        "bootstrap intervals. Exit status: 0; with --strict 1 if a point became worse.",
    )
    for name, run_name in (("before", "first"), ("after", "second")):
        parser.add_argument(
            name,
            type=Path,
            metavar=f"{name.upper()}.json",
            help=f"The results.json of the {run_name} run.",
        )
    parser.add_argument(
        "--slack",
        type=float,
        default=0.05,
        metavar="X",
        help="Relative difference in seconds that still counts as equal. (default: 0.05)",
    )
    parser.add_argument(
        "--strict", action="store_true", help="Exit with status 1 if a point became worse."
    )
    parser.add_argument("--json", action="store_true", help="Print the comparison as JSON.")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Load both results, compare and print them."""
    import json

    from rich.console import Console

    from langgraph_arbitrage.errors import SettingsError
    from langgraph_arbitrage.evaluation.comparison import compare, comparison_table
    from langgraph_arbitrage.evaluation.results import load_results

    if not args.slack >= 0:
        raise SettingsError(f"--slack must be 0 or more, not {args.slack}")
    comparison = compare(load_results(args.before), load_results(args.after), args.slack)
    console = Console(highlight=False)
    if args.json:
        print(json.dumps(comparison.plain, ensure_ascii=False))
    else:
        console.print(comparison_table(comparison))
        for note in comparison.notes:
            console.print(f"note: {note}", soft_wrap=True, markup=False)
        only = (("before", comparison.only_before), ("after", comparison.only_after))
        for side, titles in only:
            if titles:
                console.print(f"only {side}: {', '.join(titles)}", soft_wrap=True, markup=False)
        worse, total = len(comparison.worse), len(comparison.changes)
        verdict = f"{worse} of {total} points are worse" if worse else "No point is worse"
        console.print(verdict, style="bold red" if worse else "green")
    return WORSE if args.strict and comparison.worse else 0
