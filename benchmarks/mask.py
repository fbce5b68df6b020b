"""Measure the CPU time in milliseconds that a grammar adds to each token.

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
    """Generate random answers under the grammar of one schema; print median and maximum."""
    torch.set_num_threads(1)
    tokenizer = load_tokenizer(ModelSpec(embedded.TARGET))
    end_ids, rng = frozenset([tokenizer.hf.eos_token_id]), random.Random(0)
    lark, milliseconds = answer_grammar(schema=SCHEMA), []
    for _ in range(ANSWERS):
        constraint = GrammarState(tokenizer, end_ids, Grammar(lark, 0, TOKENS), [], TOKENS)
        tokens, seconds = 0, 0.0
        while tokens < TOKENS and not constraint.complete:
            logits = torch.tensor([rng.random() for _ in range(len(tokenizer.hf))])
            start = time.thread_time()
            constraint.restrict(logits)
            constraint.advance(int(logits.argmax()))
            seconds, tokens = seconds + time.thread_time() - start, tokens + 1
        milliseconds.append(1e3 * seconds / tokens)
    print(
        f"{statistics.median(milliseconds):.3f} ms per token (median of {ANSWERS} answers; "
        f"maximum {max(milliseconds):.3f}; goal: below 0.3)"
    )


if __name__ == "__main__":
    main()
