"""`arbitrage batch`: a file of questions in, a file of answers out."""

from __future__ import annotations

import argparse
import asyncio
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from langgraph_arbitrage.batch import BatchJob, BatchSettings
from langgraph_arbitrage.batch.ray_settings import RaySettings
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
EVERY = 10.0  # seconds between two lines of progress where nobody looks at a terminal


def add_command(commands: Any) -> None:
    """Add the subcommand."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "batch",
        help="answer a file of questions",
        description="Answer a file of questions. Each line of the input is a request of an OpenAI "
        'batch, or a plain {"messages": …} or {"prompt": …}; each line of the output is what an '
        "OpenAI batch answers. Lines are written as they come, in no order. The same command "
        "again goes on where it was stopped, also after a kill. Exit status: 0 if every line has "
        "its answer, 1 if not, 2 after a wrong argument or file.",
    )
    parser.add_argument("input", metavar="IN.jsonl", help="Questions, one a line; - for stdin")
    parser.add_argument(
        "-o", "--output", required=True, metavar="OUT.jsonl", help="Answers; - for stdout"
    )
    add_options(parser, BatchSettings)
    parser.add_argument(
        "--ray",
        action="store_true",
        help="Answer by actors on Ray, each with models of its own. Needs "
        "pip install 'langgraph-arbitrage[ray]'.",
    )
    add_options(parser, RaySettings)
    add_setting_options(parser, *SERVICE)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Check everything, then answer."""
    job_settings = config_of(args, BatchSettings)
    # More slots than questions at a time would only hold memory.
    settings = settings_of(args, max_slots=job_settings.concurrency)
    ray = _ray_settings(args)
    with BatchJob(args.input, args.output, job_settings) as job:
        from rich.console import Console

        console = Console(stderr=True, highlight=False)
        try:
            if job.summary.left:
                if ray is None:
                    _answer(job, settings, console)
                else:
                    _answer_on_ray(job, settings, ray, console)
        finally:
            console.print(str(job.summary), soft_wrap=True)
        _advise(job.summary, console)
    return 0 if job.summary.succeeded else INCOMPLETE


def _ray_settings(args: argparse.Namespace) -> RaySettings | None:
    """How the job is spread over Ray; None where it is not."""
    given = [n for n in RaySettings.model_fields if getattr(args, n) is not None]
    if args.ray:
        return config_of(args, RaySettings)
    if given:
        raise SettingsError(f"{option_name(given[0])} applies to jobs on Ray only: add --ray")
    return None


def _answer_on_ray(
    job: BatchJob, settings: ArbitrageSettings, ray: RaySettings, console: Console
) -> None:
    from langgraph_arbitrage.batch.ray_job import run_on_ray

    with _progress(job.summary, console) as tell:
        run_on_ray(job, settings, ray, tell)


def _answer(job: BatchJob, settings: ArbitrageSettings, console: Console) -> None:
    from langgraph_arbitrage.chat_model import ChatArbitrage

    llm = ChatArbitrage(**settings.given)
    try:
        with _progress(job.summary, console) as tell:
            asyncio.run(job.run(llm, tell))
    finally:
        llm.close()


def _advise(summary: BatchSummary, console: Console) -> None:
    if summary.left:
        console.print(f"stopped by {summary.stopped}: the same command goes on", soft_wrap=True)
    elif not summary.succeeded:
        console.print("their lines say why; --retry-failed asks them again", soft_wrap=True)


@contextmanager
def _progress(summary: BatchSummary, console: Console) -> Iterator[Callable[[BatchSummary], None]]:
    """A bar with rate and time left on a terminal; elsewhere a line now and then."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    from langgraph_arbitrage.cli.view import interactive

    if not interactive(console):
        yield _Lines(console)
        return
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[told]}"))
    with Progress(*columns, console=console, refresh_per_second=4, transient=True) as bar:
        task = bar.add_task("", total=summary.total, told="", completed=_finished(summary))

        def tell(summary: BatchSummary) -> None:
            bar.update(task, completed=_finished(summary), told=_rate(summary))

        yield tell


class _Lines:
    """Progress for a log: the first line after some seconds, so that short jobs tell nothing."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._told = time.monotonic()

    def __call__(self, summary: BatchSummary) -> None:
        if time.monotonic() - self._told >= EVERY:
            self._told = time.monotonic()
            counts = f"{_finished(summary)} of {summary.total}"
            self._console.print(f"{counts}, {_rate(summary)}", soft_wrap=True)


def _finished(summary: BatchSummary) -> int:
    return summary.total - summary.left


def _rate(summary: BatchSummary) -> str:
    left = summary.seconds_left or 0.0
    minutes, seconds = divmod(round(left), 60)
    hours, minutes = divmod(minutes, 60)
    failed = f"{summary.failed} failed, " if summary.failed else ""
    return (
        f"{failed}{summary.questions_per_second:.1f} questions/s, "
        f"{hours}:{minutes:02}:{seconds:02} left"
    )
