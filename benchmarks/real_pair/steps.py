"""Compare steps that end at every blank line with the steps of this package.

The draft answers each question alone. The same answers are split at every blank line, and by the
rules of the package: no step ends inside fenced code or a LaTeX display, and a step has at least
`min_step_tokens` tokens. An accepted step is streamed when it is complete, so the mean length of a
step times the time per token is the streaming delay.

    python benchmarks/real_pair/steps.py --draft D [--gsm8k FILE] [--math FILE] [--count 20]

The table is written to benchmarks/results/step_rules.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from pathlib import Path

from langgraph_arbitrage import AlwaysDraft, ChatArbitrage
from langgraph_arbitrage.evaluation.dataset import INSTRUCTION
from langgraph_arbitrage.models.tokenizer import Tokenizer

RESULT = Path(__file__).parents[1] / "results" / "step_rules.md"
SHORT = 8
"""Steps with fewer tokens than this are counted as short."""
GENERAL = [
    "Write a Python function that merges two sorted lists, with a test.",
    "Explain how a hash table works, with an example in code.",
    "Compare TCP and UDP in a table and recommend one for a chat program.",
    "Write a bash script that renames all .jpeg files in a folder to .jpg. Explain each line.",
    "Derive the quadratic formula step by step.",
    "Give me a recipe for pancakes with a list of ingredients.",
    "What are the causes of the French Revolution? Use headings.",
    "Write an SQL query that finds the second highest salary, and explain it.",
    "Plan a three-day trip to Rome with a list for each day.",
    "Fix this code: `for i in range(10) print(i)`. Then show a version with a while loop.",
    "Explain the chain rule with two worked examples.",
    "Write a short formal email that asks for a refund.",
    "Implement a binary search tree with insert and search in Java.",
    "Summarize the rules of chess for a beginner.",
    "Show how to read a CSV file with pandas and plot one column.",
    "Prove that the square root of 2 is irrational.",
    "List the steps to deploy a static website, with commands.",
    "Write a class in C++ for complex numbers with addition and multiplication.",
    "What is the difference between a process and a thread?",
    "Solve the system 2x + y = 7, x - y = 2 and check the solution.",
]


def main() -> None:
    """Answer the questions, split the answers, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draft", required=True)
    parser.add_argument("--gsm8k", type=Path, help="GSM8K as JSON Lines")
    parser.add_argument("--math", type=Path, help="MATH-500 as JSON Lines")
    parser.add_argument("--count", type=int, default=20, help="number of questions per kind")
    parser.add_argument("--dtype", default="bfloat16")
    options = parser.parse_args()
    kinds = {"general": GENERAL[: options.count]}
    for name, path, key in (
        ("GSM8K", options.gsm8k, "question"),
        ("MATH", options.math, "problem"),
    ):
        if path is not None:
            lines = path.read_text().splitlines()[: options.count]
            kinds[name] = [f"{json.loads(line)[key]}\n{INSTRUCTION}" for line in lines]
    llm = ChatArbitrage(
        draft=options.draft,
        target=options.draft,
        dtype=options.dtype,
        router=AlwaysDraft(),
        temperature=0,
    )
    tokenizer = llm._models.tokenizer("draft")
    rows = [
        "| questions | rule | steps per answer | tokens per step | short | inside a code block |",
        "|---|---|---|---|---|---|",
    ]
    for name, questions in kinds.items():
        messages = llm.batch(questions, {"max_concurrency": 8})
        blank, own = [], []
        for message in messages:
            blank.append([p for p in message.text.split("\n\n") if p.strip()])
            steps = message.response_metadata["arbitrage"]["steps"]
            own.append([step["text"] for step in steps])
        rows += [row(name, "blank line", blank, tokenizer), row(name, "package", own, tokenizer)]
    text = "\n".join(rows)
    print(text)
    RESULT.write_text(f"{text}\n")


def row(name: str, rule: str, answers: Sequence[Sequence[str]], tokenizer: Tokenizer) -> str:
    """Format the statistics of the steps of some answers."""
    steps = [step for answer in answers for step in answer]
    lengths = [len(tokenizer.encode(step)) for step in steps]
    cells = [
        name,
        rule,
        f"{len(steps) / len(answers):.1f}",
        f"{statistics.mean(lengths):.0f}",
        f"{sum(length < SHORT for length in lengths) / len(steps):.1%}",
        f"{sum(step.count('```') % 2 for step in steps) / len(steps):.1%}",
    ]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
