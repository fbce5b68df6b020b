"""Questions from a JSONL file, a dataset on the hub, or the embedded problems."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass

from langgraph_arbitrage.data.answer_extraction import final_answer, reference_answer
from langgraph_arbitrage.data.records import column_text, read_records
from langgraph_arbitrage.embedded import Problem, check_answer, problems
from langgraph_arbitrage.errors import DataError

__all__ = ["Question", "load_questions", "question_id"]

_EMBEDDED = re.compile(r"embedded:(\d+)(?::(\d+))?")


@dataclass(frozen=True)
class Question:
    """A question with its right answer, if it is known."""

    text: str
    answer: str | None = None
    """The right answer; None if unknown."""
    problem: Problem | None = None
    """The embedded problem, for the exact checker; None for any other question."""

    def solved_by(self, text: str) -> bool:
        r"""Return whether the last `\boxed{}` of an answer, or else its last number, is right.

        Raises:
            DataError: The right answer is unknown.
        """
        if self.problem is not None:
            return check_answer(self.problem, text)
        if self.answer is None:
            raise DataError(
                "the right answers of these questions are unknown: name their column with "
                "--answer-column"
            )
        return final_answer(text) == reference_answer(self.answer)


def question_id(text: str) -> str:
    """Return a short hash that identifies a question."""
    return hashlib.blake2b(text.strip().encode(), digest_size=8).hexdigest()


def load_questions(
    source: str,
    column: str = "question",
    *,
    answer_column: str | None = None,
    split: str = "train",
    limit: int | None = None,
) -> list[Question]:
    """Load the questions of a source without duplicates.

    Args:
        source: `embedded:N` or `embedded:N:SEED`, a JSONL file, or a dataset on the hub
            (`owner/name` or `owner/name:config`; needs the extra `train`).
        column: Name of the question column.
        answer_column: Name of the column of right answers; None loads no answers.
        split: Split of a dataset on the hub.
        limit: Maximum number of questions.

    Example:
        >>> [q.problem is not None for q in load_questions("embedded:2:7")]
        [True, True]

    Raises:
        DataError: The source does not exist, lacks a column, or holds no questions.
    """
    if match := _EMBEDDED.fullmatch(source):
        count, seed = int(match[1]), int(match[2] or 0)
        records: Iterable[Question] = (
            Question(p.question, str(p.answer), p) for p in problems(count, seed)
        )
    else:
        records = (
            Question(
                column_text(record, column, source),
                None if answer_column is None else column_text(record, answer_column, source),
            )
            for record in read_records(source, split, "train")
        )
    unique: dict[str, Question] = {}
    for question in records:
        if limit is not None and len(unique) >= limit:
            break
        if question.text.strip():
            unique.setdefault(question_id(question.text), question)
    if not unique:
        raise DataError(f"{source} holds no questions")
    return list(unique.values())
