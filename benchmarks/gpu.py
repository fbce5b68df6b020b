"""The whole loop on a GPU, at forced escalation rates, beside the target alone and transformers.

Models of the shapes of Llama-3.2-1B and Llama-3.1-8B, then of Qwen2.5-1.5B and 7B, with random
weights in bf16, and a router of Qwen2.5-1.5B. Every step has 50 tokens; which ones are escalated is
drawn. Random models never agree, so that of an escalated draft step nothing is kept and assisted
generation accepts nothing: what keeping brings is measured apart, on steps that agree by force.

The results are written after each measurement. Nothing is begun that would not end within
--minutes: it is left out and named. What hangs all the same is ended after a minute more.

    python benchmarks/gpu.py                                          # one NVIDIA GPU
    python benchmarks/gpu.py --pairs tiny --device cpu --dtype float32       # try it anywhere

Imports the engine alone: LangChain and LangGraph need not be installed.
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
from on_gpu.decoding import against_eager, rate
from on_gpu.loop import RATES, STEP, answers, escalations, steps_of
from on_gpu.report import Report
from on_gpu.served import ROLES, Served
from random_models import prompts

PAIRS = {
    "llama": ("llama-3.2-1b", "llama-3.1-8b", "qwen2.5-1.5b"),
    "qwen": ("qwen2.5-1.5b", "qwen2.5-7b", "qwen2.5-1.5b"),
    "tiny": ("tiny", "tiny-deep", "tiny"),
}
"""Draft, target, router."""
RESULTS = Path(__file__).parent / "results"
COMPILES = 90.0  # seconds that transformers may take to compile a target


def main() -> None:
    """Measure every pair; the results are written after each measurement."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", nargs="+", choices=PAIRS, default=["llama", "qwen"])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float16", "float32"])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--minutes", type=float, default=6.5, help="end about then")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the results")
    options = parser.parse_args()
    cuda = options.device.startswith("cuda")
    index = torch.device(options.device).index or 0
    if cuda and index >= torch.cuda.device_count():
        parser.error(f"{options.device} is not here; try --pairs tiny --device cpu --dtype float32")
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
    begun = time.monotonic()
    faulthandler.dump_traceback_later(60 * (options.minutes + 1), exit=True)
    for number, pair in enumerate(options.pairs, 1):
        report.end = begun + 60 * options.minutes * number / len(options.pairs)
        Pair(pair, options.device, getattr(torch, options.dtype), report).measure(options.batches)
    faulthandler.cancel_dump_traceback_later()
    print(report.text)


