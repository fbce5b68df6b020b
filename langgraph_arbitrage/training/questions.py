"""Questions: from a JSONL file, a data set of the hub, or the embedded problems."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass

from langgraph_arbitrage.data.answer_extraction import final_answer, right_answer
from langgraph_arbitrage.data.records import cell, read_records
from langgraph_arbitrage.embedded import Problem, check_answer, problems
from langgraph_arbitrage.errors import DataError

__all__ = ["Question", "load_questions", "question_id"]

_EMBEDDED = re.compile(r"embedded:(\d+)(?::(\d+))?")


@dataclass(frozen=True)
class Question:
    """A question, and what is known of its answer."""

    text: str
    answer: str | None = None
    """The right answer, where there is one to compare with."""
    problem: Problem | None = None
    """The embedded problem that it is, for the exact checker."""

    def solved_by(self, text: str) -> bool:
        r"""Whether an answer's last `\boxed{}`, else its last number, is the right one.

        Raises:
            DataError: The right answer is not known.
        """
        if self.problem is not None:
            return check_answer(self.problem, text)
        if self.answer is None:
            raise DataError(
                "these questions have no answers to compare with: name their column with "
                "--answer-column"
            )
        return final_answer(text) == right_answer(self.answer)


def question_id(text: str) -> str:
    """A short hash of a question, by which it is known again."""
    return hashlib.blake2b(text.strip().encode(), digest_size=8).hexdigest()


def load_questions(
    source: str,
    column: str = "question",
    *,
    answer_column: str | None = None,
    split: str = "train",
    limit: int | None = None,
) -> list[Question]:
    """The questions of a source, each once.

    Args:
        source: `embedded:N` or `embedded:N:SEED`, a JSONL file, or a data set of the hub
            (`owner/name` or `owner/name:config`; needs the extra `train`).
        column: Where the question stands.
        answer_column: Where the right answer stands; None where nobody asks for it.
        split: Split of a data set of the hub.
        limit: At most so many.

    Example:
        >>> [q.problem is not None for q in load_questions("embedded:2:7")]
        [True, True]

    Raises:
        DataError: The source is not there or has no such column.
    """
    if found := _EMBEDDED.fullmatch(source):
        count, seed = int(found[1]), int(found[2] or 0)
        records: Iterable[Question] = (
            Question(p.question, str(p.answer), p) for p in problems(count, seed)
        )
    else:
        records = (
            Question(
                cell(record, column, source),
                None if answer_column is None else cell(record, answer_column, source),
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
