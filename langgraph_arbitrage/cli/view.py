"""Steps on the terminal as they come: who wrote each, its score, its time, its text."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from langgraph_arbitrage.cli.text import final_answer, printable

if TYPE_CHECKING:
    from langgraph_arbitrage.events import StepEvent
    from langgraph_arbitrage.runner import Answer

__all__ = ["STYLES", "StepsView", "comparison", "interactive", "summary", "waiting"]

STYLES = {"draft": "cyan", "target": "magenta", "human": "yellow"}
"""Colour of each writer; its name stands beside it."""

FINISHES = {
    "stop": "finished",
    "length": "stopped by --max-tokens",
    "max_steps": "stopped by --max-steps",
    "max_target_tokens": "stopped by --max-target-tokens",
    "max_seconds": "stopped by --max-seconds",
    "context": "stopped: a model's context is full",
}


def interactive(console: Console) -> bool:
    """Whether what is printed can be rubbed out again."""
    return console.is_terminal and not console.is_dumb_terminal


def waiting(console: Console, text: str) -> AbstractContextManager[Any]:
    """A spinner while something loads; nothing where nobody looks."""
    return console.status(text) if interactive(console) else nullcontext()


class StepsView:
    """Prints each step once it is part of the answer, and shows the one being written below.

    A draft step that was rejected stays on a terminal, dimmed and struck out, above the target's.
    Elsewhere only the answer's own steps are printed, one a line, not wrapped.
    """

    def __init__(self, console: Console) -> None:
        self.finished = 0
        """Steps that became part of the answer."""
        self._console = console
        self._draft = ("", 0.0)  # text and seconds of the last draft step
        self._rejected_seconds = 0.0  # of a draft step that has a row of its own
        self._below = ("", "")  # writer and text of the step being written
        self._live = Live(self, console=console, transient=True, refresh_per_second=12)

    def __enter__(self) -> StepsView:
        if interactive(self._console):
            self._console.print(_row("", "step", "score", "time", style="dim"))
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.stop()

    def __call__(self, event: StepEvent) -> None:
        """Take an event of the run."""
        match event["type"]:
            case "drafted":
                self._draft = (event["text"], event["seconds"])
                self._below = ("draft", event["text"])
            case "scored" if event["escalate"]:
                self._reject(event)
                self._below = ("target", "")
            case "target_delta":
                self._below = ("target", self._below[1] + event["text"])
            case "committed":
                self._commit(event)
                self.finished += 1
                self._rejected_seconds = 0.0
                self._below = ("", "")

    def _reject(self, event: StepEvent) -> None:
        if interactive(self._console):
            text, seconds = self._draft
            self._rejected_seconds = seconds + event["seconds"]
            score, time = _figures(event["score"], self._rejected_seconds)
            self._console.print(_row("draft", _shown(text), score, time, style="dim strike"))

    def _commit(self, event: StepEvent) -> None:
        writer, text = event["writer"] or "", _shown(event["text"])
        score, time = _figures(event["score"], event["seconds"] - self._rejected_seconds)
        if interactive(self._console):
            score = "" if self._rejected_seconds else score  # it stands beside the draft's step
            self._console.print(_row(writer, text, score, time, style=STYLES[writer]))
        else:
            text = text.replace("\n", "\n" + " " * 24)
            line = Text(f"{writer:<8}{score:>5}{time:>9}  {text}", style=STYLES[writer])
            self._console.print(line, soft_wrap=True)

    def __rich__(self) -> RenderableType:
        """The step that is being written: its end, where it is too long for the screen."""
        writer, text = self._below
        room = self._console.width * (self._console.height - 4) // 2
        return _row(writer, f"{_shown(text)[-room:]} …".lstrip(), style=STYLES.get(writer, "dim"))


def _shown(text: str) -> str:
    return printable(text).strip()


def _figures(score: float | None, seconds: float) -> tuple[str, str]:
    return "" if score is None else f"{score:.2f}", f"{seconds:.2f} s"


def _row(writer: str, text: str, score: str = "", time: str = "", *, style: str) -> Table:
    row = Table.grid(padding=(0, 1), expand=True)
    row.add_column(width=6)
    row.add_column(width=5, justify="right")
    row.add_column(width=8, justify="right")
    row.add_column(ratio=1, overflow="fold")
    row.add_row(
        Text(writer, style=style.replace("strike", "")),
        Text(score, style="dim"),
        Text(time, style="dim"),
        Text(text, style=style),
    )
    return row


def summary(answer: Answer) -> str:
    """The figures of an answer in one line."""
    f = answer.statistics
    steps = len(f["steps"])
    accepted = f["accepted_draft_tokens"]
    verified = f" ({accepted} accepted from the draft)" if accepted else ""
    tokens = (
        f"{f['draft_tokens']} draft, {f['target_tokens']} target{verified}, "
        f"{f['discarded_tokens']} discarded"
    )
    return " · ".join(
        [
            f"{steps} step{'s' * (steps != 1)}, {f['escalation_rate']:.0%} escalated",
            f"tokens: {tokens}",
            f"{answer.seconds:.2f} s",
            FINISHES.get(f["finish_reason"], f["finish_reason"]),
        ]
    )


def comparison(answers: dict[str, Answer]) -> Table:
    """Answers to one question beside each other."""
    table = Table("", "answer", "seconds", "tokens", "escalated", box=SIMPLE_HEAD)
    for column in table.columns[2:]:
        column.justify = "right"
    for name, answer in answers.items():
        f = answer.statistics
        tokens = f["draft_tokens"] + f["target_tokens"] + f["discarded_tokens"]
        table.add_row(
            Text(name),
            Text(printable(final_answer(answer.text))),
            f"{answer.seconds:.2f}",
            str(tokens),
            f"{f['escalation_rate']:.0%}",
        )
    return table
