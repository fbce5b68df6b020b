"""Questions with right answers: public formats, one's own columns, the embedded problems."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from langgraph_arbitrage.data.records import cell, read_records
from langgraph_arbitrage.embedded import Problem, check_answer, problems
from langgraph_arbitrage.errors import DataError
from langgraph_arbitrage.evaluation.grading import Grade, Grader
from langgraph_arbitrage.training.questions import question_id

__all__ = ["FORMATS", "INSTRUCTION", "Dataset", "Format", "LeftOut", "Task", "load_dataset"]

INSTRUCTION = "Please reason step by step, and put your final answer within \\boxed{}."
"""Added to a question by default, as it is in the paper's evaluations of mathematics."""

_EMBEDDED = re.compile(r"embedded(?::(\d+))?(?::(\d+))?")
_MANY = 100
"""Embedded problems where no number is given."""


@dataclass(frozen=True)
class Format:
    """A public data set: where it is, and what its columns hold."""

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
"""Data sets that are known by a name; a file with the same columns is read alike."""


@dataclass(frozen=True)
class Task:
    """A question, as it is asked, and its right answer."""

    id: str
    question: str
    reference: str
    prompt: str
    """The question and the instruction."""
    problem: Problem | None = None
    """The embedded problem that it is, for the exact checker."""

    def grade(self, text: str, grader: Grader | None) -> Grade:
        """Whether an answer is right: by the exact checker, else by math-verify."""
        if self.problem is not None:
            return "right" if check_answer(self.problem, text) else "wrong"
        assert grader is not None  # noqa: S101 - only embedded problems do without
        return grader.grade(text, self.reference)


@dataclass(frozen=True)
class LeftOut:
    """A question that is not asked, and why."""

    question: str
    reference: str
    reason: str


@dataclass(frozen=True)
class Dataset:
    """The questions of a source."""

    name: str
    tasks: tuple[Task, ...]
    left_out: tuple[LeftOut, ...] = ()

    @property
    def digest(self) -> str:
        """What tells these questions from others."""
        told = repr([(task.prompt, task.reference) for task in self.tasks])
        return hashlib.blake2b(told.encode(), digest_size=8).hexdigest()


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
    """The questions of a source, each once; those whose reference cannot be read are left out.

    Args:
        source: `gsm8k`, `math500` or `olympiadbench` from the hub; a JSONL file of one of these
            formats or with columns of one's own; a data set of the hub (`owner/name` or
            `owner/name:config`); `embedded:N` or `embedded:N:SEED`.
        column: Where the question stands; None where the format is a known one.
        answer_column: Where the right answer stands.
        split: Split of a data set of the hub.
        limit: At most so many.
        instruction: What is added to each question; None adds `INSTRUCTION` to all but embedded
            problems, which do not know it.
        grader: Reads the references; one is made where there are any to read.
        progress: Called after each record.

    Example:
        >>> load_dataset("embedded:3:7").tasks[0].problem is not None
        True

    Raises:
        DataError: The source is not there, has not these columns, or holds no question that can be
            graded.
    """
    if found := _EMBEDDED.fullmatch(source):
        count, seed = int(found[1] or _MANY), int(found[2] or 0)
        drawn = problems(count if limit is None else min(count, limit), seed)
        tasks = {
            question_id(p.question): Task(
                question_id(p.question), p.question, str(p.answer), p.question, p
            )
            for p in drawn
        }
        return Dataset(source, _some(tasks.values(), source))
    form = FORMATS.get(source)
    records = read_records(form.hub if form else source, split or _split(form), "eval")
    own = grader is None
    grader = grader or Grader()
    try:
        return _read(source, records, (column, answer_column), limit, instruction, grader, progress)
    finally:
        if own:
            grader.close()


def _split(form: Format | None) -> str:
    return form.split if form else "train"


def _read(
    source: str,
    records: Iterable[Mapping[str, Any]],
    columns: tuple[str | None, str | None],
    limit: int | None,
    instruction: str | None,
    grader: Grader,
    progress: Callable[[], None],
) -> Dataset:
    added = INSTRUCTION if instruction is None else instruction
    tasks: dict[str, Task] = {}
    left_out: list[LeftOut] = []
    names: tuple[str, str] | None = None
    for record in records:
        if limit is not None and len(tasks) + len(left_out) >= limit:
            break
        names = names or _columns(record, columns, source)
        question = cell(record, names[0], source).strip()
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
        prompt = f"{question}\n\n{added}" if added else question
        tasks[key] = Task(key, question, reference, prompt)
    if left_out and not tasks:
        raise DataError(
            f"no reference of {source} can be read as an answer, such as {left_out[0].reference!r} "
            f"in the column {names[1] if names else ''!r}: name another with --answer-column"
        )
    name = Path(source).name if Path(source).is_file() else source  # not where it lies here
    return Dataset(name, _some(tasks.values(), source), tuple(left_out))


def _some(tasks: Iterable[Task], source: str) -> tuple[Task, ...]:
    found = tuple(tasks)
    if not found:
        raise DataError(f"{source} holds no questions")
    return found


def _columns(
    record: Mapping[str, Any], given: tuple[str | None, str | None], source: str
) -> tuple[str, str]:
    """The columns of question and answer: those given, else those of a known format."""
    question, answer = given
    if question and answer:
        for name in (question, answer):
            cell(record, name, source)
        return question, answer
    for form in (FORMATS["olympiadbench"], FORMATS["math500"], FORMATS["gsm8k"]):
        wanted = question or form.column, answer or form.answer_column
        if all(name in record for name in wanted):
            return wanted
    for name in filter(None, given):
        cell(record, name, source)
    raise DataError(
        f"{source} is of no format that is known ({', '.join(FORMATS)}); its columns are "
        f"{', '.join(map(repr, record))}: name those of question and answer with --column and "
        "--answer-column"
    )


def _reference(record: Mapping[str, Any], column: str, source: str) -> str:
    cell(record, column, source)
    value = record[column]
    if value is None:
        return ""
    if isinstance(value, list | tuple):  # OlympiadBench: one answer, or several
        return ", ".join(str(one) for one in value)
    return str(value).strip()
