"""Fixtures: a pair of tiny models, and the command run in this process."""

from __future__ import annotations

import io
import signal
import sys
from collections.abc import Callable

import pytest

from langgraph_arbitrage.cli import main
from spies import loads
from tiny import make

__all__ = ["loads"]


@pytest.fixture(autouse=True)
def plain_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make colours and widths independent of the environment."""
    for name in ("FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "100")


@pytest.fixture(scope="session")
def models() -> list[str]:
    """Options that select two tiny models."""
    draft, target = make("llama", 1), make("llama", 2)
    return ["--draft", draft, "--target", target]


@pytest.fixture
def arbitrage(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run the command; returns its status, stdout and stderr."""

    def run(*argv: str) -> tuple[int, str, str]:
        status = main(argv)
        out, err = capsys.readouterr()
        return status, out, err

    return run


class _InterruptingStdout(io.StringIO):
    """A stdout that raises SIGINT once two steps are printed."""

    def write(self, text: str) -> int:
        written = super().write(text)
        if " s  " in text and self.getvalue().count(" s  ") == 2:
            signal.raise_signal(signal.SIGINT)
        return written


@pytest.fixture
def interrupted(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str]]:
    """Run the command and interrupt it after two steps; returns its status and stdout."""

    def run(*argv: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "stdout", out := _InterruptingStdout())
        return main(argv), out.getvalue()

    return run
