"""What the graph and its checkpoints cost: time a step, bytes, rewinding, many threads at once.

Sides take turns on the same questions, each after a greeting that empties the one-slot caches.
Results are written to benchmarks/results/checkpoints.json and checkpoints.md; two minutes in all.
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

from bench import RESULTS
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
from measure import seconds

GREETING = [{"role": "user", "content": "Hello!"}]


def main() -> None:
    """Measure, print a table, write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--questions", type=int, default=25, help="of the cost of a step")
    parser.add_argument("--threads", type=int, default=100, help="at once on one checkpointer")
    options = parser.parse_args()
    torch.set_num_threads(1)  # as the engine's workers do for models of this size
    with tempfile.TemporaryDirectory() as folder:
        rows = overhead(options.questions, Path(folder))
        rows += growth(Path(folder))
        rows += asyncio.run(many(options.threads, Path(folder)))
    save(rows)


def row(what: str, value: float, unit: str, promise: str = "") -> dict[str, Any]:
    """A line of the table."""
    return {"what": what, "value": value, "unit": unit, "promise": promise}


# --- milliseconds a step -----------------------------------------------------------------


def overhead(questions: int, folder: Path) -> list[dict[str, Any]]:
    """The loop on the embedded models: the engines asked directly, and through the graph."""
    policy = DraftConfidence()
    # Those that ask the engines directly have no guesses: the graph is to do the same work.
    models = Models(ArbitrageSettings(router=policy, max_slots=1, speculate="off"))
    plain = create_arbitrage_graph(models).compile()
    names = (f"{n}" for n in range(10**6))

    def greet() -> None:
        for role in ("draft", "target"):
            ids = models.tokenizer(role).render(GREETING)
            models.engine(role).submit(GenerateRequest(ids, max_tokens=1)).result()

    def direct(question: str) -> int:
        """The same requests without the graph: draft, judge, maybe target; steps written."""
        conversation = [{"role": "user", "content": question}]
        ids, steps, finish = models.tokenizer("draft").render(conversation), 0, "separator"
        while finish == "separator":
            request = GenerateRequest(ids, max_tokens=512, separators=("\n\n",))
            written = models.engine("draft").submit(request).result()
            confidence = statistics.fmean(map(math.exp, written.logprobs))
            if policy.escalates(confidence):
                verify = replace(request, proposal=written.ids)
                written = models.engine("target").submit(verify).result()
            ids, finish, steps = ids + written.ids, written.finish, steps + 1
        return steps

    def through(graph: Any) -> Callable[[str], int]:
        def answer(question: str) -> int:
            config = {"configurable": {"thread_id": next(names)}}
            return len(graph.invoke({"messages": [("user", question)]}, config)["steps"])

        return answer

    with SqliteSaver.from_conn_string(str(folder / "overhead.sqlite")) as saver:
        stored = create_arbitrage_graph(models).compile(checkpointer=saver)
        sides = {"direct": direct, "graph": through(plain), "sqlite": through(stored)}
        spent: dict[str, list[float]] = {name: [] for name in sides}
        worked: dict[str, list[float]] = {name: [] for name in sides}
        steps: list[int] = []
        for problem in list(embedded.problems(questions + 2, seed=60)):
            counts = []
            for name, side in sides.items():
                greet()
                start, cpu = time.perf_counter(), time.process_time()
                counts.append(side(problem.question))
                spent[name].append(time.perf_counter() - start)
                worked[name].append(time.process_time() - cpu)
            assert len(set(counts)) == 1, "all sides write the same steps"
            steps.append(counts[0])
    steps = steps[2:]  # the first ones warm up
    more, cpu_more = (
        {
            name: statistics.median(
                (a - b) / n for a, b, n in zip(times[2:], by["direct"][2:], steps, strict=True)
            )
            for name, times in by.items()
        }
        for by in (spent, worked)
    )
    whole, bare = (statistics.median(spent[name][2:]) for name in ("graph", "direct"))
    share = more["graph"] * statistics.median(steps) / whole
    models.close()
    return [
        row("a question through the graph", 1e3 * whole, "ms"),
        row("a question, engines asked directly", 1e3 * bare, "ms"),
        row("graph over engine, a step", 1e3 * more["graph"], "ms", "≤ 2"),
        row("graph over engine, a step, CPU time", 1e3 * cpu_more["graph"], "ms"),
        row("graph over engine, of a question's time", 100 * share, "%", "≤ 10"),
        row("with SQLite, async durability, over engine, a step", 1e3 * more["sqlite"], "ms"),
        row("the same, CPU time", 1e3 * cpu_more["sqlite"], "ms"),
    ]


