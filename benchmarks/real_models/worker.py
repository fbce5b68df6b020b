"""One side of a comparison in a process of its own: reads commands as JSON lines, answers with ms.

    python worker.py MODEL DTYPE engine|generate|batching

Commands: {"decode": B}: ms a token of B sequences at a time; {"read": N}: ms until the first token
after a prompt of N tokens that is not cached; {"serve": B, "long": N}: tokens a second of B
requests at a time, one of them with a prompt of N tokens.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Sequence
from typing import Any

import torch

NEW = 24  # tokens that are decoded in a measurement
SERVED = 48  # tokens of each request in "serve"
PAGE = 32  # tokens of a block of continuous batching: less waste than its default of 256
TOPICS = "rivers bridges clocks markets forests engines harbours libraries planets gardens".split()


def prompts(tokenizer: Any, n: int, seed: int) -> list[list[int]]:
    """Prompts that ask for long answers, about 64 tokens each, none like another."""
    rng = random.Random(seed)
    found = []
    for _ in range(n):
        words = " ".join(rng.choice(TOPICS) for _ in range(20))
        text = f"Write a very long story about {words}. Number {rng.random()}."
        messages = [{"role": "user", "content": text}]
        rendered = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=False
        )
        found.append(tokenizer.encode(rendered, add_special_tokens=False))
    return found


class EngineSide:
    """This project's engine."""

    def __init__(self, model: str, dtype: str) -> None:
        from langgraph_arbitrage import engine

        # The names before the redesign, so that another checkout can be measured.
        self.generate = getattr(engine, "GenerateRequest", None) or engine.Write
        self.engine = engine.Engine(engine.ModelSpec(model, dtype=dtype))
        self.tokenizer = self.engine.tokenizer.hf
        self.engine.submit(self.generate(prompts(self.tokenizer, 1, 0)[0], 2)).result()

    def run(self, ids: Sequence[list[int]], new: int) -> tuple[list[float], int]:
        """When each token of the first request came, and tokens in all."""
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
    """transformers' `generate`, with left padding for several sequences."""

    def __init__(self, model: str, dtype: str) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(model, padding_side="left")
        self.model = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, dtype)).eval()
        self.run(prompts(self.tokenizer, 1, 0), 2)

    @torch.inference_mode()
    def run(self, ids: Sequence[list[int]], new: int) -> tuple[list[float], int]:
        """When each token of the batch came, and tokens in all."""
        times: list[float] = []

        def note(*_: Any, **__: Any) -> torch.Tensor:
            times.append(time.perf_counter())
            return torch.zeros(len(ids), dtype=torch.bool)

        batch = self.tokenizer.pad({"input_ids": list(ids)}, return_tensors="pt")
        out = self.model.generate(
            **batch,
            max_new_tokens=new,
            min_new_tokens=new,
            do_sample=False,
            stopping_criteria=[note],
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
        """Tokens in all. By itself it would take nine tenths of a CPU's free memory."""
        from transformers import ContinuousBatchingConfig

        blocks = sum(-(-(len(p) + new) // PAGE) for p in ids)
        out = self.model.generate_batch(
            list(ids),
            max_new_tokens=new,
            do_sample=False,
            continuous_batching_config=ContinuousBatchingConfig(
                page_size=PAGE,
                num_blocks=max(blocks, 32),
                max_batch_tokens=256 + len(ids),
                max_requests_per_batch=len(ids),
            ),
        )
        return [], sum(len(one.generated_tokens) for one in out.values())


SIDES = {"engine": EngineSide, "generate": GenerateSide, "batching": BatchingSide}


def main() -> None:
    """Answer commands until the input ends."""
    model, dtype, side = sys.argv[1:]
    runner = SIDES[side](model, dtype)
    rng = random.Random(time.time_ns())
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        command, start = json.loads(line), time.perf_counter()
        seed = rng.randrange(1 << 30)
        if "decode" in command:
            times, _ = runner.run(prompts(runner.tokenizer, command["decode"], seed), NEW)
            found = 1000 * (times[-1] - times[0]) / (len(times) - 1)
        elif "read" in command:
            ids = [rng.randrange(1000, 20000) for _ in range(command["read"])]
            start = time.perf_counter()
            times, _ = runner.run([ids], 1)
            found = 1000 * (times[0] - start)
        else:
            ids_of_all = prompts(runner.tokenizer, command["serve"], seed)
            if command.get("long"):
                ids_of_all[0] = [rng.randrange(1000, 20000) for _ in range(command["long"])]
            start = time.perf_counter()
            _, tokens = runner.run(ids_of_all, SERVED)
            found = tokens / (time.perf_counter() - start)
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
