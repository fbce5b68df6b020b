"""`make bench`: what the engine and the loop cost, side by side in one run, on the embedded models.

Each comparison interleaves its sides, so that a noisy machine hits both alike, and prints
medians and a ratio. Results are written to benchmarks/results/bench.json and bench.md.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
import transformers
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM

from langgraph_arbitrage import AlwaysDraft, AlwaysTarget, ChatArbitrage, embedded
from langgraph_arbitrage.engine import Engine, ModelSpec, Write

RESULTS = Path(__file__).parent / "results"
NEW = 64  # tokens a decode measurement writes


def main() -> None:
    """Run all comparisons, print a table, write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15, help="pairs of each comparison")
    parser.add_argument("--questions", type=int, default=64, help="of the throughput rows")
    options = parser.parse_args()
    torch.set_num_threads(1)  # as the engine's workers do for models of this size
    rows: list[dict[str, Any]] = []
    rows += [decode(role, path, options.rounds) for role, path in CHECKPOINTS.items()]
    rows.append(depth(options.rounds))
    rows += [
        throughput("target", AlwaysTarget(), options.questions),
        throughput("draft", AlwaysDraft(), options.questions),
    ]
    rows.append(overhead(options.rounds))
    save(rows)


CHECKPOINTS = {"draft": embedded.DRAFT, "target": embedded.TARGET}


def compare(rounds: int, *sides: Callable[[], float]) -> list[float]:
    """Median of what each side returns, the sides taking turns; the first turn warms up."""
    turns = [[side() for side in sides] for _ in range(rounds + 1)][1:]
    return [statistics.median(column) for column in zip(*turns, strict=True)]


def seconds(work: Callable[[], Any]) -> float:
    """Wall-clock seconds of a piece of work."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def fresh_prompt(engine: Engine) -> list[int]:
    """A prompt that no cache has seen."""
    text = f"Note {time.perf_counter_ns()}. Ann has 34 apples and buys 58 more. How many has she?"
    return engine.tokenizer.render([{"role": "user", "content": text}])


def decode(role: str, path: str, rounds: int) -> dict[str, Any]:
    """Milliseconds a token at batch 1: transformers `generate` and our engine."""
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    model.generation_config.eos_token_id = None  # both write all tokens
    engine = Engine(ModelSpec(path))
    engine._worker.end_ids = frozenset()  # set before the model is loaded

    def generate() -> float:
        ids = torch.tensor([fresh_prompt(engine)])
        mask = torch.ones_like(ids)
        return seconds(
            lambda: model.generate(
                ids, attention_mask=mask, max_new_tokens=NEW, do_sample=False, pad_token_id=0
            )
        )

    def ours() -> float:
        ids = fresh_prompt(engine)
        return seconds(lambda: engine.submit(Write(ids, max_tokens=NEW)).result())

    theirs, mine = compare(rounds, generate, ours)
    engine.close()
    return {
        "what": f"{role}, ms a token at batch 1: generate / engine",
        "baseline": 1e3 * theirs / NEW,
        "ours": 1e3 * mine / NEW,
        "ratio": theirs / mine,
        "promise": "at least 1",
    }


def depth(rounds: int) -> dict[str, Any]:
    """Milliseconds a token at batch 1: target and draft."""
    engines = {role: Engine(ModelSpec(path)) for role, path in CHECKPOINTS.items()}

    def a_token(role: str) -> float:
        ids = fresh_prompt(engines[role])
        start = time.perf_counter()
        written = engines[role].submit(Write(ids, max_tokens=NEW)).result()
        return (time.perf_counter() - start) / len(written.ids)

    target, draft = compare(rounds, lambda: a_token("target"), lambda: a_token("draft"))
    for engine in engines.values():
        engine.close()
    return {
        "what": "ms a token at batch 1: target / draft",
        "baseline": 1e3 * target,
        "ours": 1e3 * draft,
        "ratio": target / draft,
        "promise": "at least 5",
    }


def throughput(role: str, policy: Any, questions: int) -> dict[str, Any]:
    """Questions a second: one invoke after another, and eight at a time."""
    llm = ChatArbitrage(router=policy)
    asked = [p.question for p in embedded.problems(questions, seed=50)]
    llm.invoke(asked[0])

    def alone() -> float:
        return seconds(lambda: [llm.invoke(q) for q in asked])

    def together() -> float:
        with ThreadPoolExecutor(8) as pool:
            return seconds(lambda: list(pool.map(llm.invoke, asked)))

    one, eight = compare(3, alone, together)
    llm.close()
    return {
        "what": f"always-{role}, questions a second: one by one / 8 at once",
        "baseline": questions / one,
        "ours": questions / eight,
        "ratio": one / eight,
        "promise": "at least 3",
    }


def overhead(rounds: int) -> dict[str, Any]:
    """Milliseconds a step: the draft through the whole graph, and the engine asked directly."""
    llm = ChatArbitrage(router=AlwaysDraft())
    engine = llm._models.engine("draft")
    problems = embedded.problems(rounds + 1, seed=51)
    turn = iter([p.question for p in problems for _ in range(2)])

    def graph() -> float:
        question = next(turn)
        start = time.perf_counter()
        message = llm.invoke(question)
        steps = message.response_metadata["arbitrage"]["steps"]
        return (time.perf_counter() - start) / len(steps)

    def direct() -> float:
        question, steps, finish = next(turn), 0, "separator"
        start = time.perf_counter()
        ids = engine.tokenizer.render([{"role": "user", "content": question}])
        while finish == "separator":
            written = engine.submit(Write(ids, max_tokens=512, separators=("\n\n",))).result()
            ids, finish, steps = ids + written.ids, written.finish, steps + 1
        return (time.perf_counter() - start) / steps

    whole, bare = compare(rounds, graph, direct)
    llm.close()
    return {
        "what": "draft alone, ms a step: whole graph / engine alone (difference is the graph)",
        "baseline": 1e3 * whole,
        "ours": 1e3 * bare,
        "ratio": whole / bare,
        "promise": "difference at most 2 ms",
    }


def save(rows: list[dict[str, Any]]) -> None:
    """Print the table; write JSON and Markdown."""
    table = Table("what", "baseline", "ours", "ratio", "promise", title="make bench")
    lines = ["| what | baseline | ours | ratio | promise |", "|---|---|---|---|---|"]
    for row in rows:
        cells = [row["what"], *(f"{row[k]:.2f}" for k in ("baseline", "ours", "ratio"))]
        cells.append(row["promise"])
        table.add_row(*cells)
        lines.append(f"| {' | '.join(cells)} |")
    Console().print(table)
    machine = {
        "processor": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "bench.json").write_text(json.dumps({**machine, "rows": rows}, indent=2) + "\n")
    header = f"Medians; {', '.join(f'{k} {v}' for k, v in machine.items())}.\n\n"
    (RESULTS / "bench.md").write_text(header + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
