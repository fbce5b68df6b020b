"""Fixtures: a chat model with tiny models, and a batch job."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from batch_lines import SETTINGS, read, write
from langgraph_arbitrage import ChatArbitrage
from langgraph_arbitrage.batch import BatchSummary, run_batch
from spies import loads

__all__ = ["llm", "loads", "run"]


@pytest.fixture(scope="module")
def llm() -> Iterator[ChatArbitrage]:
    """A chat model that answers in eight tokens."""
    llm = ChatArbitrage(**SETTINGS)
    yield llm
    llm.close()


@pytest.fixture
def run(
    llm: ChatArbitrage, tmp_path: Path
) -> Callable[..., tuple[BatchSummary, list[dict[str, Any]]]]:
    """Run a job on these lines, or again on the previous ones; returns summary and output."""
    output = tmp_path / "out.jsonl"

    def run(*lines: Any, **settings: Any) -> tuple[BatchSummary, list[dict[str, Any]]]:
        source = tmp_path / "in.jsonl"
        if lines:
            write(source, *lines)
        summary = run_batch(llm, source, output, **settings)
        return summary, read(output)

    return run
