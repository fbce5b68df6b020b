"""`arbitrage ask`: answers questions, each step shown as it comes."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

from langgraph_arbitrage.cli.options import ANSWERING, add_setting_options, settings_of
from langgraph_arbitrage.errors import MessageError
from langgraph_arbitrage.policies import AlwaysDraft, AlwaysTarget

if TYPE_CHECKING:
    from rich.console import Console

    from langgraph_arbitrage.runner import Answer, Runner

__all__ = ["add_command", "show_answer", "show_question"]


def add_command(commands: Any) -> None:
    """Add the subcommand."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "ask",
        help="answer questions, step by step",
        description="Answer questions, each step shown as it is written.",
    )
    parser.add_argument(
        "question",
        nargs="*",
        metavar="QUESTION",
        help="A question; several are answered one by one. Without any, all of stdin is one.",
    )
    add_setting_options(parser, *ANSWERING)
    parser.add_argument(
        "--json",
        action="store_true",
        help="Print one JSON object a question, on a line of its own, and nothing else.",
    )
    parser.add_argument(
        "--compare",
        action="store_true",
        help="Answer by the draft alone and by the target alone, too, and show all three.",
    )
    parser.add_argument(
        "--thread",
        metavar="ID",
        help="Store the answer under this id, step by step, in the file of --checkpoint. On a "
        "thread that broke off, no QUESTION goes on from its last step; on a finished one it shows "
        "the answer; a further QUESTION continues the conversation.",
    )
    parser.add_argument(
        "--checkpoint", metavar="FILE", help="SQLite file that --thread is stored in."
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Check all questions, then answer them."""
    if args.thread is not None or args.checkpoint is not None:
        from langgraph_arbitrage.cli.thread import ask_thread

        ask_thread(args)
        return
    settings = settings_of(args, max_slots=1)  # one question at a time
    questions = [check_question(q) for q in args.question or [from_stdin()]]

    from rich.console import Console

    from langgraph_arbitrage.cli.view import waiting

    with waiting(Console(stderr=True), "Loading the models …"):
        from langgraph_arbitrage.runner import Runner

        runner = Runner(settings)
        others = {"draft only": AlwaysDraft(), "target only": AlwaysTarget()}
        runners = {name: runner.with_policy(p) for name, p in others.items() if args.compare}
        for each in (runner, *runners.values()):
            for question in questions:
                each.check(question)
        for each in (runner, *runners.values()):
            each.warm_up()
    console = Console(highlight=False)
    for number, question in enumerate(questions):
        if args.json:
            _print_json(question, runner, runners)
            continue
        if len(questions) > 1:
            show_question(question, console, first=number == 0)
        _show(question, runner, runners, console)


def show_question(question: str, console: Console, *, first: bool = False) -> None:
    """Head an answer with its question."""
    from rich.text import Text

    from langgraph_arbitrage.cli.text import printable

    text = Text(printable(question), style="bold")
    console.print(text if first else Text("\n") + text, soft_wrap=not console.is_terminal)


def show_answer(
    question: str | None, runner: Runner, console: Console, thread: str | None = None
) -> Answer:
    """Answer a question, or go on with a thread's, with the steps shown and a line of figures."""
    from langgraph_arbitrage.cli.view import StepsView, summary

    view = StepsView(console)
    try:
        with view:
            answer = runner.answer(question, view, thread)
    except KeyboardInterrupt:
        console.print(f"interrupted; steps finished: {view.finished}", style="dim")
        raise
    console.print(summary(answer), style="dim", soft_wrap=not console.is_terminal)
    return answer


def _show(question: str, runner: Runner, runners: dict[str, Runner], console: Console) -> None:
    from langgraph_arbitrage.cli.view import comparison, waiting

    answers = {"arbitraged": show_answer(question, runner, console)}
    try:
        for name, other in runners.items():
            with waiting(console, f"Answering by the {name} …"):
                answers[name] = _afresh(other, question)
    finally:
        if runners:
            console.print(comparison(answers))


def _print_json(question: str, runner: Runner, runners: dict[str, Runner]) -> None:
    record = _afresh(runner, question).record
    if runners:
        record["compare"] = {name: _afresh(t, question).record for name, t in runners.items()}
    print(json.dumps(record, ensure_ascii=False), flush=True)


def _afresh(runner: Runner, question: str) -> Answer:
    """An answer that gains nothing from what the answers before left in the cache."""
    runner.warm_up()
    return runner.answer(question)


def from_stdin() -> str:
    """All of stdin."""
    if sys.stdin.isatty():
        print("Type a question, then Ctrl-D.", file=sys.stderr)
    try:
        text = sys.stdin.read()
    except UnicodeDecodeError as error:
        raise MessageError(f"stdin is no valid {error.encoding} text: {error.reason}") from None
    return text.strip()


def check_question(question: str) -> str:
    """The question, if it is a text.

    Raises:
        MessageError: It is empty or not valid UTF-8.
    """
    if not question.strip():
        raise MessageError("the question is empty: give one as an argument or on stdin")
    try:
        question.encode()
    except UnicodeEncodeError as error:
        raise MessageError(f"the question is no valid UTF-8 text: {error.reason}") from None
    return question
