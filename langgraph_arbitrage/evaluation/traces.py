"""Answers step by step, packed for the report: texts that repeat are kept once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["packed"]


def packed(
    results: Mapping[str, Any], answers: Sequence[Mapping[str, Any]], count: int
) -> dict[str, Any]:
    """The answers of so many questions, those on which the points differ most first.

    Args:
        results: Of the sweep.
        answers: The lines of its file.
        count: How many questions.

    Returns:
        Plain data for the page's script: points, and questions with their answers by point.
    """
    points = [p["key"] for p in results["points"]]
    asked = results["questions"]
    right = [p["each"]["right"] for p in results["points"]]
    differing = [min(sum(column), len(column) - sum(column)) for column in zip(*right, strict=True)]
    order = sorted(range(len(asked)), key=lambda i: (-differing[i], i))
    shown = sorted(order[:count])
    wanted = {asked[i]["id"]: {} for i in shown}  # type: ignore[var-annotated]
    for answer in answers:
        if answer["question"] in wanted and answer["point"] in points:
            wanted[answer["question"]][answer["point"]] = answer
    return {
        "points": [{name: p[name] for name in ("key", "title", "kind")} for p in results["points"]],
        "questions": [
            _question(i, asked[i], [wanted[asked[i]["id"]].get(key) for key in points])
            for i in shown
        ],
    }


def _question(
    index: int, question: Mapping[str, Any], answers: Sequence[Mapping[str, Any] | None]
) -> dict[str, Any]:
    texts: dict[str, int] = {}

    def number(text: str | None) -> int | None:
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
                    number(s["text"].strip()),
                    None if s["score"] is None else round(s["score"], 3),
                    s["s_d"],
                    s["s_t"],
                    number(s["draft"] and s["draft"].strip()),
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
