"""Run one side of `engine.py`: read commands as JSON lines, print one measured value per line.

    python worker.py MODEL DTYPE engine|generate|batching

Commands:

- {"decode": B}: ms per token when decoding B sequences,
- {"read": N}: ms to the first token after an uncached prompt of N tokens,
- {"serve": B, "long": N}: tokens per second of B concurrent requests, one of them with a prompt of
  N tokens.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Sequence
from typing import Any

import torch

DECODE_TOKENS = 24
"""Number of tokens per sequence in "decode"."""
SERVE_TOKENS = 48
"""Number of tokens per request in "serve"."""
BLOCK_SIZE = 32
"""Tokens per block of continuous batching. The default, 256, wastes memory on short texts."""
TOPICS = "rivers bridges clocks markets forests engines harbours libraries planets gardens".split()


def prompts(tokenizer: Any, n: int, seed: int) -> list[list[int]]:
    """Generate n different prompts of about 64 tokens that ask for long answers."""
    rng = random.Random(seed)
    inputs = []
    for _ in range(n):
        words = " ".join(rng.choice(TOPICS) for _ in range(20))
        text = f"Write a very long story about {words}. Number {rng.random()}."
        messages = [{"role": "user", "content": text}]
        rendered = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=False
        )
        inputs.append(tokenizer.encode(rendered, add_special_tokens=False))
    return inputs


class EngineSide:
    """The engine of langgraph_arbitrage."""

    def __init__(self, model: str, dtype: str) -> None:
        from langgraph_arbitrage import engine

        # `Write` is the name in checkouts of earlier commits.
        self.generate = getattr(engine, "GenerateRequest", None) or engine.Write
        self.engine = engine.Engine(engine.ModelSpec(model, dtype=dtype))
        self.tokenizer = self.engine.tokenizer.hf
        self.engine.submit(self.generate(prompts(self.tokenizer, 1, 0)[0], 2)).result()

    def run(self, ids: Sequence[list[int]], new: int) -> tuple[list[float], int]:
        """Return the time of each token of the first request, and the total number of tokens."""
        times: list[float] = []
        handles = [
            self.engine.submit(
                self.generate(p, new),
                (lambda _: times.append(time.perf_counter())) if not i else None,
            )
            for i, p in enumerate(ids)
        ]
        return times, sum(len(h.result().ids) for h in handles)


class GenerateSide:
    """transformers' `generate` with left padding."""

    def __init__(self, model: str, dtype: str) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(model, padding_side="left")
        self.model = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, dtype)).eval()
        self.run(prompts(self.tokenizer, 1, 0), 2)

    @torch.inference_mode()
    def run(self, ids: Sequence[list[int]], new: int) -> tuple[list[float], int]:
        """Return the time of each decoding step, and the total number of tokens."""
        times: list[float] = []

        def record_time(*_: Any, **__: Any) -> torch.Tensor:
            times.append(time.perf_counter())
            return torch.zeros(len(ids), dtype=torch.bool)

        batch = self.tokenizer.pad({"input_ids": list(ids)}, return_tensors="pt")
        out = self.model.generate(
            **batch,
            max_new_tokens=new,
            min_new_tokens=new,
            do_sample=False,
            stopping_criteria=[record_time],
        )
        return times, len(ids) * (out.shape[1] - batch["input_ids"].shape[1])


class BatchingSide:
    """transformers' continuous batching."""

    def __init__(self, model: str, dtype: str) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(model)
        self.model = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, dtype)).eval()
        self.model.generation_config.eos_token_id = -1
        self.run(prompts(self.tokenizer, 1, 0), 2)

    def run(self, ids: Sequence[list[int]], new: int) -> tuple[list[float], int]:
        """Return no times, and the total number of tokens."""
        from transformers import ContinuousBatchingConfig

        # By default, the cache would take 90 % of the free memory on a CPU.
        blocks = sum(-(-(len(p) + new) // BLOCK_SIZE) for p in ids)
        out = self.model.generate_batch(
            list(ids),
            max_new_tokens=new,
            do_sample=False,
            continuous_batching_config=ContinuousBatchingConfig(
                page_size=BLOCK_SIZE,
                num_blocks=max(blocks, 32),
                max_batch_tokens=256 + len(ids),
                max_requests_per_batch=len(ids),
            ),
        )
        return [], sum(len(output.generated_tokens) for output in out.values())


SIDES = {"engine": EngineSide, "generate": GenerateSide, "batching": BatchingSide}


def main() -> None:
    """Run commands until the input ends."""
    model, dtype, side = sys.argv[1:]
    runner = SIDES[side](model, dtype)
    rng = random.Random(time.time_ns())
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        command, start = json.loads(line), time.perf_counter()
        seed = rng.randrange(1 << 30)
        if "decode" in command:
            times, _ = runner.run(prompts(runner.tokenizer, command["decode"], seed), DECODE_TOKENS)
            value = 1000 * (times[-1] - times[0]) / (len(times) - 1)
        elif "read" in command:
            ids = [rng.randrange(1000, 20000) for _ in range(command["read"])]
            start = time.perf_counter()
            times, _ = runner.run([ids], 1)
            value = 1000 * (times[0] - start)
        else:
            inputs = prompts(runner.tokenizer, command["serve"], seed)
            if command.get("long"):
                inputs[0] = [rng.randrange(1000, 20000) for _ in range(command["long"])]
            start = time.perf_counter()
            _, tokens = runner.run(inputs, SERVE_TOKENS)
            value = tokens / (time.perf_counter() - start)
        print(json.dumps(value), flush=True)


if __name__ == "__main__":
    main()
