"""Files of rows: `datasets` reads them, and what a kill left is repaired."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from collected import learnable, row, written
from langgraph_arbitrage.errors import DataError
from langgraph_arbitrage.training import Row, RowFile, read_rows, read_verdicts
from langgraph_arbitrage.training.rows import Origin, one_pair


def origin(**others: Any) -> Origin:
    plain: Any = row("q", [], "z", 0, 1)
    found: Any = {name: plain[name] for name in get_type_hints(Origin)} | others
    return found


def fill(path: Path, rows: list[Row]) -> None:
    with RowFile(path, origin()) as file:
        for question in dict.fromkeys(r["question"] for r in rows):
            of_it = [r for r in rows if r["question"] == question]
            file.append([{**r, "rows": len(of_it)} for r in of_it])


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_datasets_reads_what_was_collected(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from datasets import load_dataset

    rows, path = learnable(3), tmp_path / f"rows.{kind}"
    fill(path, rows)
    format_ = {"jsonl": "json"}.get(kind, kind)
    found = load_dataset(
        format_, data_files=str(path), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert found.column_names == list(rows[0])
    assert [r["history"] for r in found] == [r["history"] for r in rows]
    assert [r["delta"] for r in found] == [r["delta"] for r in rows]
    assert read_rows([path]) == [{**r, "rows": 2} for r in rows]


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_more_questions_are_added_to_a_finished_file(kind: str, tmp_path: Path) -> None:
    rows, path = learnable(4), tmp_path / f"rows.{kind}"
    fill(path, rows[:4])
    fill(path, rows[4:])
    assert [r["question"] for r in read_rows([path])] == [r["question"] for r in rows]
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_torn_question_is_cut_off_and_collected_again(tmp_path: Path) -> None:
    rows, path = learnable(3), tmp_path / "rows.jsonl"
    fill(path, rows)
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    for left in (whole[:-9], b"".join(lines[:-1]), b"".join(lines[:-1]) + b'{"que'):
        path.write_bytes(left)
        with RowFile(path, origin()) as file:
            assert len(file.done) == 2
        assert path.read_bytes() == b"".join(lines[:4])


def test_a_whole_row_that_lacks_its_line_end_is_kept_and_ended(tmp_path: Path) -> None:
    rows, path = learnable(3), tmp_path / "rows.jsonl"
    fill(path, rows[:4])
    path.write_bytes(path.read_bytes()[:-1])
    fill(path, rows[4:])
    assert [r["question"] for r in read_rows([path])] == [r["question"] for r in rows]


def test_two_collections_cannot_write_one_file(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    with (
        RowFile(path, origin()),
        pytest.raises(DataError, match="is being written by another job"),
        RowFile(path, origin()),
    ):
        pass


def test_a_file_of_something_else_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    for text in ('{"a": 1}\n', "a diary\n", '{"a": 1}\n{"b'):
        path.write_text(text)
        with pytest.raises(DataError, match=r"line 1 is no (row of a collection|JSON): give"):
            fill(path, learnable(1))
        assert path.read_text() == text


def test_rows_of_another_pair_or_seed_are_not_mixed_in(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    fill(path, learnable(1))
    with (
        pytest.raises(DataError, match=r"holds rows with target 'b'.* with target 'c'"),
        RowFile(path, origin(target="c")),
    ):
        pass


def test_rows_of_several_pairs_are_refused() -> None:
    rows = [row("q", [], "z", 0, 1), row("q", [], "z", 0, 1, target="c")]
    with pytest.raises(DataError, match=r"several pairs of models \(a with b; a with c\)"):
        one_pair(rows)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (None, "is no file"),
        ("", "holds no rows"),
        ('{"question": "q"}\n', "has no column delta, draft, .*; its columns are question"),
        ("[1]\n", "line 1 is no JSON object"),
        ("{\n{}\n", "line 1 is no JSON"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(text: str | None, told: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    if text is not None:
        path.write_text(text)
    with pytest.raises(DataError, match=told):
        read_rows([path])


def test_a_file_that_is_no_parquet_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    path.write_text("a diary")
    with pytest.raises(DataError, match="is no Parquet file"):
        read_rows([path])
    with pytest.raises(DataError, match=r"as \.jsonl or \.parquet, not as '\.csv'"):
        RowFile(tmp_path / "rows.csv", origin())


def test_verdicts_need_a_step_and_what_it_was(tmp_path: Path) -> None:
    path = tmp_path / "verdicts.jsonl"
    plain = {"question": "q", "history": [], "step": "z", "correct": True}
    path.write_text(json.dumps(plain) + "\n")
    assert read_verdicts([path, written(tmp_path / "rows.jsonl", learnable(1))])[0] == plain
    path.write_text(
        json.dumps({**plain, "correct": None, "step": None}).replace("step", "z") + "\n"
    )
    with pytest.raises(DataError, match="question, history, step, correct, or from collected"):
        read_verdicts([path])
