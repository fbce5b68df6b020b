"""Pack the steps of answers for the report. Repeated texts are stored once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["packed"]


def packed(
    results: Mapping[str, Any], answers: Sequence[Mapping[str, Any]], count: int
) -> dict[str, Any]:
    """Pack the answers to the questions on which the points differ most.

    Args:
        results: Results of the sweep.
        answers: Answer records from the sweep's answers file.
        count: Maximum number of questions.

    Returns:
        Plain data for the report's script: points, and questions with one answer per point.
    """
    points = [p["key"] for p in results["points"]]
    questions = results["questions"]
    right = [p["each"]["right"] for p in results["points"]]
    differing = [min(sum(column), len(column) - sum(column)) for column in zip(*right, strict=True)]
    order = sorted(range(len(questions)), key=lambda i: (-differing[i], i))
    shown = sorted(order[:count])
    by_question: dict[str, dict[str, Any]] = {questions[i]["id"]: {} for i in shown}
    for answer in answers:
        if answer["question"] in by_question and answer["point"] in points:
            by_question[answer["question"]][answer["point"]] = answer
    return {
        "points": [{name: p[name] for name in ("key", "title", "kind")} for p in results["points"]],
        "questions": [
            _question(i, questions[i], [by_question[questions[i]["id"]].get(key) for key in points])
            for i in shown
        ],
    }


def _question(
    index: int, question: Mapping[str, Any], answers: Sequence[Mapping[str, Any] | None]
) -> dict[str, Any]:
    texts: dict[str, int] = {}

    def text_index(text: str | None) -> int | None:
        return None if text is None else texts.setdefault(text, len(texts))

    rows = [
        answer
        and [
            int(answer["right"]),
            answer.get("seconds"),
            answer.get("finish") or answer.get("error"),
            [
                [
                    int(s["writer"] != "draft"),
                    text_index(s["text"].strip()),
                    None if s["score"] is None else round(s["score"], 3),
                    s["s_d"],
                    s["s_t"],
                    text_index(s["draft"] and s["draft"].strip()),
                    s["tokens"],
                    round(1e3 * s["seconds"]),
                ]
                for s in answer.get("steps", ())
            ],
        ]
        for answer in answers
    ]
    return {
        "n": index + 1,
        "q": question["question"],
        "ref": question["reference"],
        "learned": question.get("learned", True),
        "answers": rows,
        "texts": list(texts),
    }
