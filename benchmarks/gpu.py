"""The whole loop on a GPU, at forced escalation rates, beside the target alone and transformers.

Models of the shapes of Llama-3.2-1B and Llama-3.1-8B, then of Qwen2.5-1.5B and 7B, with random
weights in bf16, and a router of Qwen2.5-1.5B. Every step has 50 tokens; which ones are escalated is
drawn. Random models never agree, so that of an escalated draft step nothing is kept and assisted
generation accepts nothing: what keeping brings is measured apart, on steps that agree by force.
Nothing is begun after --minutes: what there is no time for is left out and named.

    python benchmarks/gpu.py                                          # one NVIDIA GPU
    python benchmarks/gpu.py --pairs tiny --device cpu --dtype float32       # try it anywhere

Imports the engine alone: LangChain and LangGraph need not be installed.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import random
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel

from langgraph_arbitrage.engine import worker as workers
from langgraph_arbitrage.engine.footprint import footprint
from langgraph_arbitrage.engine.requests import Score, Write
from langgraph_arbitrage.engine.spec import ModelSpec
from langgraph_arbitrage.engine.ticket import Ticket
from langgraph_arbitrage.performance.device import measured_rates
from measure import table
from random_models import CONTEXT, clock, free_bytes, prompts, random_model

PAIRS = {
    "llama": ("llama-3.2-1b", "llama-3.1-8b", "qwen2.5-1.5b"),
    "qwen": ("qwen2.5-1.5b", "qwen2.5-7b", "qwen2.5-1.5b"),
    "tiny": ("tiny", "tiny-deep", "tiny"),
}
"""Draft, target, router."""
RATES = (0.0, 0.1, 0.2, 0.3, 0.5, 1.0)
STEP, PROMPT = 50, 64
STEPS = {1: 10}  # of an answer; enough that a tenth of them is one
FEW = 4  # of an answer, where several go on at once
TOKENS = 64  # where only decoding is measured
RESULTS = Path(__file__).parent / "results"


def main() -> None:
    """Measure every pair; the results are written after each measurement."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", nargs="+", choices=PAIRS, default=["llama", "qwen"])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float16", "float32"])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--minutes", type=float, default=6.5, help="begin nothing after them")
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
        device=name,
        dtype=options.dtype,
        torch=torch.__version__,
        transformers=transformers.__version__,
    )
    begun = time.monotonic()
    for number, pair in enumerate(options.pairs, 1):
        report.end = begun + 60 * options.minutes * number / len(options.pairs)
        Pair(pair, options.device, options.dtype, report).measure(options.batches)
    print(report.text)


class Report:
    """What was measured so far, on disk; and what there was no time for."""

    def __init__(self, path: Path, **about: str) -> None:
        self.path = path
        self.end = time.monotonic()
        """When nothing more is begun."""
        self.data: dict[str, Any] = {**about, "pairs": {}}

    @property
    def text(self) -> str:
        """As Markdown."""
        about = ", ".join(f"{k} {v}" for k, v in self.data.items() if isinstance(v, str))
        lines = ["# The loop on a GPU", "", f"Random weights; {about}."]
        for name, pair in self.data["pairs"].items():
            lines += ["", f"## {name}: {', '.join(PAIRS[name])}", ""]
            lines += [f"- {key}: {_shown(v)}" for key, v in pair.items() if not isinstance(v, dict)]
            tables: dict[tuple[str, ...], list[list[Any]]] = {}
            for key, value in pair.items():
                if isinstance(value, dict):
                    tables.setdefault(tuple(value), []).append([key, *map(_shown, value.values())])
            for heads, rows in tables.items():
                lines += ["", *table(["", *heads], rows)]
        return "\n".join(lines)

    def take(self, pair: str, what: str, measure: Callable[[], Any]) -> Any:
        """Measure something, or say why not; what was found, if anything."""
        found: Any = None
        if time.monotonic() > self.end:
            told: Any = "no time left"
        else:
            start = time.monotonic()
            try:
                told = found = measure()
            except Exception as error:  # the others are measured all the same
                cause = str(error).strip().partition("\n")[0]
                told = f"failed: {type(error).__name__}: {cause}"
            shown = json.dumps(told) if isinstance(told, dict) else _shown(told)
            print(f"{pair}, {what}: {shown} ({time.monotonic() - start:.1f} s)", flush=True)
        self.data["pairs"].setdefault(pair, {})[what] = told
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.with_suffix(".json").write_text(json.dumps(self.data, indent=2) + "\n")
        self.path.with_suffix(".md").write_text(self.text + "\n")
        return found


