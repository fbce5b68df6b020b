"""Milliseconds that a grammar's mask costs a token, of one thread's processor time.

python benchmarks/mask.py
"""

from __future__ import annotations

import random
import statistics
import time

import torch

from langgraph_arbitrage import ModelSpec, embedded
from langgraph_arbitrage.decoding.grammar import GrammarState
from langgraph_arbitrage.engine import Grammar, load_tokenizer
from langgraph_arbitrage.tools.grammar import answer_grammar

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "count": {"type": "integer"},
        "tags": {"type": "array", "items": {"enum": ["red", "blue", "green"]}},
    },
    "required": ["name", "count", "tags"],
}
TOKENS, ANSWERS = 120, 60


def main() -> None:
    """Random choices under the grammar of one schema; the median and the worst answer."""
    torch.set_num_threads(1)
    tokenizer = load_tokenizer(ModelSpec(embedded.TARGET))
    ends, rng = frozenset([tokenizer.hf.eos_token_id]), random.Random(0)
    lark, costs = answer_grammar(schema=SCHEMA), []
    for _ in range(ANSWERS):
        constraint = GrammarState(tokenizer, ends, Grammar(lark, 0, TOKENS), [], TOKENS)
        tokens, spent = 0, 0.0
        while tokens < TOKENS and not constraint.complete:
            logits = torch.tensor([rng.random() for _ in range(len(tokenizer.hf))])
            start = time.thread_time()
            constraint.restrict(logits)
            constraint.advance(int(logits.argmax()))
            spent, tokens = spent + time.thread_time() - start, tokens + 1
        costs.append(1e3 * spent / tokens)
    print(
        f"{statistics.median(costs):.3f} ms a token (median of {ANSWERS} answers; "
        f"most {max(costs):.3f}; promise: under 0.3)"
    )


if __name__ == "__main__":
    main()
