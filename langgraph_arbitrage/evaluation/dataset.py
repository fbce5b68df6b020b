"""Load questions with reference answers from public datasets, data files or embedded problems."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from langgraph_arbitrage.data.records import column_text, read_records
from langgraph_arbitrage.embedded import DRAFT, TARGET, Problem, check_answer, problems
from langgraph_arbitrage.errors import DataError
from langgraph_arbitrage.evaluation.grading import Grade, Grader
from langgraph_arbitrage.training.questions import question_id

__all__ = [
    "FORMATS",
    "INSTRUCTION",
    "Dataset",
    "Format",
    "LeftOut",
    "Task",
    "default_instruction",
    "load_dataset",
]

INSTRUCTION = "Please reason step by step, and put your final answer within \\boxed{}."
"""Default instruction appended to a question, as in the paper's mathematics evaluations."""

_EMBEDDED = re.compile(r"embedded(?::(\d+))?(?::(\d+))?")
_EMBEDDED_COUNT = 100
"""Number of embedded problems if the source does not specify one."""


@dataclass(frozen=True)
class Format:
    """Location and column names of a public dataset."""

    hub: str
    split: str
    column: str
    answer_column: str


FORMATS = {
    "gsm8k": Format("openai/gsm8k:main", "test", "question", "answer"),
    "math500": Format("HuggingFaceH4/MATH-500", "test", "problem", "answer"),
    "olympiadbench": Format(
        "Hothan/OlympiadBench:OE_TO_maths_en_COMP", "train", "question", "final_answer"
    ),
}
"""Datasets that can be loaded by name. A data file with the columns of one of them is recognized
too."""


def default_instruction(draft: str, target: str) -> str:
    """Return the instruction to append to the questions for a pair of models.

    The result is empty for the embedded pair, which was trained without an instruction.

    Args:
        draft: Checkpoint of the draft.
        target: Checkpoint of the target.

    Example:
        >>> default_instruction("draft", "target") == INSTRUCTION
        True
    """
    return "" if (draft, target) == (DRAFT, TARGET) else INSTRUCTION


@dataclass(frozen=True)
class Task:
    """A question with its prompt and reference answer."""

    id: str
    question: str
    reference: str
    prompt: str
    """The question followed by the instruction."""
    problem: Problem | None = None
    """The embedded problem, which the exact checker needs; None for other questions."""

    def grade(self, text: str, grader: Grader | None) -> Grade:
        """Grade an answer by the exact checker if the task has a problem, else by `grader`."""
        if self.problem is not None:
            return "right" if check_answer(self.problem, text) else "wrong"
        assert grader is not None  # noqa: S101 - only embedded problems need no grader
        return grader.grade(text, self.reference)


@dataclass(frozen=True)
class LeftOut:
    """A question excluded from the evaluation, and the reason."""

    question: str
    reference: str
    reason: str


@dataclass(frozen=True)
class Dataset:
    """The questions loaded from a source."""

    name: str
    tasks: tuple[Task, ...]
    left_out: tuple[LeftOut, ...] = ()

    @property
    def digest(self) -> str:
        """Hash of all prompts and references."""
        content = repr([(task.prompt, task.reference) for task in self.tasks])
        return hashlib.blake2b(content.encode(), digest_size=8).hexdigest()


