"""Threads stored in an SQLite file: `arbitrage ask --thread` writes them, `replay` reads them."""

from __future__ import annotations

import argparse
import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from langgraph_arbitrage.cli.notice import print_demo_notice
from langgraph_arbitrage.cli.options import settings_of
from langgraph_arbitrage.errors import SettingsError

if TYPE_CHECKING:
    from langgraph_arbitrage.runner import Runner

__all__ = ["ask_thread", "open_checkpointer", "reader_graph", "thread_runner"]


@contextmanager
def open_checkpointer(file: str, *, create: bool = False) -> Iterator[Any]:
    """Open an SQLite file as a checkpointer.

    Args:
        file: Path of the file.
        create: Create the file if it does not exist.

    Raises:
        SettingsError: The extra `sqlite` is not installed, the file does not exist, or it is not
            an SQLite database.
    """
    if find_spec("aiosqlite") is None or find_spec("langgraph.checkpoint.sqlite") is None:
        raise SettingsError(
            "checkpoint files need langgraph-checkpoint-sqlite, which is not installed: "
            "pip install 'langgraph-arbitrage[sqlite]'"
        )
    if not create and not Path(file).is_file():
        raise SettingsError(
            f"{file} does not exist or is not a file. Pass a checkpoint file that "
            "`arbitrage ask --thread` wrote"
        )
    from langgraph.checkpoint.sqlite import SqliteSaver

    try:
        with SqliteSaver.from_conn_string(file) as saver:
            saver.setup()
            yield saver
    except sqlite3.Error as error:
        raise SettingsError(f"{file} cannot be used as a checkpoint file: {error}") from None


def reader_graph(saver: Any) -> Any:
    """A graph that reads any thread of a checkpointer. It loads no models."""
    from langgraph_arbitrage.graphs import create_arbitrage_graph

    return create_arbitrage_graph().compile(checkpointer=saver)


def thread_runner(state: dict[str, Any], args: argparse.Namespace, saver: Any) -> Runner:
    """A runner for a stored thread.

    Args:
        state: State of the thread. Its models are used if the command line names none.
        args: The command line.
        saver: The checkpointer that holds the thread.
    """
    from langgraph_arbitrage.runner import Runner

    for role, model in state.get("models", {}).items():
        if getattr(args, role) is None:
            setattr(args, role, model["path"])
    return Runner(settings_of(args, max_slots=1), saver)


def ask_thread(args: argparse.Namespace) -> None:
    """Answer a question in a stored thread, or resume the thread's unfinished answer."""
    if args.thread is None or args.checkpoint is None:
        raise SettingsError(
            "--thread ID and --checkpoint FILE must be used together: the thread is stored in the "
            "file"
        )
    if args.compare or len(args.question) > 1:
        raise SettingsError("--thread accepts one question and cannot be combined with --compare")

    from rich.console import Console

    from langgraph_arbitrage.cli.ask import check_question, read_stdin, show_answer
    from langgraph_arbitrage.cli.view import spinner
    from langgraph_arbitrage.loop.answer_state import is_finished

    with open_checkpointer(args.checkpoint, create=True) as saver:
        with spinner(Console(stderr=True), "Loading the models …"):
            config: Any = {"configurable": {"thread_id": args.thread}}
            state = reader_graph(saver).get_state(config).values
            runner = thread_runner(state, args, saver)
        if not args.json:
            print_demo_notice(runner.settings)
        question = args.question[0] if args.question else None
        if question is None and not state:
            question = read_stdin()
        if question is not None:
            runner.check(check_question(question))
        console = Console(highlight=False)
        if args.json:
            record = runner.answer(question, thread=args.thread).record
            print(json.dumps(record, ensure_ascii=False), flush=True)
            return
        show_answer(question, runner, console, args.thread)
        if question is None and is_finished(state):
            note = f"Thread {args.thread} was already finished. Pass a QUESTION to continue it."
            console.print(note, style="dim", soft_wrap=not console.is_terminal)
