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

from langgraph_arbitrage.cli.options import settings_of
from langgraph_arbitrage.errors import SettingsError

if TYPE_CHECKING:
    from langgraph_arbitrage.runner import Runner

__all__ = ["ask_thread", "checkpoints", "reader", "runner_of"]


@contextmanager
def checkpoints(file: str, *, create: bool = False) -> Iterator[Any]:
    """A checkpointer over an SQLite file.

    Raises:
        SettingsError: The extra is not installed, or the file is not there or no database.
    """
    if find_spec("aiosqlite") is None or find_spec("langgraph.checkpoint.sqlite") is None:
        raise SettingsError(
            "checkpoint files need langgraph-checkpoint-sqlite: "
            "pip install 'langgraph-arbitrage[sqlite]'"
        )
    if not create and not Path(file).is_file():
        raise SettingsError(f"{file} is no file: give one that `arbitrage ask --thread` has made")
    from langgraph.checkpoint.sqlite import SqliteSaver

    try:
        with SqliteSaver.from_conn_string(file) as saver:
            saver.setup()
            yield saver
    except sqlite3.Error as error:
        raise SettingsError(f"{file} cannot be used as a checkpoint file: {error}") from None


def reader(saver: Any) -> Any:
    """A graph that reads any thread; it loads no model."""
    from langgraph_arbitrage.graphs import create_arbitrage_graph

    return create_arbitrage_graph().compile(checkpointer=saver)


def runner_of(state: dict[str, Any], args: argparse.Namespace, saver: Any) -> Runner:
    """The team that the arguments ask for; where they name no model, that of the thread."""
    from langgraph_arbitrage.runner import Runner

    for role, model in state.get("models", {}).items():
        if getattr(args, role) is None:
            setattr(args, role, model["path"])
    return Runner(settings_of(args, max_slots=1), saver)


def ask_thread(args: argparse.Namespace) -> None:
    """Answer a question on a stored thread, or go on with it."""
    if args.thread is None or args.checkpoint is None:
        raise SettingsError(
            "--thread ID and --checkpoint FILE go together: where an answer is kept"
        )
    if args.compare or len(args.question) > 1:
        raise SettingsError("--thread takes one question, and no --compare")

    from rich.console import Console

    from langgraph_arbitrage.cli.ask import check_question, from_stdin, show_answer
    from langgraph_arbitrage.cli.view import waiting
    from langgraph_arbitrage.loop.answer_state import is_finished

    with checkpoints(args.checkpoint, create=True) as saver:
        with waiting(Console(stderr=True), "Loading the models …"):
            config: Any = {"configurable": {"thread_id": args.thread}}
            state = reader(saver).get_state(config).values
            runner = runner_of(state, args, saver)
        question = args.question[0] if args.question else None
        if question is None and not state:
            question = from_stdin()
        if question is not None:
            runner.check(check_question(question))
        console = Console(highlight=False)
        if args.json:
            record = runner.answer(question, thread=args.thread).record
            print(json.dumps(record, ensure_ascii=False), flush=True)
            return
        show_answer(question, runner, console, args.thread)
        if question is None and is_finished(state):
            told = f"thread {args.thread} was finished before; a further QUESTION continues it"
            console.print(told, style="dim", soft_wrap=not console.is_terminal)
