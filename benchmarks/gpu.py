"""Measure the loop on a GPU at given escalation rates, against the target alone and transformers.

Models have the shapes of Llama-3.2-1B and Llama-3.1-8B, then of Qwen2.5-1.5B and 7B, with random
weights in bfloat16. The router has the shape of Qwen2.5-1.5B. Every step has 50 tokens, and the
escalated steps are drawn at random. Random models never agree: no draft token of an escalated step
is accepted, nor any token in assisted generation. The gain from accepted draft tokens is measured
separately, on steps constructed to agree.

Results are written after each measurement. A measurement that would not end within --minutes is
skipped and listed. One minute after that the process is terminated if it hangs.

    python benchmarks/gpu.py                                          # one NVIDIA GPU
    python benchmarks/gpu.py --pairs tiny --device cpu --dtype float32       # without a GPU

Needs neither LangChain nor LangGraph.
"""

from __future__ import annotations

import argparse
import faulthandler
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from langgraph_arbitrage.engine.footprint import footprint
from on_gpu import peers
from on_gpu.decoding import compare_with_eager, measure_decoding
from on_gpu.loop import RATES, STEP, answer_seconds, escalation_ms, steps_per_answer
from on_gpu.model_workers import ROLES, ModelWorkers
from on_gpu.report import Report
from random_models import prompts

PAIRS = {
    "llama": ("llama-3.2-1b", "llama-3.1-8b", "qwen2.5-1.5b"),
    "qwen": ("qwen2.5-1.5b", "qwen2.5-7b", "qwen2.5-1.5b"),
    "tiny": ("tiny", "tiny-deep", "tiny"),
}
"""Shapes of draft, target and router."""
RESULTS = Path(__file__).parent / "results"
COMPILE_SECONDS = 90.0
"""Expected duration of transformers compiling a target."""


