"""Answers constrained by a schema end within the token limit and are valid."""

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
from langgraph_arbitrage.tools.schemas import validation_error
from structured.schemas import schema
from tiny import make, prompt

LIMIT = 160  # tokens per answer; the shortest valid one may need over 100


def answers(engine: Engine, schemas: list[dict], limit: int) -> list[GenerateOutput]:
    ids = prompt("Fill in the form.")
    handles = [
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
    return [handle.result() for handle in handles]


def complete_and_valid(count: int) -> tuple[int, int]:
    """Return the number of answers that ended within the limit, and of those that are valid."""
    schemas = [schema(random.Random(seed)) for seed in range(count)]
    engine = Engine(ModelSpec(make("llama")))
    complete = valid = 0
    try:
        for output, s in zip(answers(engine, schemas, LIMIT), schemas, strict=True):
            if output.finish != "end":
                continue
            complete += 1
            value = json.loads(engine.tokenizer.decode(output.ids))
            jsonschema.validate(value, s)
            assert validation_error(value, s) is None
            valid += 1
    finally:
        engine.close()
    return complete, valid


def test_answers_of_a_random_model_end_in_time_and_match_their_schemas() -> None:
    complete, valid = complete_and_valid(60)
    assert complete >= 57
    assert valid == complete


@pytest.mark.slow
def test_a_thousand_answers_of_a_random_model_match_their_schemas() -> None:
    complete, valid = complete_and_valid(1000)
    assert complete >= 950
    assert valid == complete