def load_dataset(
    source: str,
    *,
    column: str | None = None,
    answer_column: str | None = None,
    split: str | None = None,
    limit: int | None = None,
    instruction: str | None = None,
    grader: Grader | None = None,
    progress: Callable[[], None] = lambda: None,
) -> Dataset:
    """Load the questions of a source.

    Duplicate questions are dropped. Questions whose reference cannot be graded are listed in
    `Dataset.left_out`.

    Args:
        source: `gsm8k`, `math500` or `olympiadbench` from the Hugging Face hub; a JSONL file in one
            of these formats or with your own columns; another dataset on the hub (`owner/name` or
            `owner/name:config`); `embedded:N` or `embedded:N:SEED`.
        column: Column of the question. Default: the column of the known format.
        answer_column: Column of the reference answer. Default: the column of the known format.
        split: Split of a dataset on the hub. Default: the split of the known format, else `train`.
        limit: Maximum number of questions. Default: all.
        instruction: Text appended to each question. An empty string appends nothing. Default:
            `INSTRUCTION`. Embedded problems ignore this argument and get no instruction.
        grader: Grader that tells which references can be graded. Default: a new grader, which is
            closed before the function returns.
        progress: Called after each distinct question.

    Example:
        >>> load_dataset("embedded:3:7").tasks[0].problem is not None
        True

    Raises:
        DataError: The source does not exist, lacks these columns, or contains no gradable question.
    """
    if match := _EMBEDDED.fullmatch(source):
        count, seed = int(match[1] or _EMBEDDED_COUNT), int(match[2] or 0)
        drawn = problems(count if limit is None else min(count, limit), seed)
        tasks = {
            question_id(p.question): Task(
                question_id(p.question), p.question, str(p.answer), p.question, p
            )
            for p in drawn
        }
        return Dataset(source, _nonempty(tasks.values(), source))
    known = FORMATS.get(source)
    records = read_records(known.hub if known else source, split or _split(known), "eval")
    owns_grader = grader is None
    grader = grader or Grader()
    try:
        return _read(source, records, (column, answer_column), limit, instruction, grader, progress)
    finally:
        if owns_grader:
            grader.close()


def _split(known: Format | None) -> str:
    return known.split if known else "train"


def _read(
    source: str,
    records: Iterable[Mapping[str, Any]],
    columns: tuple[str | None, str | None],
    limit: int | None,
    instruction: str | None,
    grader: Grader,
    progress: Callable[[], None],
) -> Dataset:
    suffix = INSTRUCTION if instruction is None else instruction
    tasks: dict[str, Task] = {}
    left_out: list[LeftOut] = []
    names: tuple[str, str] | None = None
    for record in records:
        if limit is not None and len(tasks) + len(left_out) >= limit:
            break
        names = names or _columns(record, columns, source)
        question = column_text(record, names[0], source).strip()
        if record.get("context"):
            question = f"{record['context']}\n\n{question}"
        reference = _reference(record, names[1], source)
        key = question_id(question)
        if not question or key in tasks:
            continue
        progress()
        if grader.kind(reference) == "unreadable":
            reason = "the reference is empty" if not reference else "the reference cannot be read"
            left_out.append(LeftOut(question, reference, reason))
            continue
        prompt = f"{question}\n\n{suffix}" if suffix else question
        tasks[key] = Task(key, question, reference, prompt)
    if left_out and not tasks:
        raise DataError(
            f"no reference answer of {source} can be read, for example {left_out[0].reference!r} "
            f"in column {names[1] if names else ''!r}: choose another column with --answer-column"
        )
    # Without its folder, a file that was moved still counts as the same dataset.
    name = Path(source).name if Path(source).is_file() else source
    return Dataset(name, _nonempty(tasks.values(), source), tuple(left_out))


def _nonempty(tasks: Iterable[Task], source: str) -> tuple[Task, ...]:
    tasks = tuple(tasks)
    if not tasks:
        raise DataError(f"{source} contains no questions")
    return tasks


def _columns(
    record: Mapping[str, Any], columns: tuple[str | None, str | None], source: str
) -> tuple[str, str]:
    """Return the names of the question column and the answer column.

    They are the requested columns or, where none is requested, those of the first known format
    that fits the record.
    """
    question, answer = columns
    if question and answer:
        for name in (question, answer):
            column_text(record, name, source)
        return question, answer
    for known in (FORMATS["olympiadbench"], FORMATS["math500"], FORMATS["gsm8k"]):
        candidate = question or known.column, answer or known.answer_column
        if all(name in record for name in candidate):
            return candidate
    for name in filter(None, columns):
        column_text(record, name, source)
    raise DataError(
        f"{source} has none of the known formats ({', '.join(FORMATS)}). Its columns are "
        f"{', '.join(map(repr, record))}: choose the columns of question and answer with --column "
        "and --answer-column"
    )


def _reference(record: Mapping[str, Any], column: str, source: str) -> str:
    column_text(record, column, source)
    value = record[column]
    if value is None:
        return ""
    if isinstance(value, list | tuple):  # OlympiadBench stores a list of answers
        return ", ".join(map(str, value))
    return str(value).strip()
