"""Measure the overhead of the graph and its checkpoints: time, bytes, rewinding, many threads.

The sides alternate on the same questions, each after a request that clears the one-slot KV caches.
Results are written to benchmarks/results/checkpoints.json and checkpoints.md. Takes two minutes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import langgraph.version
import torch
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from rich.console import Console
from rich.table import Table
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from common import RESULTS, elapsed
from langgraph_arbitrage import (
    ArbitrageSettings,
    DraftConfidence,
    Models,
    Random,
    create_arbitrage_graph,
    embedded,
)
from langgraph_arbitrage.engine import GenerateRequest
from langgraph_arbitrage.persistence.time_travel import fork, list_steps, rewind

GREETING = [{"role": "user", "content": "Hello!"}]


def main() -> None:
    """Run all measurements, print a table and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--questions", type=int, default=25, help="questions of the overhead per step"
    )
    parser.add_argument(
        "--threads", type=int, default=100, help="concurrent threads on one checkpointer"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)  # like the engine's workers for models of this size
    with tempfile.TemporaryDirectory() as folder:
        rows = measure_overhead(options.questions, Path(folder))
        rows += measure_growth(Path(folder))
        rows += asyncio.run(measure_threads(options.threads, Path(folder)))
    save(rows)


def row(measurement: str, value: float, unit: str, goal: str = "") -> dict[str, Any]:
    """Return a row of the table."""
    return {"measurement": measurement, "value": value, "unit": unit, "goal": goal}


# --- milliseconds per step ---------------------------------------------------------------


def measure_overhead(questions: int, folder: Path) -> list[dict[str, Any]]:
    """Compare the loop through the graph with the same requests sent directly to the engines."""
    policy = DraftConfidence()
    models = Models(ArbitrageSettings(router=policy, max_slots=1))
    plain = create_arbitrage_graph(models).compile()
    thread_ids = (f"{n}" for n in range(10**6))

    def clear_caches() -> None:
        for role in ("draft", "target"):
            ids = models.tokenizer(role).render(GREETING)
            models.engine(role).submit(GenerateRequest(ids, max_tokens=1)).result()

    def direct(question: str) -> int:
        """Run the loop without the graph and return the number of steps."""
        conversation = [{"role": "user", "content": question}]
        ids, steps, finish = models.tokenizer("draft").render(conversation), 0, "separator"
        while finish == "separator":
            request = GenerateRequest(ids, max_tokens=512, separators=("\n\n",))
            output = models.engine("draft").submit(request).result()
            confidence = statistics.fmean(map(math.exp, output.logprobs))
            if policy.escalates(confidence):
                verification = replace(request, draft_tokens=output.ids)
                output = models.engine("target").submit(verification).result()
            ids, finish, steps = ids + output.ids, output.finish, steps + 1
        return steps

    def by_graph(graph: Any) -> Callable[[str], int]:
        def answer(question: str) -> int:
            config = {"configurable": {"thread_id": next(thread_ids)}}
            return len(graph.invoke({"messages": [("user", question)]}, config)["steps"])

        return answer

    with SqliteSaver.from_conn_string(str(folder / "overhead.sqlite")) as saver:
        stored = create_arbitrage_graph(models).compile(checkpointer=saver)
        sides = {"direct": direct, "graph": by_graph(plain), "sqlite": by_graph(stored)}
        wall: dict[str, list[float]] = {name: [] for name in sides}
        cpu: dict[str, list[float]] = {name: [] for name in sides}
        steps: list[int] = []
        for problem in list(embedded.problems(questions + 2, seed=60)):
            counts = []
            for name, side in sides.items():
                clear_caches()
                start, cpu_start = time.perf_counter(), time.process_time()
                counts.append(side(problem.question))
                wall[name].append(time.perf_counter() - start)
                cpu[name].append(time.process_time() - cpu_start)
            assert len(set(counts)) == 1, "the sides wrote different numbers of steps"
            steps.append(counts[0])
    steps = steps[2:]  # the first two questions are a warm-up
    added, added_cpu = (
        {
            name: statistics.median(
                (a - b) / n for a, b, n in zip(times[2:], by_side["direct"][2:], steps, strict=True)
            )
            for name, times in by_side.items()
        }
        for by_side in (wall, cpu)
    )
    graph_seconds, direct_seconds = (
        statistics.median(wall[name][2:]) for name in ("graph", "direct")
    )
    fraction = added["graph"] * statistics.median(steps) / graph_seconds
    models.close()
    return [
        row("question through the graph", 1e3 * graph_seconds, "ms"),
        row("question directly to the engines", 1e3 * direct_seconds, "ms"),
        row("added per step by the graph", 1e3 * added["graph"], "ms", "≤ 2"),
        row("added per step by the graph, CPU time", 1e3 * added_cpu["graph"], "ms"),
        row("fraction of a question's time added by the graph", 100 * fraction, "%", "≤ 10"),
        row("added per step with SQLite, async durability", 1e3 * added["sqlite"], "ms"),
        row("added per step with SQLite, CPU time", 1e3 * added_cpu["sqlite"], "ms"),
    ]


# --- bytes and rewinding -----------------------------------------------------------------


