"""Train and calibrate a router in three commands, here for the embedded pair.

    python examples/train_router.py            # a few minutes on two cores
    python examples/train_router.py 40 30 mine # training questions, calibration questions, folder

Repeating an interrupted command resumes it.
"""

import sys
from pathlib import Path
from tempfile import mkdtemp

from langgraph_arbitrage import ChatArbitrage, embedded
from langgraph_arbitrage.cli import main
from langgraph_arbitrage.policies import LearnedRouter

training_questions, calibration_questions = (int(n) for n in (sys.argv[1:3] or (500, 150)))
folder = Path(sys.argv[3] if len(sys.argv) > 3 else mkdtemp(prefix="router-"))
rows, router = str(folder / "rows.jsonl"), str(folder / "router")


def arbitrage(*argv: str) -> None:
    print("\n$ arbitrage", *argv, flush=True)
    if status := main(argv):
        sys.exit(status)


# At each prefix both models write a step, and a PRM scores both steps. The embedded problems have
# an exact checker instead of a PRM. For your own models: --draft, --target and --prm CHECKPOINT.
arbitrage("collect", f"embedded:{training_questions}:900", "-o", rows, "--prm", "checker")

# A small network on the surprise of a small LM at the draft's tokens. With a GPU and many rows,
# train the paper's token classifier instead: --head token --base SMALL_PRM.
arbitrage("train-router", rows, "--head", "surprise", "--base", "embedded:reader", "-o", router)

# Other questions (another seed): on the training questions, the thresholds would be optimistic.
arbitrage("calibrate", router, f"embedded:{calibration_questions}:901", "--find", "rate:0.2")

# `rate:0.2` selects the threshold from the calibration table, stored in the router's folder.
llm = ChatArbitrage(router=LearnedRouter(router, "rate:0.2"))
for problem in embedded.problems(3, seed=902):
    answer = llm.invoke(problem.question)
    statistics = answer.response_metadata["arbitrage"]
    right = embedded.check_answer(problem, answer.text)
    print(f"\n{problem.question}\n{answer.text}")
    print(f"{'right' if right else 'wrong'}, {statistics['escalation_rate']:.0%} escalated")
