"""`arbitrage ask`: answers questions and shows each step as it is written."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

from langgraph_arbitrage.cli.notice import print_demo_notice
from langgraph_arbitrage.cli.options import ANSWERING, add_setting_options, settings_of
from langgraph_arbitrage.errors import MessageError
from langgraph_arbitrage.policies import AlwaysDraft, AlwaysTarget

if TYPE_CHECKING:
    from rich.console import Console

    from langgraph_arbitrage.runner import Answer, Runner

__all__ = ["add_command", "check_question", "read_stdin", "show_answer", "show_question"]


def add_command(commands: Any) -> None:
    """Add the subcommand."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "ask",
        help="answer questions step by step",
        description="Answer questions. Each step is shown as soon as it is written.",
    )
    parser.add_argument(
        "question",
        nargs="*",
        metavar="QUESTION",
        help="Question to answer. Several questions are answered one after another. Default: the "
        "whole text of stdin is one question.",
    )
    add_setting_options(parser, *ANSWERING)
    parser.add_argument(
        "--json",
        action="store_true",
        help="Print only JSON: one object per question, each on its own line.",
    )
    parser.add_argument(
        "--compare",
        action="store_true",
        help="Also answer with the draft alone and with the target alone, and compare all three.",
    )
    parser.add_argument(
        "--thread",
        metavar="ID",
        help="Id of the thread that stores the answer step by step in the --checkpoint file. "
        "Without a QUESTION, an interrupted thread resumes after its last step, and a finished "
        "thread is shown. A further QUESTION continues the conversation.",
    )
    parser.add_argument(
        "--checkpoint", metavar="FILE", help="SQLite file that stores the --thread."
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Check all questions, then answer them."""
    if args.thread is not None or args.checkpoint is not None:
        from langgraph_arbitrage.cli.thread import ask_thread

        ask_thread(args)
        return
    settings = settings_of(args, max_slots=1)  # one question at a time
    questions = [check_question(q) for q in args.question or [read_stdin()]]
    if not args.json:
        print_demo_notice(settings)

    from rich.console import Console

    from langgraph_arbitrage.cli.view import spinner

    with spinner(Console(stderr=True), "Loading the models …"):
        from langgraph_arbitrage.runner import Runner

        runner = Runner(settings)
        baselines = {"draft only": AlwaysDraft(), "target only": AlwaysTarget()}
        runners = {name: runner.with_policy(p) for name, p in baselines.items() if args.compare}
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
    """Print a question as a heading. A blank line precedes it unless it is the first output."""
    from rich.text import Text

    from langgraph_arbitrage.cli.text import printable

    text = Text(printable(question), style="bold")
    console.print(text if first else Text("\n") + text, soft_wrap=not console.is_terminal)


def show_answer(
    question: str | None, runner: Runner, console: Console, thread: str | None = None
) -> Answer:
    """Answer a question and print its steps and a line of statistics.

    Args:
        question: The question; None resumes the thread.
        runner: Runner that answers.
        console: Where to print.
        thread: Id of the thread that stores the answer.
    """
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
    from langgraph_arbitrage.cli.view import comparison_table, spinner

    answers = {"arbitraged": show_answer(question, runner, console)}
    try:
        for name, baseline in runners.items():
            with spinner(console, f"Answering with the {name} …"):
                answers[name] = _answer_uncached(baseline, question)
    finally:
        if runners:
            console.print(comparison_table(answers))


def _print_json(question: str, runner: Runner, runners: dict[str, Runner]) -> None:
    record = _answer_uncached(runner, question).record
    if runners:
        record["compare"] = {
            name: _answer_uncached(baseline, question).record for name, baseline in runners.items()
        }
    print(json.dumps(record, ensure_ascii=False), flush=True)


def _answer_uncached(runner: Runner, question: str) -> Answer:
    """Answer without tokens of earlier answers in the KV caches."""
    runner.warm_up()
    return runner.answer(question)


def read_stdin() -> str:
    """Read all of stdin as one question.

    Raises:
        MessageError: stdin does not decode in its encoding.
    """
    if sys.stdin.isatty():
        print("Type a question, then press Ctrl-D.", file=sys.stderr)
    try:
        text = sys.stdin.read()
    except UnicodeDecodeError as error:
        raise MessageError(f"stdin is not valid {error.encoding} text: {error.reason}") from None
    return text.strip()


def check_question(question: str) -> str:
    """Return the question if it can be asked.

    Raises:
        MessageError: It is empty or not valid UTF-8.
    """
    if not question.strip():
        raise MessageError("the question is empty. Pass it as an argument or on stdin")
    try:
        question.encode()
    except UnicodeEncodeError as error:
        raise MessageError(f"the question is not valid UTF-8 text: {error.reason}") from None
    return question
