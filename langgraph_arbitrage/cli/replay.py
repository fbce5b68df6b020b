"""`arbitrage replay`: a stored or running thread, step by step, and a branch off from it."""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING, Any

from langgraph_arbitrage.cli.options import ANSWERING, add_setting_options
from langgraph_arbitrage.errors import SettingsError

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["add_command"]

LOOK_AGAIN = 0.2  # seconds between two looks at a running thread


def add_command(commands: Any) -> None:
    """Add the subcommand."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "replay",
        help="watch a stored or running thread, and branch off from it",
        description="Show the last answer of a thread as it was written, step by step. With "
        "--fork, go on from one of its steps on another thread: other models' steps cross as text.",
    )
    parser.add_argument(
        "--checkpoint", metavar="FILE", required=True, help="SQLite file of the thread."
    )
    parser.add_argument("--thread", metavar="ID", required=True, help="Id of the thread.")
    parser.add_argument(
        "--follow",
        action="store_true",
        help="Wait for more steps of a thread that another process is writing, until it ends.",
    )
    parser.add_argument(
        "--speed",
        type=float,
        metavar="X",
        help="X times as fast as the steps were written; 0 shows all at once (default: 1 on a "
        "terminal, else 0).",
    )
    parser.add_argument(
        "--fork", type=int, metavar="K", help="Go on from step K, counted from 0, on a new thread."
    )
    parser.add_argument(
        "--into", metavar="ID", help="Id of the new thread (default: ID-fork-K of --thread)."
    )
    parser.add_argument(
        "--text", metavar="TEXT", help="With --fork: this text in the place of step K."
    )
    add_setting_options(parser, *ANSWERING)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Show the thread; then branch off, if that is asked for."""
    if args.fork is None and (args.into is not None or args.text is not None):
        raise SettingsError("--into and --text go with --fork K: the step to go on from")
    if args.speed is not None and not args.speed >= 0:
        raise SettingsError(f"--speed must be 0 or more, not {args.speed}")

    from rich.console import Console

    from langgraph_arbitrage.cli.thread import checkpoints

    console = Console(highlight=False)
    with checkpoints(args.checkpoint) as saver:
        if args.fork is None:
            _show(args, saver, console)
        else:
            _fork(args, saver, console)


def _show(args: argparse.Namespace, saver: Any, console: Console) -> None:
    from langgraph_arbitrage.cli.ask import show_question
    from langgraph_arbitrage.cli.thread import reader
    from langgraph_arbitrage.cli.view import StepsView, interactive, summary
    from langgraph_arbitrage.loop.answer_state import is_finished, steps_of
    from langgraph_arbitrage.persistence.time_travel import list_steps
    from langgraph_arbitrage.prompts.messages import last_question
    from langgraph_arbitrage.runner import answer_of, committed_event

    graph = reader(saver)
    config: Any = {"configurable": {"thread_id": args.thread}}
    steps = list_steps(graph, config)  # tells where there is no such thread
    state = graph.get_state(config).values
    while args.follow and not state["messages"]:  # it has only just begun
        time.sleep(LOOK_AGAIN)
        state = graph.get_state(config).values
    if state["messages"]:
        show_question(last_question(state["messages"]), console, first=True)
    speed = args.speed if args.speed is not None else float(interactive(console))
    with StepsView(console) as view:
        while True:
            for index, step in enumerate(steps[view.finished :], view.finished):
                time.sleep(step["seconds"] / speed if speed else 0)
                view(committed_event(index, step))
            if is_finished(state) or not args.follow:
                break
            time.sleep(LOOK_AGAIN)
            state = graph.get_state(config).values
            steps = steps_of(state)
    if is_finished(state):
        told = summary(answer_of(state, sum(s["seconds"] for s in steps)))
    else:
        told = f"{len(steps)} steps so far, not finished · --follow waits for more"
    console.print(told, style="dim", soft_wrap=not console.is_terminal)


def _fork(args: argparse.Namespace, saver: Any, console: Console) -> None:
    from langgraph_arbitrage.cli.ask import show_answer, show_question
    from langgraph_arbitrage.cli.thread import reader, runner_of
    from langgraph_arbitrage.persistence.time_travel import fork
    from langgraph_arbitrage.prompts.messages import last_question

    config: Any = {"configurable": {"thread_id": args.thread}}
    state = reader(saver).get_state(config).values
    runner = runner_of(state, args, saver)
    into = args.into or f"{args.thread}-fork-{args.fork}"
    new = fork(runner.graph, config, args.fork, thread=into, text=args.text, seed=args.seed)
    show_question(last_question(state["messages"]), console, first=True)
    show_answer(None, runner, console, into)
    fed: dict[str, int] = {}
    for step in runner.graph.get_state(new).values["steps"][args.fork :]:
        for role, tokens in step["computed_tokens"].items():
            fed[role] = fed.get(role, 0) + tokens
    tokens = ", ".join(f"{n} {role}" for role, n in fed.items() if n)
    told = f"thread {into} from step {args.fork} of {args.thread} · tokens fed from there: {tokens}"
    console.print(told, style="dim", soft_wrap=not console.is_terminal)
