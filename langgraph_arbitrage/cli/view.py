"""Shows steps on the terminal while they are written: writer, score, seconds and text."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from langgraph_arbitrage.cli.text import printable, short_answer

if TYPE_CHECKING:
    from langgraph_arbitrage.events import StepEvent
    from langgraph_arbitrage.runner import Answer

__all__ = ["STYLES", "StepsView", "comparison_table", "is_interactive", "spinner", "summary"]

STYLES = {"draft": "cyan", "target": "magenta", "human": "yellow"}
"""Colour of each writer. The writer's name is printed as well."""

FINISH_TEXTS = {
    "stop": "finished",
    "length": "stopped by --max-tokens",
    "max_steps": "stopped by --max-steps",
    "max_target_tokens": "stopped by --max-target-tokens",
    "max_seconds": "stopped by --max-seconds",
    "context": "stopped: a model's context is full",
}
"""Text for each finish reason."""


def is_interactive(console: Console) -> bool:
    """True if the console can erase printed text."""
    return console.is_terminal and not console.is_dumb_terminal


def spinner(console: Console, text: str) -> AbstractContextManager[Any]:
    """Show a spinner during the block if the console is interactive."""
    return console.status(text) if is_interactive(console) else nullcontext()


class StepsView:
    """Listener that prints each committed step and shows the step in progress below it.

    An interactive terminal also shows each rejected draft step, dimmed and struck through, above
    the target's step. Otherwise only committed steps are printed, unwrapped.
    """

    def __init__(self, console: Console) -> None:
        self.finished = 0
        """Number of committed steps."""
        self._console = console
        self._draft = ("", 0.0)  # text and seconds of the last draft step
        self._rejected_seconds = 0.0  # of the rejected draft step, shown in its own row
        self._current = ("", "")  # writer and text of the step in progress
        self._live = Live(self, console=console, transient=True, refresh_per_second=12)

    def __enter__(self) -> StepsView:
        if is_interactive(self._console):
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
        """Handle an event of the run."""
        match event["type"]:
            case "drafted":
                self._draft = (event["text"], event["seconds"])
                self._current = ("draft", event["text"])
            case "scored" if event["escalate"]:
                self._reject(event)
                self._current = ("target", "")
            case "target_delta":
                self._current = ("target", self._current[1] + event["text"])
            case "committed":
                self._commit(event)
                self.finished += 1
                self._rejected_seconds = 0.0
                self._current = ("", "")

    def _reject(self, event: StepEvent) -> None:
        if is_interactive(self._console):
            text, seconds = self._draft
            self._rejected_seconds = seconds + event["seconds"]
            score, time = _cells(event["score"], self._rejected_seconds)
            self._console.print(_row("draft", _cleaned(text), score, time, style="dim strike"))

    def _commit(self, event: StepEvent) -> None:
        writer, text = event["writer"] or "", _cleaned(event["text"])
        score, time = _cells(event["score"], event["seconds"] - self._rejected_seconds)
        if is_interactive(self._console):
            score = "" if self._rejected_seconds else score  # printed with the rejected step
            self._console.print(_row(writer, text, score, time, style=STYLES[writer]))
        else:
            text = text.replace("\n", "\n" + " " * 24)
            line = Text(f"{writer:<8}{score:>5}{time:>9}  {text}", style=STYLES[writer])
            self._console.print(line, soft_wrap=True)

    def __rich__(self) -> RenderableType:
        """The step in progress. Only the end of a long step fits the screen."""
        writer, text = self._current
        room = self._console.width * (self._console.height - 4) // 2
        return _row(writer, f"{_cleaned(text)[-room:]} …".lstrip(), style=STYLES.get(writer, "dim"))


def _cleaned(text: str) -> str:
    return printable(text).strip()


def _cells(score: float | None, seconds: float) -> tuple[str, str]:
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
    """The statistics of an answer in one line."""
    stats = answer.statistics
    steps = len(stats["steps"])
    accepted = stats["accepted_draft_tokens"]
    verified = f" ({accepted} accepted from the draft)" if accepted else ""
    tokens = (
        f"{stats['draft_tokens']} draft, {stats['target_tokens']} target{verified}, "
        f"{stats['discarded_tokens']} discarded"
    )
    return " · ".join(
        [
            f"{steps} step{'s' * (steps != 1)}, {stats['escalation_rate']:.0%} escalated",
            f"tokens: {tokens}",
            f"{answer.seconds:.2f} s",
            FINISH_TEXTS.get(stats["finish_reason"], stats["finish_reason"]),
        ]
    )


def comparison_table(answers: dict[str, Answer]) -> Table:
    """A table of several answers to one question.

    Args:
        answers: Answers by the name of their row.
    """
    table = Table("", "answer", "seconds", "tokens", "escalated", box=SIMPLE_HEAD)
    for column in table.columns[2:]:
        column.justify = "right"
    for name, answer in answers.items():
        stats = answer.statistics
        tokens = stats["draft_tokens"] + stats["target_tokens"] + stats["discarded_tokens"]
        table.add_row(
            Text(name),
            Text(printable(short_answer(answer.text))),
            f"{answer.seconds:.2f}",
            str(tokens),
            f"{stats['escalation_rate']:.0%}",
        )
    return table