# --- bytes and rewinding -----------------------------------------------------------------


def tiny(folder: Path, seed: int, layers: int) -> str:
    """A random model of the embedded vocabulary with room for long traces; it never ends."""
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


def growth(folder: Path) -> list[dict[str, Any]]:
    """Runs of 50, 200 and 800 steps, each stored in an SQLite file of its own."""
    pair = {"draft": tiny(folder, 0, 2), "target": tiny(folder, 1, 3)}
    settings = {"router": Random(0.5), "separator": "§", "max_step_tokens": 4, "max_tokens": 10**6}
    rows = []
    for steps in (50, 200, 800):
        models = Models(ArbitrageSettings(**pair, **settings, max_steps=steps))
        rows += trace(models, steps, folder / f"{steps}.sqlite")
        models.close()
    return rows


def trace(models: Models, steps: int, file: Path) -> list[dict[str, Any]]:
    """Bytes of a run of so many steps; the time to list them and to go back."""
    thread: Any = {"configurable": {"thread_id": "1"}}
    with SqliteSaver.from_conn_string(str(file)) as saver:
        graph = create_arbitrage_graph(models).compile(checkpointer=saver)
        graph.invoke({"messages": [("user", "How many?")]}, thread)
        saver.conn.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        size = file.stat().st_size
        listing = [seconds(lambda: list_steps(graph, thread)) for _ in range(5)]
        branches = [fork(graph, thread, steps - 1, thread=f"branch {n}") for n in range(6)]
        middle = [seconds(lambda b=b: rewind(graph, b, steps // 2)) for b in branches[:3]]
        start = [seconds(lambda b=b: rewind(graph, b, 0)) for b in branches[3:]]
        late = fork(graph, thread, steps - 3, thread="late")
        last = graph.invoke(None, late)["steps"][-3:]
    fed = sum(sum(step["computed_tokens"].values()) for step in last)
    listed, halfway, back = (1e3 * statistics.median(times) for times in (listing, middle, start))
    return [
        row(f"{steps} steps: bytes a step", size / steps, "B", "the same for all"),
        row(f"{steps} steps: listing them", listed, "ms"),
        row(f"{steps} steps: rewind to the middle", halfway, "ms", "linear"),
        row(f"{steps} steps: rewind to the start", back, "ms", "linear"),
        row(f"{steps} steps: tokens fed for the last three after a fork there", fed, ""),
    ]


# --- many threads ------------------------------------------------------------------------


async def many(threads: int, folder: Path) -> list[dict[str, Any]]:
    """Questions at once, each on a thread of its own, and the same without any checkpointer."""
    models = Models(ArbitrageSettings())
    asked = [p.question for p in embedded.problems(threads, seed=61)]
    plain = create_arbitrage_graph(models).compile()

    async def all_at_once(graph: Any) -> tuple[float, list[str]]:
        start = time.perf_counter()
        states = await asyncio.gather(
            *(
                graph.ainvoke({"messages": [("user", q)]}, {"configurable": {"thread_id": str(n)}})
                for n, q in enumerate(asked)
            )
        )
        return time.perf_counter() - start, [s["messages"][-1].text for s in states]

    await plain.ainvoke({"messages": [("user", asked[0])]})  # loads the models
    async with AsyncSqliteSaver.from_conn_string(str(folder / "many.sqlite")) as saver:
        graph = create_arbitrage_graph(models).compile(checkpointer=saver)
        stored, told = await all_at_once(graph)
        right = 0
        for n, (question, text) in enumerate(zip(asked, told, strict=True)):
            values = (await graph.aget_state({"configurable": {"thread_id": str(n)}})).values
            kept = [m.text for m in values["messages"]]
            right += kept == [question, text] and values["finish_reason"] == "stop"
    bare, others = await all_at_once(plain)
    same = sum(a == b for a, b in zip(told, others, strict=True))
    models.close()
    return [
        row(f"{threads} threads at once on one SQLite file", stored, "s"),
        row(f"{threads} at once without a checkpointer", bare, "s"),
        row("threads that finished with their own question and answer", right, "", f"{threads}"),
        row("answers equal to those without a checkpointer", same, "", f"{threads}, but for ties"),
    ]


def save(rows: list[dict[str, Any]]) -> None:
    """Print the table; write JSON and Markdown."""
    table = Table("what", "value", "promise", title="checkpoints")
    lines = ["| what | value | promise |", "|---|---|---|"]
    for each in rows:
        value = f"{each['value']:.4g} {each['unit']}".strip()
        table.add_row(each["what"], value, each["promise"])
        lines.append(f"| {each['what']} | {value} | {each['promise']} |")
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