def main() -> None:
    """Measure all pairs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", nargs="+", choices=PAIRS, default=["llama", "qwen"])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float16", "float32"])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--minutes", type=float, default=6.5, help="time limit of all pairs")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the results")
    options = parser.parse_args()
    cuda = options.device.startswith("cuda")
    index = torch.device(options.device).index or 0
    if cuda and index >= torch.cuda.device_count():
        parser.error(
            f"{options.device} is not available. Without a GPU, use "
            "--pairs tiny --device cpu --dtype float32"
        )
    transformers.logging.set_verbosity_error()
    name = torch.cuda.get_device_name(options.device) if cuda else platform.machine()
    report = Report(
        options.output / f"gpu-{name.replace(' ', '-')}",
        PAIRS,
        device=name,
        dtype=options.dtype,
        torch=torch.__version__,
        transformers=transformers.__version__,
    )
    start = time.monotonic()
    faulthandler.dump_traceback_later(60 * (options.minutes + 1), exit=True)
    for number, pair in enumerate(options.pairs, 1):
        report.end = start + 60 * options.minutes * number / len(options.pairs)
        dtype = getattr(torch, options.dtype)
        PairBenchmark(pair, options.device, dtype, report).measure(options.batches)
    faulthandler.cancel_dump_traceback_later()
    print(report.text)


class PairBenchmark:
    """The measurements of one pair and its router."""

    def __init__(self, name: str, device: str, dtype: torch.dtype, report: Report) -> None:
        self.name = name
        self.report = report
        self.workers = ModelWorkers(PAIRS[name], device, dtype)
        self.step_seconds: dict[tuple[str, int], float] = {}
        """Seconds per decoding step, by role and batch size."""

    def run(self, name: str, measure: Callable[[], Any], seconds: float = 2.0) -> Any:
        return self.report.run(self.name, name, measure, seconds)

    def measure(self, batches: Sequence[int]) -> None:
        """Run all measurements, the most important first.

        transformers comes last, because it changes the attention implementation of the models.
        """
        if self.run("bytes of the weights", self.workers.weight_bytes) is None:
            return
        if self.run("seconds to create the models", self.workers.create) is None:
            return
        first, *others = sorted(batches)
        with self.workers.started():
            self.run("engine", self._backends)
            for batch in (first, *others):
                self._decoding(batch)
                self._loop(batch)
                if batch == first:
                    self.run(
                        "escalated step, ms, by accepted draft tokens",
                        lambda: escalation_ms(self.workers),
                    )
                    self.run("measured (goal)", lambda: self._goals(first))
            self._transformers(first, others)
            self.run(
                "throughput of the target alone / transformers",
                lambda: self._relative_to_transformers(first),
            )
        self.workers.free()

    def _backends(self) -> dict[str, str | None]:
        """Send each worker a request and return its backend, `slot` or `plain`."""
        for role in ("draft", "target"):
            self.workers.generate(role, prompts(1, 16)[0], 4)
        self.workers.score(prompts(1, 16)[0])
        return {role: self.workers.workers[role].backend_name for role in ROLES}

    def _decoding(self, batch: int) -> None:
        for role in ("draft", "target"):
            name = f"{role}, decoding, batch {batch}"
            result = self.run(name, lambda r=role: measure_decoding(self.workers, r, batch))
            if not result:
                continue
            self.step_seconds[role, batch] = seconds = result["ms per step"] / 1e3
            self.run(
                f"{role}, CUDA graphs and eager, batch {batch}",
                lambda r=role, s=seconds: compare_with_eager(self.workers, r, batch, s),
            )

    def _loop(self, batch: int) -> None:
        tokens = batch * steps_per_answer(batch) * STEP

        def measure(rate: float | None, alone: float | None = None) -> dict[str, float]:
            seconds = answer_seconds(self.workers, batch, rate)
            row = {"seconds": seconds, "tokens/s": tokens / seconds}
            return row | {"speed-up": (alone or seconds) / seconds}

        # The warm-up captures CUDA graphs and allocates cache slots.
        self.run(
            f"warm-up, batch {batch}, seconds",
            lambda: (
                answer_seconds(self.workers, batch, None) + answer_seconds(self.workers, batch, 0.5)
            ),
        )
        alone = self.run(f"target alone, batch {batch}", lambda: measure(None))
        for rate in RATES:
            name = f"loop, batch {batch}, {rate:.0%} escalated"
            self.run(name, lambda r=rate: measure(r, alone and alone["seconds"]))

    def _transformers(self, first: int, others: Sequence[int]) -> None:
        workers = self.workers
        for role in ("draft", "target"):
            workers.models[role].set_attn_implementation("sdpa")  # the engine has set its own
        for batch in (first, *others):
            name = f"generate, batch {batch}, tokens/s"
            self.run(name, lambda b=batch: peers.generate(workers, b), 8)
        self.run(
            f"assisted generation, nothing accepted, batch {first}, tokens/s",
            lambda: peers.generate(workers, first, assistant_model=workers.models["draft"]),
            15,
        )
        self.run(
            f"generate with a static cache (compiled on a GPU), batch {first}, tokens/s",
            lambda: peers.generate(workers, first, cache_implementation="static"),
            COMPILE_SECONDS if workers.device != "cpu" else 0,
        )
        for batch in others:
            name = f"continuous batching, batch {batch}, tokens/s"
            self.run(name, lambda b=batch: peers.continuous_batching(workers, b), 15)

    @property
    def _results(self) -> dict[str, Any]:
        results: dict[str, Any] = self.report.data["pairs"][self.name]
        return results

    def _relative_to_transformers(self, batch: int) -> dict[str, float]:
        """Divide the engine's throughput by that of each method of transformers."""
        throughput = batch / self.step_seconds["target", batch]
        suffix = f", batch {batch}, tokens/s"
        return {
            name.removesuffix(suffix): throughput / value
            for name, value in self._results.items()
            if name.endswith(suffix) and isinstance(value, float)
        }

    def _goals(self, batch: int) -> dict[str, str]:
        """Return measured values with the goals for a GPU in parentheses."""
        sizes = {r: footprint(self.workers.models[r]).weights for r in ("draft", "target")}
        bytes_ratio = sizes["target"] / sizes["draft"]
        time_ratio = self.step_seconds["target", batch] / self.step_seconds["draft", batch]
        fraction = {
            role: self._results[f"{role}, decoding, batch {batch}"]["lower bound / measured"]
            for role in sizes
        }
        speed_up = self._results[f"loop, batch {batch}, 20% escalated"]["speed-up"]
        return {
            "draft, lower bound / measured": f"{fraction['draft']:.0%} (60%)",
            "target, lower bound / measured": f"{fraction['target']:.0%} (70%)",
            "ratio of weights / ratio of times": f"{bytes_ratio / time_ratio:.2f} (at most 1.5)",
            "speed-up at 20% escalated, nothing accepted": f"{speed_up:.2f} (2.2)",
        }


if __name__ == "__main__":
    main()