def _shown(value: Any) -> Any:
    return f"{value:.4g}" if isinstance(value, float) else value


class Pair:
    """Draft, target and router, each behind a worker of the engine."""

    def __init__(self, name: str, device: str, dtype: str, report: Report) -> None:
        self.name = name
        self.device = device
        self.dtype = getattr(torch, dtype)
        self.report = report
        self.models: dict[str, PreTrainedModel] = {}
        self.workers: dict[str, workers.Worker] = {}
        self.seconds: dict[tuple[str, int], float] = {}  # of a decoded token, by role and batch

    def take(self, what: str, measure: Callable[[], Any]) -> Any:
        return self.report.take(self.name, what, measure)

    def measure(self, batches: Sequence[int]) -> None:
        """Everything, the most telling first."""
        if self.take("bytes of the weights", self._fits) is None:
            return
        if self.take("made, seconds", self._make) is None:
            return
        with self._served():
            self.take("engine", self._engines)
            for batch in sorted(batches):
                self._decoding(batch)
                self._loop(batch)
                if batch == min(batches):
                    self.take("a step of the target, ms, by what is kept", self._escalations)
                    self._promises(batch)
                self._peers(batch)
            self._slow_peers()
        self.models.clear()
        gc.collect()
        if self.device.startswith("cuda"):
            torch.cuda.empty_cache()

    # --- models --------------------------------------------------------------------------

    def _fits(self) -> int:
        """Bytes of the three; an error where the device has not so many."""
        needed = 0
        for role, shape in zip(("draft", "target", "router"), PAIRS[self.name], strict=True):
            labels = 2 if role == "router" else None
            model = random_model(shape, "meta", self.dtype, labels=labels)
            needed += sum(p.nbytes for p in model.parameters())
        free = free_bytes(self.device)
        if free is not None and free < 1.15 * needed:
            raise MemoryError(
                f"the models need {1.15 * needed / 2**30:.1f} GiB with their caches, and "
                f"{free / 2**30:.1f} GiB are free: choose other --pairs or a larger GPU"
            )
        return needed

    def _make(self) -> float:
        start = clock(self.device)
        for role, shape in zip(("draft", "target", "router"), PAIRS[self.name], strict=True):
            labels = 2 if role == "router" else None
            self.models[role] = random_model(shape, self.device, self.dtype, labels=labels)
        return clock(self.device) - start

    @contextmanager
    def _served(self) -> Iterator[None]:
        """Workers as the engine has them, over these models in the place of checkpoints."""
        load, workers.load_model = workers.load_model, lambda spec: self.models[spec.path]
        try:
            for role in self.models:
                kind: Any = "token-classification" if role == "router" else "causal-lm"
                spec = ModelSpec(role, kind=kind, device=self.device)
                self.workers[role] = workers.Worker(spec, None, frozenset(), CONTEXT)  # type: ignore[arg-type]
            yield
        finally:
            for worker in self.workers.values():
                worker.close()
            self.workers.clear()
            workers.load_model = load

    def _engines(self) -> dict[str, str | None]:
        """How each runs, `slot` or `plain`, once it has answered."""
        for role in ("draft", "target"):
            self._write(role, prompts(1, PROMPT)[0], 4)
        self._score(prompts(1, PROMPT)[0])
        return {role: worker.backend_name for role, worker in self.workers.items()}

    def _write(self, role: str, ids: list[int], tokens: int, proposal: Sequence[int] = ()) -> Any:
        ticket: Ticket[Any] = Ticket(Write(ids, tokens, proposal=proposal))
        self.workers[role].put(ticket)
        return ticket.result()

    def _score(self, ids: list[int]) -> Any:
        ticket: Ticket[Any] = Ticket(Score(ids, start=len(ids)))
        self.workers["router"].put(ticket)
        return ticket.result()

    # --- measurements --------------------------------------------------------------------

    def _decoding(self, batch: int) -> None:
        for role in ("draft", "target"):
            told = self.take(f"{role} decodes, batch {batch}", lambda r=role: self._rate(r, batch))
            if told:
                self.seconds[role, batch] = told["ms a token and step"] / 1e3

    def _rate(self, role: str, batch: int) -> dict[str, float]:
        """Decoding against what the device's bandwidth and matrix rate allow."""

        def once() -> float:
            asked = prompts(batch, PROMPT)
            self._together(asked, lambda ids: self._write(role, ids, 1))  # read before
            start = clock(self.device)
            self._together(asked, lambda ids: self._write(role, ids, TOKENS))
            return (clock(self.device) - start) / TOKENS

        once()
        seconds = once()
        size, model = footprint(self.models[role]), self.models[role]
        rates = measured_rates(self.device, size.dtype, size.weights)
        context = PROMPT + TOKENS // 2
        floor = rates.floor(size.bytes(batch, 1, context), size.work(batch, 1, context))
        return {
            "ms a token and step": 1e3 * seconds,
            "tokens a second": batch / seconds,
            "floor, ms": 1e3 * floor,
            "share of the floor": floor / seconds,
            "GB a second that the device reads": rates.bandwidth / 1e9,
            "parameters": float(model.num_parameters()),
        }

    def _loop(self, batch: int) -> None:
        steps = STEPS.get(batch, FEW)
        alone = self.take(
            f"target alone, batch {batch}, seconds", lambda: self._answers(batch, steps, None)
        )
        for rate in RATES:
            what = f"the loop, batch {batch}, {rate:.0%} escalated"

            def measure(rate: float = rate) -> dict[str, float]:
                seconds = self._answers(batch, steps, rate)
                found = {"seconds": seconds, "tokens a second": batch * steps * STEP / seconds}
                return found | ({"speed-up": alone / seconds} if alone else {})

            self.take(what, measure)

    def _answers(self, batch: int, steps: int, rate: float | None) -> float:
        """Seconds of `batch` answers at once, by the loop, or by the target alone without a rate.

        As the nodes of the graph do it, one thread an answer; no graph is between.
        """
        escalated = round((rate or 0.0) * batch * steps)
        drawn = [True] * escalated + [False] * (batch * steps - escalated)
        random.Random(0).shuffle(drawn)
        asked = prompts(batch, PROMPT)

        def answer(row: int) -> None:
            ids = asked[row]
            for step in range(steps):
                if rate is None:
                    ids = [*ids, *self._write("target", ids, STEP).ids]
                    continue
                draft = self._write("draft", ids, STEP).ids
                self._score([*ids, *draft])
                if drawn[row * steps + step]:
                    draft = self._write("target", ids, STEP, draft).ids
                ids = [*ids, *draft]

        start = clock(self.device)
        self._together(range(batch), answer)
        return clock(self.device) - start

    def _escalations(self) -> dict[str, float]:
        """A step of the target behind one that it has not read: plain, and verified."""
        found: dict[str, list[float]] = {}
        for _ in range(2):
            (before,) = prompts(1, PROMPT)
            ids = [*before, *prompts(1, STEP)[0]]
            own = self._write("target", ids, STEP).ids
            wrong = [(token + 1) % 500 for token in own]
            kept = {"plain": 0, "none kept": 0, "half kept": STEP // 2, "all kept": STEP}
            for name, count in kept.items():
                proposal = [] if name == "plain" else [*own[:count], *wrong[count:]]
                self._write("target", before, 1)  # the cache, one step behind
                start = clock(self.device)
                self._write("target", ids, STEP, proposal)
                found.setdefault(name, []).append(1e3 * (clock(self.device) - start))
        return {name: min(times) for name, times in found.items()}

    def _peers(self, batch: int) -> None:
        """The target alone by transformers, tokens a second."""
        self.take(f"generate, batch {batch}, tokens/s", lambda: self._generate(batch))
        if batch > 1:
            what = f"continuous batching, batch {batch}, tokens/s"
            self.take(what, lambda: self._continuous(batch))

    def _slow_peers(self) -> None:
        """Those that compile first, or are slow where nothing is accepted."""
        self.take(
            "assisted generation, nothing accepted, batch 1, tokens/s",
            lambda: self._generate(1, assistant_model=self.models["draft"]),
        )
        self.take(
            "generate with a static cache (compiled on a GPU), batch 1, tokens/s",
            lambda: self._generate(1, cache_implementation="static"),
        )

    def _generate(self, batch: int, **how: Any) -> float:
        asked = torch.tensor([ids[: PROMPT - batch] for ids in prompts(batch, PROMPT)])
        asked = asked.to(self.device)

        def once() -> float:
            start = clock(self.device)
            with torch.inference_mode():
                out = self.models["target"].generate(
                    asked,
                    attention_mask=torch.ones_like(asked),
                    max_new_tokens=TOKENS,
                    do_sample=False,
                    pad_token_id=0,
                    **how,
                )
            return batch * (out.shape[1] - asked.shape[1]) / (clock(self.device) - start)

        once()
        return once()

    def _continuous(self, batch: int) -> float:
        from transformers import ContinuousBatchingConfig

        page = 32
        settings = ContinuousBatchingConfig(
            num_blocks=batch * -(-(TOKENS + PROMPT) // page) + batch,
            max_batch_tokens=256 + batch,
            **({"page_size": page} if hasattr(ContinuousBatchingConfig(), "page_size") else {}),
        )
        start = clock(self.device)
        found = self.models["target"].generate_batch(
            prompts(batch, PROMPT),
            max_new_tokens=TOKENS,
            do_sample=False,
            continuous_batching_config=settings,
        )
        written = sum(len(one.generated_tokens) for one in found.values())
        return written / (clock(self.device) - start)

    def _promises(self, batch: int) -> None:
        """What was promised of a GPU, beside what was found."""
        pair = self.report.data["pairs"][self.name]

        def shares() -> dict[str, str]:
            sizes = {role: footprint(self.models[role]).weights for role in ("draft", "target")}
            bytes_ratio = sizes["target"] / sizes["draft"]
            ratio = self.seconds["target", batch] / self.seconds["draft", batch]
            share = {
                role: pair[f"{role} decodes, batch {batch}"]["share of the floor"] for role in sizes
            }
            speed = pair[f"the loop, batch {batch}, 20% escalated"].get("speed-up", 0.0)
            return {
                "draft's share of its floor": f"{share['draft']:.0%} (60%)",
                "target's share of its floor": f"{share['target']:.0%} (70%)",
                "ratio of bytes over ratio of costs": f"{bytes_ratio / ratio:.2f} (at most 1.5)",
                "speed-up at 20%, nothing kept": f"{speed:.2f} (2.2)",
            }

        self.take("found (promised)", shares)

    @staticmethod
    def _together(items: Any, work: Callable[[Any], Any]) -> None:
        """One thread an item."""
        listed = list(items)
        if len(listed) == 1:
            work(listed[0])
            return
        with ThreadPoolExecutor(len(listed)) as pool:
            for done in [pool.submit(work, item) for item in listed]:
                done.result()


if __name__ == "__main__":
    main()
