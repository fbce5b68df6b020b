"""Decode one sequence: the engine compared with `generate`, and the overhead of the graph."""

from __future__ import annotations

import time
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from common import CHECKPOINTS, alternating_medians, elapsed, markdown_table
from langgraph_arbitrage import AlwaysDraft, ChatArbitrage, embedded
from langgraph_arbitrage.engine import Engine, GenerateRequest, ModelSpec

__all__ = ["markdown", "measure"]

NEW_TOKENS = 64
"""Number of tokens per decoding measurement."""


def measure(rounds: int) -> list[dict[str, Any]]:
    """Run all comparisons. The sides of a comparison alternate, so noise affects them alike."""
    torch.set_num_threads(1)  # like the engine's workers for models of this size
    rows = [compare_decoding(role, path, rounds) for role, path in CHECKPOINTS.items()]
    return [*rows, compare_models(rounds), compare_graph(rounds)]


def markdown(rows: list[dict[str, Any]]) -> list[str]:
    """Format the results as Markdown lines."""
    heads = ["measurement", "first", "second", "ratio", "goal"]
    columns = ("what", "baseline", "ours", "ratio", "promise")
    return markdown_table(heads, [[row[c] for c in columns] for row in rows])


def fresh_prompt(engine: Engine) -> list[int]:
    """Return a prompt that no KV cache contains."""
    text = f"Note {time.perf_counter_ns()}. Ann has 34 apples and buys 58 more. How many has she?"
    return engine.tokenizer.render([{"role": "user", "content": text}])


def compare_decoding(role: str, path: str, rounds: int) -> dict[str, Any]:
    """Compare the ms per token at batch size 1 of transformers' `generate` and the engine."""
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    model.generation_config.eos_token_id = None  # both sides decode all tokens
    engine = Engine(ModelSpec(path))
    engine._worker.end_ids = frozenset()  # takes effect when the model is loaded

    def by_generate() -> float:
        ids = torch.tensor([fresh_prompt(engine)])
        mask = torch.ones_like(ids)
        return elapsed(
            lambda: model.generate(
                ids, attention_mask=mask, max_new_tokens=NEW_TOKENS, do_sample=False, pad_token_id=0
            )
        )

    def by_engine() -> float:
        ids = fresh_prompt(engine)
        return elapsed(lambda: engine.submit(GenerateRequest(ids, max_tokens=NEW_TOKENS)).result())

    generate_seconds, engine_seconds = alternating_medians(rounds, by_generate, by_engine)
    engine.close()
    return {
        "what": f"{role}, ms per token at batch size 1: generate, engine",
        "baseline": 1e3 * generate_seconds / NEW_TOKENS,
        "ours": 1e3 * engine_seconds / NEW_TOKENS,
        "ratio": generate_seconds / engine_seconds,
        "promise": "at least 1",
    }


def compare_models(rounds: int) -> dict[str, Any]:
    """Compare the ms per token at batch size 1 of target and draft."""
    engines = {role: Engine(ModelSpec(path)) for role, path in CHECKPOINTS.items()}

    def seconds_per_token(role: str) -> float:
        ids = fresh_prompt(engines[role])
        start = time.perf_counter()
        output = engines[role].submit(GenerateRequest(ids, max_tokens=NEW_TOKENS)).result()
        return (time.perf_counter() - start) / len(output.ids)

    target, draft = alternating_medians(
        rounds, lambda: seconds_per_token("target"), lambda: seconds_per_token("draft")
    )
    for engine in engines.values():
        engine.close()
    return {
        "what": "ms per token at batch size 1: target, draft",
        "baseline": 1e3 * target,
        "ours": 1e3 * draft,
        "ratio": target / draft,
        "promise": "at least 5",
    }


def compare_graph(rounds: int) -> dict[str, Any]:
    """Compare the ms per step of the draft through the graph and directly by its engine."""
    llm = ChatArbitrage(router=AlwaysDraft())
    engine = llm._models.engine("draft")
    problems = embedded.problems(rounds + 1, seed=51)
    turns = iter([p.question for p in problems for _ in range(2)])

    def by_graph() -> float:
        question = next(turns)
        start = time.perf_counter()
        message = llm.invoke(question)
        steps = message.response_metadata["arbitrage"]["steps"]
        return (time.perf_counter() - start) / len(steps)

    def by_engine() -> float:
        question, steps, finish = next(turns), 0, "separator"
        start = time.perf_counter()
        ids = engine.tokenizer.render([{"role": "user", "content": question}])
        while finish == "separator":
            output = engine.submit(
                GenerateRequest(ids, max_tokens=512, separators=("\n\n",))
            ).result()
            ids, finish, steps = ids + output.ids, output.finish, steps + 1
        return (time.perf_counter() - start) / steps

    graph, direct = alternating_medians(rounds, by_graph, by_engine)
    llm.close()
    return {
        "what": "draft alone, ms per step: graph, engine (the difference is the graph)",
        "baseline": 1e3 * graph,
        "ours": 1e3 * direct,
        "ratio": graph / direct,
        "promise": "difference at most 2 ms",
    }
