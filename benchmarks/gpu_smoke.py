"""The engine on a GPU: does it agree with `generate`, and what does a token cost?

Models of the shapes of Llama-3.2-1B and Llama-3.1-8B with random weights in bf16 (speed does not
depend on their values). Agreement is teacher-forced: at each position of a text that the engine
wrote, the logits of a plain forward must rank the engine's token first, or tie with the first
within bf16 rounding. Imports the engine alone: LangChain and LangGraph need not be installed.

    python benchmarks/gpu_smoke.py                      # one NVIDIA GPU
    python benchmarks/gpu_smoke.py --shapes tiny --device cpu --dtype float32   # try it anywhere
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel

from langgraph_arbitrage.engine.requests import Write
from langgraph_arbitrage.engine.scheduler import Scheduler, run_all
from langgraph_arbitrage.engine.slot_backend import SlotBackend
from langgraph_arbitrage.engine.spec import ModelSpec
from langgraph_arbitrage.engine.ticket import Ticket
from random_models import CONTEXT, SHAPES, clock, prompts, random_model

PROMPT, NEW = 64, 64


def main() -> None:
    """Measure every shape and write benchmarks/results/gpu_smoke-<device>.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--shapes", nargs="+", choices=SHAPES, default=["llama-3.2-1b", "llama-3.1-8b"]
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float16", "float32"])
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("there is no CUDA device here; try --shapes tiny --device cpu --dtype float32")
    if options.device == "cpu":
        torch.set_num_threads(1)  # as the engine's worker does for small models
    name = torch.cuda.get_device_name() if options.device == "cuda" else platform.machine()
    results = [
        measure(shape, options.device, getattr(torch, options.dtype), options.rounds)
        for shape in options.shapes
    ]
    report = {
        "device": name,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "dtype": options.dtype,
        "results": results,
    }
    folder = Path(__file__).parent / "results"
    path = folder / f"gpu_smoke-{name.replace(' ', '-')}.json"
    path.write_text(json.dumps(report, indent=2) + "\n")
    print(f"written to {path.relative_to(folder.parent.parent)}")


@torch.inference_mode()
def measure(shape: str, device: str, dtype: torch.dtype, rounds: int) -> dict[str, Any]:
    """Agreement and milliseconds a token of one model."""
    model = random_model(shape, device, dtype)
    backend = SlotBackend(model, ModelSpec(shape, max_slots=32), CONTEXT)
    scheduler = Scheduler(backend, None, frozenset(), CONTEXT)  # type: ignore[arg-type]
    row: dict[str, Any] = {"shape": shape, "parameters": model.num_parameters()}
    row["agreement"], row["worst_gap"] = agreement(scheduler, model)
    for batch in (1, 8, 32):
        ours = [timed(partial(write, scheduler, batch), device) for _ in range(rounds + 1)][1:]
        row[f"engine_ms_a_token_{batch}"] = 1e3 * statistics.median(ours) / NEW
        print(f"{shape} batch {batch}: {row[f'engine_ms_a_token_{batch}']:.2f} ms a token and step")
    ids = prompts(1, PROMPT)[0]
    plain = [
        timed(
            lambda: model.generate(
                torch.tensor([ids], device=device),
                max_new_tokens=NEW,
                min_new_tokens=NEW,
                do_sample=False,
            ),
            device,
        )
        for _ in range(rounds + 1)
    ][1:]
    row["generate_ms_a_token_1"] = 1e3 * statistics.median(plain) / NEW
    ratio = row["generate_ms_a_token_1"] / row["engine_ms_a_token_1"]
    print(
        f"{shape}: generate {row['generate_ms_a_token_1']:.2f} ms a token, {ratio:.2f} times ours; "
        f"teacher-forced agreement {row['agreement']:.4f}, worst gap {row['worst_gap']:.3f}"
    )
    return row


def write(scheduler: Scheduler, batch: int) -> list[Any]:
    """Write `NEW` tokens to each of `batch` new prompts."""
    asked = prompts(batch, PROMPT)
    tickets: list[Ticket[Any]] = [Ticket(Write(ids, max_tokens=NEW)) for ids in asked]
    return run_all(scheduler, tickets)


def agreement(scheduler: Scheduler, model: PreTrainedModel) -> tuple[float, float]:
    """Share of tokens that a plain forward ranks first, and the largest lead of another token.

    A lead within bf16 rounding of the logits is a tie.
    """
    asked = prompts(8, PROMPT)
    tickets: list[Ticket[Any]] = [Ticket(Write(ids, max_tokens=NEW)) for ids in asked]
    first, total, worst = 0, 0, 0.0
    for ids, written in zip(asked, run_all(scheduler, tickets), strict=True):
        sequence = torch.tensor([ids + written.ids], device=model.device)
        logits = model(input_ids=sequence).logits[0, len(ids) - 1 : -1].float()
        chosen = logits.gather(-1, sequence[0, len(ids) :, None]).squeeze(-1)
        gaps = logits.max(dim=-1).values - chosen
        first += int((gaps == 0).sum())
        total += len(gaps)
        worst = max(worst, float(gaps.max()))
    return first / total, worst


def timed(work: Any, device: str) -> float:
    """Seconds of a piece of work, the device's queue included."""
    start = clock(device)
    work()
    return clock(device) - start


if __name__ == "__main__":
    main()
