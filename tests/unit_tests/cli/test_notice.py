"""The notice about the embedded models."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from batch_lines import request_line, write

NOTICE = (
    "Note: the embedded models are a 0.1M/3M-parameter demo for generated word problems. "
    "Use --draft and --target for your own models.\n"
)
ASK = ("ask", "How many?", "--max-tokens", "3")
DEMO = ("demo", "--live", "0", "--questions", "0")


@pytest.fixture
def on_terminal(arbitrage: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run the command with a terminal as stderr; its status, stdout and stderr."""

    def run(*argv: str) -> Any:
        # pytest replaces stderr between the setup and the call of a test.
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
        return arbitrage(*argv)

    return run


@pytest.mark.parametrize("argv", [ASK, DEMO], ids=["ask", "demo"])
def test_a_terminal_shows_the_notice_once(argv: tuple[str, ...], on_terminal: Any) -> None:
    status, out, err = on_terminal(*argv)
    assert status == 0
    assert err.count(NOTICE) == 1
    assert "Note:" not in out


def test_a_batch_job_shows_the_notice_once(on_terminal: Any, tmp_path: Path) -> None:
    write(tmp_path / "in.jsonl", request_line(0))
    files = (str(tmp_path / "in.jsonl"), "-o", str(tmp_path / "out.jsonl"))
    status, _, err = on_terminal("batch", *files, "--max-tokens", "3")
    assert status == 0
    assert err.count(NOTICE) == 1


def test_json_output_has_no_notice(on_terminal: Any) -> None:
    assert "Note:" not in on_terminal(*ASK, "--json")[2]


def test_your_own_models_have_no_notice(on_terminal: Any, models: list[str]) -> None:
    assert "Note:" not in on_terminal(*ASK, *models)[2]


def test_a_redirected_stderr_has_no_notice(arbitrage: Any) -> None:
    assert arbitrage(*ASK)[2] == ""
