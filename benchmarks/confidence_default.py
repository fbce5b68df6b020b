"""Measure accuracy and escalation rate of `DraftConfidence` at several thresholds.

The default threshold is chosen by this table. Problems are held out from training, with a seed that
no other measurement uses.

    python benchmarks/confidence_default.py --questions 300
"""

from __future__ import annotations

import argparse
import asyncio

from langgraph_arbitrage import AlwaysDraft, AlwaysTarget, ChatArbitrage, DraftConfidence, embedded

THRESHOLDS = (0.9, 0.94, 0.96, 0.97, 0.98, 0.985, 0.99, 0.995)


def main() -> None:
    """Print one row per policy."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--questions", type=int, default=300, help="number of problems")
    problems = list(embedded.problems(parser.parse_args().questions, seed=70))
    questions = [p.question for p in problems]
    policies = [AlwaysDraft(), AlwaysTarget(), *(DraftConfidence(t) for t in THRESHOLDS)]
    print("accuracy  learned  escalated  policy")
    for policy in policies:
        llm = ChatArbitrage(router=policy, max_tokens=600)
        answers = asyncio.run(llm.abatch(questions, config={"max_concurrency": 32}))
        right = [embedded.check_answer(p, m.text) for p, m in zip(problems, answers, strict=True)]
        learned = [ok for ok, p in zip(right, problems, strict=True) if not p.hard]
        steps = [s for m in answers for s in m.response_metadata["arbitrage"]["steps"]]
        escalated = sum(s["writer"] == "target" for s in steps) / len(steps)
        values = (sum(right) / len(right), sum(learned) / len(learned), escalated)
        print("  ".join(f"{value:8.3f}" for value in values), f"  {policy}", flush=True)


if __name__ == "__main__":
    main()
