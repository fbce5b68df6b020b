"""A pair of tiny models and the command run in this process."""

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
    """What the machine's environment says about colours and widths does not count."""
    for name in ("FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "100")


@pytest.fixture(scope="session")
def models() -> list[str]:
    """Options that name two tiny models."""
    draft, target = make("llama", 1), make("llama", 2)
    return ["--draft", draft, "--target", target]


@pytest.fixture
def arbitrage(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run the command; its status, stdout and stderr."""

    def run(*argv: str) -> tuple[int, str, str]:
        status = main(argv)
        out, err = capsys.readouterr()
        return status, out, err

    return run


class _PressesCtrlC(io.StringIO):
    """A stdout whose reader presses Ctrl-C as soon as two steps are there."""

    def write(self, text: str) -> int:
        written = super().write(text)
        if " s  " in text and self.getvalue().count(" s  ") == 2:
            signal.raise_signal(signal.SIGINT)
        return written


@pytest.fixture
def interrupted(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str]]:
    """Run the command, interrupted after two steps; its status and stdout."""

    def run(*argv: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "stdout", out := _PressesCtrlC())
        return main(argv), out.getvalue()

    return run
