"""`arbitrage graph`: draws the state machine offline."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

PNG = b"\x89PNG\r\n\x1a\n"


def test_mermaid_is_the_default_and_shows_every_node(arbitrage):
    status, out, _ = arbitrage("graph")
    assert status == 0
    assert all(
        f"{node}({node})" in out
        for node in ("prepare", "draft", "route", "approve", "regenerate", "commit")
    )
    assert "draft --> route;" in out


def test_the_documentation_contains_the_drawing(arbitrage):
    page = Path(__file__).parents[3] / "docs" / "architecture.md"
    assert arbitrage("graph")[1].strip() in page.read_text(encoding="utf-8")


def test_the_drawing_goes_to_a_file(arbitrage, tmp_path):
    file = tmp_path / "loop.mmd"
    assert arbitrage("graph", "-o", str(file))[:2] == (0, "")
    assert "graph TD;" in file.read_text()


def test_an_unwritable_file_is_an_error(arbitrage, tmp_path):
    status, _, err = arbitrage("graph", "-o", str(tmp_path / "no" / "loop.mmd"))
    assert status == 2
    assert "cannot be written: No such file" in err


@pytest.mark.parametrize(("kind", "package"), [("png", "pygraphviz"), ("ascii", "grandalf")])
def test_a_missing_package_is_named_with_the_command_that_installs_it(
    arbitrage, monkeypatch, kind, package
):
    monkeypatch.setattr("langgraph_arbitrage.cli.graph.find_spec", lambda name: None)
    status, out, err = arbitrage("graph", "--format", kind)
    assert (status, out) == (2, "")
    assert (
        f"needs {package}, which is not installed: pip install 'langgraph-arbitrage[draw]'" in err
    )


@pytest.mark.skipif(find_spec("pygraphviz") is None, reason="needs pygraphviz")
def test_a_file_that_ends_in_png_gets_a_png(arbitrage, tmp_path):
    file = tmp_path / "loop.png"
    assert arbitrage("graph", "-o", str(file))[0] == 0
    assert file.read_bytes().startswith(PNG)


@pytest.mark.skipif(find_spec("grandalf") is None, reason="needs grandalf")
def test_ascii_is_drawn_in_text(arbitrage):
    assert "| commit |" in arbitrage("graph", "--format", "ascii")[1]


def test_a_png_is_not_written_to_a_terminal(arbitrage, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert "Write it to a file with -o" in arbitrage("graph", "--format", "png")[2]