class Pair:
    """What is measured of a draft, a target and a router."""

    def __init__(self, name: str, device: str, dtype: torch.dtype, report: Report) -> None:
        self.name = name
        self.report = report
        self.served = Served(PAIRS[name], device, dtype)
        self.seconds: dict[tuple[str, int], float] = {}  # of a decoded token, by role and batch

    def take(self, what: str, measure: Callable[[], Any], seconds: float = 2.0) -> Any:
        return self.report.take(self.name, what, measure, seconds)

    def measure(self, batches: Sequence[int]) -> None:
        """Everything, the most telling first; transformers last, which changes the models."""
        if self.take("bytes of the weights", self.served.needed) is None:
            return
        if self.take("made, seconds", self.served.make) is None:
            return
        first, *others = sorted(batches)
        with self.served.started():
            self.take("engine", self._engines)
            for batch in (first, *others):
                self._decoding(batch)
                self._loop(batch)
                if batch == first:
                    what = "a step of the target, ms, by what is kept"
                    self.take(what, lambda: escalations(self.served))
                    self.take("found (promised)", lambda: self._promises(first))
            self._peers(first, others)
            self.take("the target alone over transformers", lambda: self._over_peers(first))
        self.served.forget()

    def _engines(self) -> dict[str, str | None]:
        """How each runs, `slot` or `plain`, once it has answered."""
        for role in ("draft", "target"):
            self.served.write(role, prompts(1, 16)[0], 4)
        self.served.score(prompts(1, 16)[0])
        return {role: self.served.workers[role].backend_name for role in ROLES}

    def _decoding(self, batch: int) -> None:
        for role in ("draft", "target"):
            what = f"{role} decodes, batch {batch}"
            told = self.take(what, lambda r=role: rate(self.served, r, batch))
            if not told:
                continue
            self.seconds[role, batch] = seconds = told["ms a token and step"] / 1e3
            self.take(
                f"{role} by graphs and eager, batch {batch}",
                lambda r=role, s=seconds: against_eager(self.served, r, batch, s),
            )

    def _loop(self, batch: int) -> None:
        tokens = batch * steps_of(batch) * STEP

        def row(rate: float | None, alone: float | None = None) -> dict[str, float]:
            seconds = answers(self.served, batch, rate)
            found = {"seconds": seconds, "tokens a second": tokens / seconds}
            return found | {"speed-up": (alone or seconds) / seconds}

        # Graphs are captured before anything is timed, and slots allocated.
        self.take(
            f"once before, batch {batch}, seconds",
            lambda: answers(self.served, batch, None) + answers(self.served, batch, 0.5),
        )
        alone = self.take(f"target alone, batch {batch}", lambda: row(None))
        for share in RATES:
            what = f"the loop, batch {batch}, {share:.0%} escalated"
            self.take(what, lambda s=share: row(s, alone and alone["seconds"]))

    def _peers(self, first: int, others: Sequence[int]) -> None:
        served = self.served
        for role in ("draft", "target"):
            served.models[role].set_attn_implementation("sdpa")  # the engine has set its own
        for batch in (first, *others):
            what = f"generate, batch {batch}, tokens/s"
            self.take(what, lambda b=batch: peers.generate(served, b), 8)
        self.take(
            f"assisted generation, nothing accepted, batch {first}, tokens/s",
            lambda: peers.generate(served, first, assistant_model=served.models["draft"]),
            15,
        )
        self.take(
            f"generate with a static cache (compiled on a GPU), batch {first}, tokens/s",
            lambda: peers.generate(served, first, cache_implementation="static"),
            COMPILES if served.device != "cpu" else 0,
        )
        for batch in others:
            what = f"continuous batching, batch {batch}, tokens/s"
            self.take(what, lambda b=batch: peers.continuous(served, b), 15)

    @property
    def _found(self) -> dict[str, Any]:
        found: dict[str, Any] = self.report.data["pairs"][self.name]
        return found

    def _over_peers(self, batch: int) -> dict[str, float]:
        """Times as many tokens a second as each way of transformers at this batch."""
        ours = batch / self.seconds["target", batch]
        end = f", batch {batch}, tokens/s"
        return {
            what.removesuffix(end): ours / speed
            for what, speed in self._found.items()
            if what.endswith(end) and isinstance(speed, float)
        }

    def _promises(self, batch: int) -> dict[str, str]:
        """What was promised of a GPU, beside what was found."""
        sizes = {r: footprint(self.served.models[r]).weights for r in ("draft", "target")}
        bytes_ratio = sizes["target"] / sizes["draft"]
        ratio = self.seconds["target", batch] / self.seconds["draft", batch]
        share = {
            role: self._found[f"{role} decodes, batch {batch}"]["share of the floor"]
            for role in sizes
        }
        speed = self._found[f"the loop, batch {batch}, 20% escalated"]["speed-up"]
        return {
            "draft's share of its floor": f"{share['draft']:.0%} (60%)",
            "target's share of its floor": f"{share['target']:.0%} (70%)",
            "ratio of bytes over ratio of costs": f"{bytes_ratio / ratio:.2f} (at most 1.5)",
            "speed-up at 20%, nothing kept": f"{speed:.2f} (2.2)",
        }


if __name__ == "__main__":
    main()
