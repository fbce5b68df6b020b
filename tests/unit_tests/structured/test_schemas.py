"""Answers under the grammar of a schema: they end in time, and what ends fits."""

from __future__ import annotations

import gc
import json
import random
import time

import jsonschema
import pytest
import torch

from langgraph_arbitrage import embedded
from langgraph_arbitrage.engine import (
    Engine,
    Grammar,
    ModelSpec,
    Sampling,
    Write,
    Written,
    load_tokenizer,
)
from langgraph_arbitrage.engine.constraint import Constraint
from langgraph_arbitrage.tools.grammar import answer_grammar
from langgraph_arbitrage.tools.schemas import misfit
from structured.schemas import schema
from tiny import make, prompt

LIMIT = 160  # tokens of an answer; a schema alone may need over a hundred of this tokenizer


def answers(engine: Engine, schemas: list[dict], limit: int) -> list[Written]:
    ids = prompt("Fill in the form.")
    tickets = [
        engine.submit(
            Write(
                ids,
                limit,
                grammar=Grammar(answer_grammar(schema=s), len(ids), limit),
                sampling=Sampling(temperature=1.0, seed=i),
            )
        )
        for i, s in enumerate(schemas)
    ]
    return [ticket.result() for ticket in tickets]


def complete_and_valid(count: int) -> tuple[int, int]:
    schemas = [schema(random.Random(seed)) for seed in range(count)]
    engine = Engine(ModelSpec(make("llama")))
    complete = valid = 0
    try:
        for found, s in zip(answers(engine, schemas, LIMIT), schemas, strict=True):
            if found.finish != "end":
                continue
            complete += 1
            value = json.loads(engine.tokenizer.decode(found.ids))
            jsonschema.validate(value, s)
            assert misfit(value, s) is None
            valid += 1
    finally:
        engine.close()
    return complete, valid


def test_a_random_model_fills_in_random_schemas_in_time() -> None:
    complete, valid = complete_and_valid(60)
    assert complete >= 57
    assert valid == complete


@pytest.mark.slow
def test_a_random_model_fills_in_a_thousand_random_schemas_in_time() -> None:
    complete, valid = complete_and_valid(1000)
    assert complete >= 950
    assert valid == complete


def test_a_mask_costs_less_than_a_third_of_a_millisecond_a_token() -> None:
    """Processor time of the constraint alone, whatever else runs on the machine."""
    hf = load_tokenizer(ModelSpec(embedded.TARGET))
    ends = frozenset([hf.hf.eos_token_id])
    torch.set_num_threads(1)  # as a worker does for a small model
    rng, tokens, spent = random.Random(1), 0, 0.0
    gc.disable()  # a collection of all that other tests have left is no cost of the mask
    for seed in range(40):
        lark = answer_grammar(schema=schema(random.Random(seed)))
        constraint = Constraint(hf, ends, Grammar(lark, 0, LIMIT), [], LIMIT)
        for _ in range(LIMIT):
            logits = torch.tensor([rng.random() for _ in range(1024)])
            start = time.thread_time()
            constraint.restrict(logits)
            token, _ = constraint.take(int(logits.argmax()))
            spent, tokens = spent + time.thread_time() - start, tokens + 1
            if constraint.complete or token in ends:
                break
    gc.enable()
    assert spent / tokens < 0.3e-3
