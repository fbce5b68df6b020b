"""Questions from files, the embedded problems, and (with a fake loader) datasets on the hub."""

from __future__ import annotations

from pathlib import Path

import datasets
import pytest

from langgraph_arbitrage import embedded
from langgraph_arbitrage.errors import DataError
from langgraph_arbitrage.training import Question, load_questions


def test_embedded_problems_have_answers_and_depend_on_the_seed() -> None:
    questions = load_questions("embedded:20:7")
    assert [q.text for q in questions] == [p.question for p in embedded.problems(20, 7)]
    assert all(q.solved_by(q.problem.solution) for q in questions if q.problem)
    assert not {q.text for q in questions} & {q.text for q in load_questions("embedded:20:8")}


def test_duplicate_questions_of_a_file_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text(
        '{"q": "A?", "a": 1}\n\n{"q": "A? ", "a": 2}\n{"q": "B?", "a": "x"}\n{"q": " "}\n'
    )
    assert load_questions(str(path), "q") == [Question("A?"), Question("B?")]
    assert load_questions(str(path), "q", limit=1) == [Question("A?")]


def test_a_dataset_on_the_hub_is_loaded_by_name_config_and_split(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[object] = []

    def load(name: str, config: str | None, split: str) -> list[dict[str, str]]:
        calls.append((name, config, split))
        return [{"question": "A?", "answer": "so #### 7"}]

    monkeypatch.setattr(datasets, "load_dataset", load)
    questions = load_questions("openai/gsm8k:main", answer_column="answer", split="test")
    assert (calls, questions) == ([("openai/gsm8k", "main", "test")], [Question("A?", "so #### 7")])


@pytest.mark.parametrize(
    ("answer", "text", "right"),
    [
        ("#### 1,234", r"so \boxed{1234}", True),
        ("7", "That is 7.0 apples.", True),
        ("7", r"\boxed{8}, not 7", False),
        (r"\frac{1}{2}", r"\boxed{\frac{1}{2}}", True),
        ("yes", "no", False),
    ],
)
def test_an_answer_is_compared_by_its_box_or_its_last_number(
    answer: str, text: str, right: bool
) -> None:
    assert Question("?", answer).solved_by(text) is right


def test_solved_by_needs_a_right_answer() -> None:
    with pytest.raises(DataError, match="--answer-column"):
        Question("?").solved_by("7")


@pytest.mark.parametrize(
    ("source", "text", "message"),
    [
        ("q.jsonl", '{"problem": "A?", "level": 1}\n', "no column 'question'.*'problem', 'level'"),
        ("q.jsonl", "", "holds no questions"),
        ("q.jsonl", "[1]\n", "line 1 is not a JSON object"),
        ("q.jsonl", "{\n", "is not a valid JSONL file"),
        ("q.jsonl", None, "does not exist"),
        ("embedded:many", None, "embedded:N:SEED"),
        ("no/such-set", None, "cannot be loaded"),
    ],
)
def test_an_unusable_source_is_reported(
    source: str, text: str | None, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    if text is not None:
        Path(source).write_text(text)
    with pytest.raises(DataError, match=message):
        load_questions(source)
