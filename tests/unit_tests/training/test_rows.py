"""Files of rows: `datasets` reads them, and interrupted files are repaired."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from collected import learnable, row, written
from langgraph_arbitrage.errors import DataError
from langgraph_arbitrage.training import Row, RowFile, read_labelled_steps, read_rows
from langgraph_arbitrage.training.rows import Origin, model_pair


def origin(**changes: Any) -> Origin:
    example: Any = row("q", [], "z", 0, 1)
    result: Any = {name: example[name] for name in get_type_hints(Origin)} | changes
    return result


def fill(path: Path, rows: list[Row]) -> None:
    with RowFile(path, origin()) as file:
        for question in dict.fromkeys(r["question"] for r in rows):
            of_question = [r for r in rows if r["question"] == question]
            file.append([{**r, "rows": len(of_question)} for r in of_question])


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_datasets_reads_collected_rows(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from datasets import load_dataset

    rows, path = learnable(3), tmp_path / f"rows.{kind}"
    fill(path, rows)
    format_ = {"jsonl": "json"}.get(kind, kind)
    dataset = load_dataset(
        format_, data_files=str(path), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert dataset.column_names == list(rows[0])
    assert [r["history"] for r in dataset] == [r["history"] for r in rows]
    assert [r["delta"] for r in dataset] == [r["delta"] for r in rows]
    assert read_rows([path]) == [{**r, "rows": 2} for r in rows]


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_questions_are_appended_to_a_finished_file(kind: str, tmp_path: Path) -> None:
    rows, path = learnable(4), tmp_path / f"rows.{kind}"
    fill(path, rows[:4])
    fill(path, rows[4:])
    assert [r["question"] for r in read_rows([path])] == [r["question"] for r in rows]
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_an_incomplete_question_is_cut_off(tmp_path: Path) -> None:
    rows, path = learnable(3), tmp_path / "rows.jsonl"
    fill(path, rows)
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    for content in (whole[:-9], b"".join(lines[:-1]), b"".join(lines[:-1]) + b'{"que'):
        path.write_bytes(content)
        with RowFile(path, origin()) as file:
            assert len(file.done) == 2
        assert path.read_bytes() == b"".join(lines[:4])


def test_a_complete_row_without_a_line_end_is_kept(tmp_path: Path) -> None:
    rows, path = learnable(3), tmp_path / "rows.jsonl"
    fill(path, rows[:4])
    path.write_bytes(path.read_bytes()[:-1])
    fill(path, rows[4:])
    assert [r["question"] for r in read_rows([path])] == [r["question"] for r in rows]


def test_two_collections_cannot_write_the_same_file(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    with (
        RowFile(path, origin()),
        pytest.raises(DataError, match="is being written by another job"),
        RowFile(path, origin()),
    ):
        pass


def test_a_file_with_other_content_is_not_changed(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    for text in ('{"a": 1}\n', "a diary\n", '{"a": 1}\n{"b'):
        path.write_text(text)
        with pytest.raises(DataError, match=r"line 1 is (not a row of a collection|.*JSON)"):
            fill(path, learnable(1))
        assert path.read_text() == text


def test_rows_of_different_origins_are_not_mixed(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    fill(path, learnable(1))
    with (
        pytest.raises(
            DataError, match="holds rows with target 'b', but this collection has target 'c'"
        ),
        RowFile(path, origin(target="c")),
    ):
        pass


def test_rows_of_several_pairs_are_rejected() -> None:
    rows = [row("q", [], "z", 0, 1), row("q", [], "z", 0, 1, target="c")]
    with pytest.raises(DataError, match=r"several pairs of models \(a with b; a with c\)"):
        model_pair(rows)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "is not a file"),
        ("", "holds no rows"),
        ('{"question": "q"}\n', "has no column delta, draft, .*; its columns are question"),
        ("[1]\n", "line 1 is not a JSON object"),
        ("{\n{}\n", "line 1 is not valid JSON"),
    ],
)
def test_an_unusable_file_is_reported(text: str | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    if text is not None:
        path.write_text(text)
    with pytest.raises(DataError, match=message):
        read_rows([path])


def test_a_file_that_is_not_parquet_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    path.write_text("a diary")
    with pytest.raises(DataError, match="is not a Parquet file"):
        read_rows([path])
    with pytest.raises(DataError, match=r"as \.jsonl or \.parquet, not as '\.csv'"):
        RowFile(tmp_path / "rows.csv", origin())


def test_labelled_steps_need_a_step_and_its_label(tmp_path: Path) -> None:
    path = tmp_path / "labelled.jsonl"
    labelled = {"question": "q", "history": [], "step": "z", "correct": True}
    path.write_text(json.dumps(labelled) + "\n")
    collected = written(tmp_path / "rows.jsonl", learnable(1))
    assert read_labelled_steps([path, collected])[0] == labelled
    path.write_text(
        json.dumps({**labelled, "correct": None, "step": None}).replace("step", "z") + "\n"
    )
    with pytest.raises(DataError, match="question, history, step, correct, or on collected"):
        read_labelled_steps([path])
