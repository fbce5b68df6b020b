"""`arbitrage batch`: answers a file of requests."""

from __future__ import annotations

import argparse
import asyncio
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from langgraph_arbitrage.batch import BatchJob, BatchSettings
from langgraph_arbitrage.batch.ray_settings import RaySettings
from langgraph_arbitrage.cli.notice import print_demo_notice
from langgraph_arbitrage.cli.options import (
    SERVICE,
    add_options,
    add_setting_options,
    config_of,
    option_name,
    settings_of,
)
from langgraph_arbitrage.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.console import Console

    from langgraph_arbitrage.batch import BatchSummary
    from langgraph_arbitrage.config.settings import ArbitrageSettings

__all__ = ["add_command"]

INCOMPLETE = 1
"""Exit status if a request has no answer."""
LOG_INTERVAL = 10.0
"""Seconds between progress lines if stderr is not an interactive terminal."""


def add_command(commands: Any) -> None:
    """Add the subcommand."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "batch",
        help="answer a file of requests",
        description="Answer a file of requests. Each input line is a request of OpenAI's batch "
        'API, or an object {"messages": …} or {"prompt": …}. Each output line has the format of '
        "OpenAI's batch API; lines are written as soon as they are complete, in any order. "
        "Repeating the command resumes an interrupted job, even after SIGKILL. Exit status: 0 if "
        "every request is answered, 1 if not, 2 for invalid arguments or files.",
    )
    parser.add_argument(
        "input", metavar="IN.jsonl", help="File with one request per line; - for stdin."
    )
    parser.add_argument(
        "-o",
        "--output",
        required=True,
        metavar="OUT.jsonl",
        help="File to which the answers are written; - for stdout.",
    )
    add_options(parser, BatchSettings)
    parser.add_argument(
        "--ray",
        action="store_true",
        help="Answer with Ray actors, each of which loads all models. Requires: "
        "pip install 'langgraph-arbitrage[ray]'.",
    )
    add_options(parser, RaySettings)
    add_setting_options(parser, *SERVICE)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Validate everything, then answer."""
    job_settings = config_of(args, BatchSettings)
    # More slots than concurrent requests would only reserve memory.
    settings = settings_of(args, max_slots=job_settings.concurrency)
    ray = _ray_settings(args)
    print_demo_notice(settings)
    with BatchJob(args.input, args.output, job_settings) as job:
        from rich.console import Console

        console = Console(stderr=True, highlight=False)
        try:
            if job.summary.remaining:
                if ray is None:
                    _answer(job, settings, console)
                else:
                    _answer_on_ray(job, settings, ray, console)
        finally:
            console.print(str(job.summary), soft_wrap=True)
        _print_hint(job.summary, console)
    return 0 if job.summary.succeeded else INCOMPLETE


def _ray_settings(args: argparse.Namespace) -> RaySettings | None:
    """The Ray settings; None without --ray."""
    ray_options = [n for n in RaySettings.model_fields if getattr(args, n) is not None]
    if args.ray:
        return config_of(args, RaySettings)
    if ray_options:
        raise SettingsError(f"{option_name(ray_options[0])} requires --ray")
    return None


def _answer_on_ray(
    job: BatchJob, settings: ArbitrageSettings, ray: RaySettings, console: Console
) -> None:
    from langgraph_arbitrage.batch.ray_job import run_on_ray

    with _progress(job.summary, console) as report:
        run_on_ray(job, settings, ray, report)


def _answer(job: BatchJob, settings: ArbitrageSettings, console: Console) -> None:
    from langgraph_arbitrage.chat_model import ChatArbitrage

    llm = ChatArbitrage(**settings.given)
    try:
        with _progress(job.summary, console) as report:
            asyncio.run(job.run(llm, report))
    finally:
        llm.close()


def _print_hint(summary: BatchSummary, console: Console) -> None:
    """Print how to complete a job that is not complete."""
    if summary.remaining:
        console.print(
            f"Stopped by {summary.stopped}. Repeat the command to answer the remaining requests.",
            soft_wrap=True,
        )
    elif not summary.succeeded:
        console.print(
            "The output has an error for each failed request. --retry-failed answers them again.",
            soft_wrap=True,
        )


@contextmanager
def _progress(summary: BatchSummary, console: Console) -> Iterator[Callable[[BatchSummary], None]]:
    """Yield a function that reports progress: as a bar on a terminal, else as log lines."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    from langgraph_arbitrage.cli.view import is_interactive

    if not is_interactive(console):
        yield _ProgressLog(console)
        return
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"))
    with Progress(*columns, console=console, refresh_per_second=4, transient=True) as bar:
        task = bar.add_task("", total=summary.total, rate="", completed=_completed(summary))

        def report(summary: BatchSummary) -> None:
            bar.update(task, completed=_completed(summary), rate=_rate(summary))

        yield report


class _ProgressLog:
    """Prints a progress line every `LOG_INTERVAL` seconds. Short jobs print none."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._last_line = time.monotonic()

    def __call__(self, summary: BatchSummary) -> None:
        if time.monotonic() - self._last_line >= LOG_INTERVAL:
            self._last_line = time.monotonic()
            counts = f"{_completed(summary)} of {summary.total}"
            self._console.print(f"{counts}, {_rate(summary)}", soft_wrap=True)


def _completed(summary: BatchSummary) -> int:
    return summary.total - summary.remaining


def _rate(summary: BatchSummary) -> str:
    minutes, seconds = divmod(round(summary.remaining_seconds or 0.0), 60)
    hours, minutes = divmod(minutes, 60)
    failed = f"{summary.failed} failed, " if summary.failed else ""
    return (
        f"{failed}{summary.requests_per_second:.1f} requests/s, "
        f"{hours}:{minutes:02}:{seconds:02} left"
    )
