"""Compare a target behind an HTTP server with a local one: answers, seconds and requests.

python benchmarks/remote.py --questions 40
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import serving
from common import RESULTS, save_json
from langgraph_arbitrage import ChatArbitrage, embedded


def answer_all(llm: ChatArbitrage, questions: list[str]) -> tuple[list[Any], list[float]]:
    """Return the answers and the seconds of each."""
    messages, seconds = [], []
    for question in questions:
        start = time.perf_counter()
        messages.append(llm.invoke(question))
        seconds.append(time.perf_counter() - start)
    return messages, seconds


def main() -> None:
    """Measure, print and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--questions", type=int, default=40)
    parser.add_argument("-o", "--output", type=Path, default=RESULTS / "remote.json")
    args = parser.parse_args()
    questions = [p.question for p in embedded.problems(args.questions, seed=51)]
    with serving.server() as url:
        targets = {"local": embedded.TARGET}
        targets |= {kind: f"openai:{url}?prompt={kind}#embedded:target" for kind in ("ids", "text")}
        llms = {
            name: ChatArbitrage(router="embedded:router", target=target, max_tokens=300)
            for name, target in targets.items()
        }
        for llm in llms.values():
            llm.invoke(questions[0])
        answers = {name: answer_all(llm, questions) for name, llm in llms.items()}
    statistics_ids = [m.response_metadata["arbitrage"] for m in answers["ids"][0]]
    local = [m.text for m in answers["local"][0]]
    results: dict[str, Any] = {
        "questions": args.questions,
        "same_answers": {
            name: [m.text for m in messages] == local for name, (messages, _) in answers.items()
        },
        "mean_seconds": {n: round(statistics.fmean(s), 3) for n, (_, s) in answers.items()},
        "steps": sum(len(s["steps"]) for s in statistics_ids),
        "requests": sum(step["writer"] == "target" for s in statistics_ids for step in s["steps"]),
        "target_tokens_written": sum(s["target_tokens"] for s in statistics_ids),
    }
    save_json(results, args.output)


if __name__ == "__main__":
    main()
