"""A router of one's own in three commands, here for the embedded pair, on a small scale.

    python examples/train_router.py            # a few minutes on two cores
    python examples/train_router.py 40 30 mine # questions to train on, to calibrate on; folder

Each command goes on where it was stopped when it is given again.
"""

import sys
from pathlib import Path
from tempfile import mkdtemp

from langgraph_arbitrage import ChatArbitrage, embedded
from langgraph_arbitrage.cli import main
from langgraph_arbitrage.policies import LearnedRouter

trained_on, calibrated_on = (int(n) for n in (sys.argv[1:3] or (500, 150)))
folder = Path(sys.argv[3] if len(sys.argv) > 3 else mkdtemp(prefix="router-"))
rows, router = str(folder / "rows.jsonl"), str(folder / "router")


def arbitrage(*argv: str) -> None:
    print("\n$ arbitrage", *argv, flush=True)
    if status := main(argv):
        sys.exit(status)


# Both models write a step from each prefix, and a PRM scores both. The embedded problems have an
# exact checker in its place; with models of your own: --draft, --target, and a PRM's checkpoint.
arbitrage("collect", f"embedded:{trained_on}:900", "-o", rows, "--prm", "checker")

# A small network on what surprises a small LM in the draft's step. With a GPU and many rows, the
# paper's token classifier: --head token --base a-small-PRM.
arbitrage("train-router", rows, "--head", "surprise", "--base", "embedded:reader", "-o", router)

# Questions of another seed: thresholds that are found on the training's own would be too bold.
arbitrage("calibrate", router, f"embedded:{calibrated_on}:901", "--find", "rate:0.2")

# In use: the threshold is found in the table that was stored beside the router.
llm = ChatArbitrage(router=LearnedRouter(router, "rate:0.2"))
for problem in embedded.problems(3, seed=902):
    answer = llm.invoke(problem.question)
    figures = answer.response_metadata["arbitrage"]
    right = embedded.check_answer(problem, answer.text)
    print(f"\n{problem.question}\n{answer.text}")
    print(f"{'right' if right else 'wrong'}, {figures['escalation_rate']:.0%} escalated")
