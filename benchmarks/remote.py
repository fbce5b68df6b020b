"""The target behind a real HTTP server, beside the same target here: answers, seconds, requests.

python benchmarks/remote.py --questions 40
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import serving
from langgraph_arbitrage import ChatArbitrage, embedded
from measure import store

RESULT = Path(__file__).parent / "results" / "remote.json"


def asked(llm: ChatArbitrage, questions: list[str]) -> tuple[list[Any], list[float]]:
    """The answers, and the seconds of each."""
    messages, seconds = [], []
    for question in questions:
        start = time.perf_counter()
        messages.append(llm.invoke(question))
        seconds.append(time.perf_counter() - start)
    return messages, seconds


def main() -> None:
    """Measure, print, store."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--questions", type=int, default=40)
    parser.add_argument("-o", "--output", type=Path, default=RESULT)
    args = parser.parse_args()
    questions = [p.question for p in embedded.problems(args.questions, seed=51)]
    with serving.server() as url:
        sides = {"local": embedded.TARGET}
        sides |= {kind: f"openai:{url}?prompt={kind}#embedded:target" for kind in ("ids", "text")}
        llms = {
            name: ChatArbitrage(router="embedded:router", target=target, max_tokens=300)
            for name, target in sides.items()
        }
        for llm in llms.values():
            llm.invoke(questions[0])
        found = {name: asked(llm, questions) for name, llm in llms.items()}
    figures = [m.response_metadata["arbitrage"] for m in found["ids"][0]]
    result: dict[str, Any] = {
        "questions": args.questions,
        "same_answers": {
            name: [m.text for m in messages] == [m.text for m in found["local"][0]]
            for name, (messages, _) in found.items()
        },
        "mean_seconds": {n: round(statistics.fmean(s), 3) for n, (_, s) in found.items()},
        "steps": sum(len(f["steps"]) for f in figures),
        "requests": sum(s["writer"] == "target" for f in figures for s in f["steps"]),
        "target_tokens_written": sum(f["target_tokens"] for f in figures),
    }
    store(result, args.output)


if __name__ == "__main__":
    main()
