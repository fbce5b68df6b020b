"""Fixtures: a pair of tiny models with a PRM, questions, and the command line."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from collected import PAIR
from langgraph_arbitrage.cli import main
from langgraph_arbitrage.config.settings import ArbitrageSettings
from langgraph_arbitrage.loop.models import Models
from tiny import QUESTIONS, make


@pytest.fixture
def arbitrage(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """A function that runs the command line and returns its status, stdout and stderr."""

    def run(*argv: object) -> tuple[int, str, str]:
        status = main([str(a) for a in argv])
        out, err = capsys.readouterr()
        return status, out, err

    return run


@pytest.fixture(scope="session")
def options() -> list[str]:
    """The settings of the tiny pair as command-line options."""
    return [part for k, v in PAIR.items() for part in (f"--{k.replace('_', '-')}", str(v))]


@pytest.fixture(scope="session")
def prm() -> str:
    """A tiny PRM with a token-classification head."""
    return make("llama", 3, head="token-classification")


@pytest.fixture(scope="module")
def models() -> Iterator[Models]:
    """The tiny pair, loaded once per module."""
    models = Models(ArbitrageSettings(**PAIR))
    yield models
    models.close()


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    """A JSONL file of questions."""
    path = tmp_path / "questions.jsonl"
    path.write_text("".join(json.dumps({"question": q}) + "\n" for q in QUESTIONS))
    return path