def create_tiny_model(folder: Path, seed: int, layers: int) -> str:
    """Create a random model with the embedded vocabulary and a long context; it never stops."""
    tokenizer = AutoTokenizer.from_pretrained(embedded.DRAFT)
    torch.manual_seed(seed)
    config = AutoConfig.for_model(
        "llama",
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=layers,
        num_attention_heads=4,
        max_position_embeddings=8192,
        eos_token_id=tokenizer.eos_token_id,
    )
    model = AutoModelForCausalLM.from_config(config)
    for parameter in model.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.25)
    model.get_output_embeddings().weight.data[tokenizer.eos_token_id] = 0
    path = folder / f"tiny-{seed}"
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return str(path)


def measure_growth(folder: Path) -> list[dict[str, Any]]:
    """Measure answers of 50, 200 and 800 steps, each stored in a new SQLite file."""
    pair = {
        "draft": create_tiny_model(folder, 0, 2),
        "target": create_tiny_model(folder, 1, 3),
    }
    settings = {"router": Random(0.5), "separator": "§", "max_step_tokens": 4, "max_tokens": 10**6}
    rows = []
    for steps in (50, 200, 800):
        models = Models(ArbitrageSettings(**pair, **settings, max_steps=steps))
        rows += measure_answer(models, steps, folder / f"{steps}.sqlite")
        models.close()
    return rows


def measure_answer(models: Models, steps: int, file: Path) -> list[dict[str, Any]]:
    """Measure the bytes of an answer, and the time to list and rewind its steps."""
    thread: Any = {"configurable": {"thread_id": "1"}}
    with SqliteSaver.from_conn_string(str(file)) as saver:
        graph = create_arbitrage_graph(models).compile(checkpointer=saver)
        graph.invoke({"messages": [("user", "How many?")]}, thread)
        saver.conn.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        size = file.stat().st_size
        listing = [elapsed(lambda: list_steps(graph, thread)) for _ in range(5)]
        branches = [fork(graph, thread, steps - 1, thread=f"branch {n}") for n in range(6)]
        middle = [elapsed(lambda b=b: rewind(graph, b, steps // 2)) for b in branches[:3]]
        start = [elapsed(lambda b=b: rewind(graph, b, 0)) for b in branches[3:]]
        late = fork(graph, thread, steps - 3, thread="late")
        last = graph.invoke(None, late)["steps"][-3:]
    computed = sum(sum(step["computed_tokens"].values()) for step in last)
    listed, halfway, back = (1e3 * statistics.median(times) for times in (listing, middle, start))
    return [
        row(f"{steps} steps: bytes per step", size / steps, "B", "independent of length"),
        row(f"{steps} steps: list the steps", listed, "ms"),
        row(f"{steps} steps: rewind to the middle", halfway, "ms", "linear"),
        row(f"{steps} steps: rewind to the start", back, "ms", "linear"),
        row(f"{steps} steps: tokens computed for the last three after a fork", computed, ""),
    ]


# --- concurrent threads ------------------------------------------------------------------


async def measure_threads(threads: int, folder: Path) -> list[dict[str, Any]]:
    """Answer questions concurrently, one per thread, with and without a checkpointer."""
    models = Models(ArbitrageSettings())
    questions = [p.question for p in embedded.problems(threads, seed=61)]
    plain = create_arbitrage_graph(models).compile()

    async def answer_all(graph: Any) -> tuple[float, list[str]]:
        start = time.perf_counter()
        states = await asyncio.gather(
            *(
                graph.ainvoke({"messages": [("user", q)]}, {"configurable": {"thread_id": str(n)}})
                for n, q in enumerate(questions)
            )
        )
        return time.perf_counter() - start, [s["messages"][-1].text for s in states]

    await plain.ainvoke({"messages": [("user", questions[0])]})  # loads the models
    async with AsyncSqliteSaver.from_conn_string(str(folder / "many.sqlite")) as saver:
        graph = create_arbitrage_graph(models).compile(checkpointer=saver)
        stored, texts = await answer_all(graph)
        right = 0
        for n, (question, text) in enumerate(zip(questions, texts, strict=True)):
            values = (await graph.aget_state({"configurable": {"thread_id": str(n)}})).values
            messages = [m.text for m in values["messages"]]
            right += messages == [question, text] and values["finish_reason"] == "stop"
    without, plain_texts = await answer_all(plain)
    same = sum(a == b for a, b in zip(texts, plain_texts, strict=True))
    models.close()
    return [
        row(f"{threads} concurrent threads on one SQLite file", stored, "s"),
        row(f"{threads} concurrent questions without a checkpointer", without, "s"),
        row("threads that stored their own question and answer", right, "", f"{threads}"),
        row("answers equal to those without a checkpointer", same, "", f"{threads} except ties"),
    ]


def save(rows: list[dict[str, Any]]) -> None:
    """Print the table, and write JSON and Markdown."""
    table = Table("measurement", "value", "goal", title="checkpoints")
    lines = ["| measurement | value | goal |", "|---|---|---|"]
    for entry in rows:
        value = f"{entry['value']:.4g} {entry['unit']}".strip()
        table.add_row(entry["measurement"], value, entry["goal"])
        lines.append(f"| {entry['measurement']} | {value} | {entry['goal']} |")
    Console().print(table)
    machine = {
        "processor": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "langgraph": langgraph.version.__version__,
    }
    RESULTS.mkdir(exist_ok=True)
    text = json.dumps({**machine, "rows": rows}, indent=2, ensure_ascii=False)
    (RESULTS / "checkpoints.json").write_text(text + "\n")
    header = f"Medians; {', '.join(f'{k} {v}' for k, v in machine.items())}.\n\n"
    (RESULTS / "checkpoints.md").write_text(header + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
