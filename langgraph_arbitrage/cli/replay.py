"""`arbitrage replay`: shows a stored or running thread step by step, and forks it."""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING, Any

from langgraph_arbitrage.cli.options import ANSWERING, add_setting_options
from langgraph_arbitrage.errors import SettingsError

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["add_command"]

POLL_INTERVAL = 0.2
"""Seconds between two reads of a running thread."""


def add_command(commands: Any) -> None:
    """Add the subcommand."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "replay",
        help="show or fork a stored thread",
        description="Show the last answer of a thread step by step. With --fork, continue from "
        "one of its steps in a new thread. The new thread may use other models: the earlier steps "
        "are then passed on as text.",
    )
    parser.add_argument(
        "--checkpoint",
        metavar="FILE",
        required=True,
        help="SQLite file that stores the thread, as written by `arbitrage ask --thread`.",
    )
    parser.add_argument("--thread", metavar="ID", required=True, help="Id of the thread.")
    parser.add_argument(
        "--follow",
        action="store_true",
        help="Wait for further steps until the answer is finished. Use it for a thread that "
        "another process is writing.",
    )
    parser.add_argument(
        "--speed",
        type=float,
        metavar="X",
        help="Speed relative to the original run; 0 shows all steps at once. (default: 1 on a "
        "terminal, else 0)",
    )
    parser.add_argument(
        "--fork",
        type=int,
        metavar="K",
        help="Continue in a new thread from step K, counted from 0. Step K and all later steps "
        "are written again.",
    )
    parser.add_argument(
        "--into",
        metavar="ID",
        help="With --fork: id of the new thread. (default: THREAD-fork-K)",
    )
    parser.add_argument("--text", metavar="TEXT", help="With --fork: use this text as step K.")
    add_setting_options(parser, *ANSWERING)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Show or fork the thread."""
    if args.fork is None and (args.into is not None or args.text is not None):
        raise SettingsError("--into and --text require --fork K, the step to continue from")
    if args.speed is not None and not args.speed >= 0:
        raise SettingsError(f"--speed must be 0 or more, not {args.speed}")

    from rich.console import Console

    from langgraph_arbitrage.cli.thread import open_checkpointer

    console = Console(highlight=False)
    with open_checkpointer(args.checkpoint) as saver:
        if args.fork is None:
            _show(args, saver, console)
        else:
            _fork(args, saver, console)


def _show(args: argparse.Namespace, saver: Any, console: Console) -> None:
    from langgraph_arbitrage.cli.ask import show_question
    from langgraph_arbitrage.cli.thread import reader_graph
    from langgraph_arbitrage.cli.view import StepsView, is_interactive, summary
    from langgraph_arbitrage.loop.answer_state import is_finished, steps_of
    from langgraph_arbitrage.persistence.time_travel import list_steps
    from langgraph_arbitrage.prompts.messages import last_question
    from langgraph_arbitrage.runner import answer_of, committed_event

    graph = reader_graph(saver)
    config: Any = {"configurable": {"thread_id": args.thread}}
    steps = list_steps(graph, config)  # raises if the thread does not exist
    state = graph.get_state(config).values
    while args.follow and not state["messages"]:  # the run has not stored its question yet
        time.sleep(POLL_INTERVAL)
        state = graph.get_state(config).values
    if state["messages"]:
        show_question(last_question(state["messages"]), console, first=True)
    speed = args.speed if args.speed is not None else float(is_interactive(console))
    with StepsView(console) as view:
        while True:
            for index, step in enumerate(steps[view.finished :], view.finished):
                time.sleep(step["seconds"] / speed if speed else 0)
                view(committed_event(index, step))
            if is_finished(state) or not args.follow:
                break
            time.sleep(POLL_INTERVAL)
            state = graph.get_state(config).values
            steps = steps_of(state)
    if is_finished(state):
        last_line = summary(answer_of(state, sum(s["seconds"] for s in steps)))
    else:
        last_line = f"{len(steps)} steps so far, not finished · --follow waits for further steps"
    console.print(last_line, style="dim", soft_wrap=not console.is_terminal)


def _fork(args: argparse.Namespace, saver: Any, console: Console) -> None:
    from langgraph_arbitrage.cli.ask import show_answer, show_question
    from langgraph_arbitrage.cli.thread import reader_graph, thread_runner
    from langgraph_arbitrage.persistence.time_travel import fork
    from langgraph_arbitrage.prompts.messages import last_question

    config: Any = {"configurable": {"thread_id": args.thread}}
    state = reader_graph(saver).get_state(config).values
    runner = thread_runner(state, args, saver)
    into = args.into or f"{args.thread}-fork-{args.fork}"
    new_config = fork(runner.graph, config, args.fork, thread=into, text=args.text, seed=args.seed)
    show_question(last_question(state["messages"]), console, first=True)
    show_answer(None, runner, console, into)
    computed: dict[str, int] = {}
    for step in runner.graph.get_state(new_config).values["steps"][args.fork :]:
        for role, tokens in step["computed_tokens"].items():
            computed[role] = computed.get(role, 0) + tokens
    counts = ", ".join(f"{n} {role}" for role, n in computed.items() if n)
    note = f"thread {into}: forked from step {args.fork} of {args.thread} · computed tokens: "
    console.print(note + counts, style="dim", soft_wrap=not console.is_terminal)
