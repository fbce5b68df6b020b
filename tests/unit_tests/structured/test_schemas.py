"""Answers under the grammar of a schema: they end in time, and what ends fits."""

from __future__ import annotations

import json
import random

import jsonschema
import pytest

from langgraph_arbitrage.engine import (
    Engine,
    GenerateOutput,
    GenerateRequest,
    Grammar,
    ModelSpec,
    SamplingParams,
)
from langgraph_arbitrage.tools.grammar import answer_grammar
from langgraph_arbitrage.tools.schemas import misfit
from structured.schemas import schema
from tiny import make, prompt

LIMIT = 160  # tokens of an answer; a schema alone may need over a hundred of this tokenizer


def answers(engine: Engine, schemas: list[dict], limit: int) -> list[GenerateOutput]:
    ids = prompt("Fill in the form.")
    tickets = [
        engine.submit(
            GenerateRequest(
                ids,
                limit,
                grammar=Grammar(answer_grammar(schema=s), len(ids), limit),
                sampling=SamplingParams(temperature=1.0, seed=i),
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
