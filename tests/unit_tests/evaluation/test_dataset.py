"""Loading datasets: public formats, custom columns and invalid input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pytest

from langgraph_arbitrage import embedded
from langgraph_arbitrage.errors import DataError
from langgraph_arbitrage.evaluation import Grader, load_dataset
from langgraph_arbitrage.evaluation.dataset import INSTRUCTION

GSM8K = {"question": "How many?", "answer": "3 + 4 = <<3+4=7>>7\n#### 7"}
MATH500 = {"problem": "What is $x$?", "answer": r"\frac{1}{2}", "level": 3}
OLYMPIAD = {
    "question": "Which $n$?",
    "context": "Let $n$ be odd.",
    "final_answer": ["1", "3"],
    "answer": None,
}


def file(tmp_path: Path, *records: Any) -> str:
    path = tmp_path / "questions.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


@pytest.mark.parametrize(
    ("record", "question", "reference", "right"),
    [
        (GSM8K, "How many?", GSM8K["answer"], r"\boxed{7}"),
        (MATH500, "What is $x$?", r"\frac{1}{2}", r"\boxed{0.5}"),
        (OLYMPIAD, "Let $n$ be odd.\n\nWhich $n$?", "1, 3", r"\boxed{3, 1}"),
    ],
)
def test_public_formats_are_recognized_by_their_columns(
    tmp_path: Path,
    grader: Grader,
    record: dict[str, Any],
    question: str,
    reference: str,
    right: str,
) -> None:
    (task,) = load_dataset(file(tmp_path, record), grader=grader).tasks
    assert (task.question, task.reference) == (question, reference)
    assert task.prompt == f"{question}\n\n{INSTRUCTION}"
    assert task.grade(right, grader) == "right"
    assert task.grade(r"\boxed{12}", grader) == "wrong"


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("gsm8k", ("openai/gsm8k", "main", "test")),
        ("math500", ("HuggingFaceH4/MATH-500", None, "test")),
        ("olympiadbench", ("Hothan/OlympiadBench", "OE_TO_maths_en_COMP", "train")),
    ],
)
def test_names_load_datasets_of_the_hub(
    monkeypatch: pytest.MonkeyPatch, grader: Grader, name: str, asked: tuple[Any, ...]
) -> None:
    found: list[Any] = []
    records = {"gsm8k": GSM8K, "math500": MATH500, "olympiadbench": OLYMPIAD}

    def load(path: str, config: str | None, split: str) -> list[dict[str, Any]]:
        found.append((path, config, split))
        return [records[name]]

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert len(load_dataset(name, grader=grader).tasks) == 1
    assert found == [asked]


def test_custom_columns_are_used(tmp_path: Path, grader: Grader) -> None:
    path = file(tmp_path, {"q": "A?", "a": 7, "question": "B?", "answer": "8"})
    (task,) = load_dataset(path, column="q", answer_column="a", grader=grader).tasks
    assert (task.question, task.reference) == ("A?", "7")


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({}, r"none of the known formats \(gsm8k, .*\)\. Its columns are 'q', 'a'"),
        ({"column": "x", "answer_column": "a"}, r"no column 'x'; its columns are 'q', 'a'"),
        ({"column": "q", "answer_column": "x"}, r"no column 'x'; its columns are 'q', 'a'"),
        (
            {"column": "q"},
            r"choose the columns of question and answer with --column and --answer-column",
        ),
    ],
)
def test_an_error_about_missing_columns_lists_the_existing_ones(
    tmp_path: Path, grader: Grader, columns: dict[str, str], said: str
) -> None:
    with pytest.raises(DataError, match=said):
        load_dataset(file(tmp_path, {"q": "A?", "a": "7"}), grader=grader, **columns)


def test_unreadable_references_are_excluded_and_listed(tmp_path: Path, grader: Grader) -> None:
    records = [{"question": f"{i}?", "answer": a} for i, a in enumerate(["7", "$t(0,4]$", None])]
    found = load_dataset(file(tmp_path, *records), grader=grader)
    assert [t.question for t in found.tasks] == ["0?"]
    assert [(one.question, one.reason) for one in found.left_out] == [
        ("1?", "the reference cannot be read"),
        ("2?", "the reference is empty"),
    ]


def test_a_column_without_readable_references_is_refused(tmp_path: Path, grader: Grader) -> None:
    path = file(tmp_path, {"question": "A?", "answer": "$t(0,4]$"})
    with pytest.raises(DataError, match=r"no reference answer .* can be read, .*'\$t\(0,4\]\$'"):
        load_dataset(path, grader=grader)


@pytest.mark.parametrize("records", [(), ({"question": " ", "answer": "7"},)])
def test_an_empty_dataset_is_refused(
    tmp_path: Path, grader: Grader, records: tuple[Any, ...]
) -> None:
    with pytest.raises(DataError, match="contains no questions"):
        load_dataset(file(tmp_path, *records), grader=grader)


def test_limit_and_custom_instruction_apply(tmp_path: Path, grader: Grader) -> None:
    path = file(tmp_path, *({"question": f"{i}?", "answer": "7"} for i in range(5)))
    found = load_dataset(path, limit=2, instruction="Be quick.", grader=grader)
    assert [t.prompt for t in found.tasks] == ["0?\n\nBe quick.", "1?\n\nBe quick."]
    (task,) = load_dataset(path, limit=1, instruction="", grader=grader).tasks
    assert task.prompt == "0?"


def test_embedded_problems_have_an_exact_checker_and_no_instruction() -> None:
    found = load_dataset("embedded:3:7")
    problems = list(embedded.problems(3, 7))
    assert [t.prompt for t in found.tasks] == [p.question for p in problems]
    assert found.tasks[0].grade(problems[0].solution, None) == "right"
    assert found.tasks[0].grade(problems[1].solution, None) == "wrong"
