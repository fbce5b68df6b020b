"""Decoding one sequence, and what the graph costs: the engine against `generate` and alone."""

from __future__ import annotations

import time
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from langgraph_arbitrage import AlwaysDraft, ChatArbitrage, embedded
from langgraph_arbitrage.engine import Engine, GenerateRequest, ModelSpec
from measure import CHECKPOINTS, compare, seconds, table

__all__ = ["lines", "measured"]

NEW = 64  # tokens a decode measurement writes


def measured(rounds: int) -> list[dict[str, Any]]:
    """All rows; each comparison interleaves its sides, so that a noisy machine hits both alike."""
    torch.set_num_threads(1)  # as the engine's workers do for models of this size
    rows = [decode(role, path, rounds) for role, path in CHECKPOINTS.items()]
    return [*rows, depth(rounds), overhead(rounds)]


def lines(rows: list[dict[str, Any]]) -> list[str]:
    """The rows as Markdown."""
    columns = ("what", "baseline", "ours", "ratio", "promise")
    return table(list(columns), [[row[c] for c in columns] for row in rows])


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
        return seconds(lambda: engine.submit(GenerateRequest(ids, max_tokens=NEW)).result())

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
        written = engines[role].submit(GenerateRequest(ids, max_tokens=NEW)).result()
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
            written = engine.submit(
                GenerateRequest(ids, max_tokens=512, separators=("\n\n",))
            ).result()
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
