"""Where the default threshold of `DraftConfidence` comes from: accuracy and escalations at each.

    python benchmarks/confidence_default.py --questions 300

Problems are held out from training, and of a seed that no other measurement uses.
"""

from __future__ import annotations

import argparse
import asyncio

from langgraph_arbitrage import AlwaysDraft, AlwaysTarget, ChatArbitrage, DraftConfidence, embedded

THRESHOLDS = (0.9, 0.94, 0.96, 0.97, 0.98, 0.985, 0.99, 0.995)


def main() -> None:
    """Print a row a policy."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--questions", type=int, default=300)
    problems = list(embedded.problems(parser.parse_args().questions, seed=70))
    policies = [AlwaysDraft(), AlwaysTarget(), *(DraftConfidence(t) for t in THRESHOLDS)]
    print("accuracy  learned  escalated  policy")
    for policy in policies:
        llm = ChatArbitrage(router=policy, max_tokens=600)
        asked = [p.question for p in problems]
        answers = asyncio.run(llm.abatch(asked, config={"max_concurrency": 32}))
        right = [embedded.check_answer(p, m.text) for p, m in zip(problems, answers, strict=True)]
        learned = [ok for ok, p in zip(right, problems, strict=True) if not p.hard]
        steps = [s for m in answers for s in m.response_metadata["arbitrage"]["steps"]]
        escalated = sum(s["writer"] == "target" for s in steps) / len(steps)
        shares = (sum(right) / len(right), sum(learned) / len(learned), escalated)
        print("  ".join(f"{share:8.3f}" for share in shares), f"  {policy}", flush=True)


if __name__ == "__main__":
    main()
