"""Settings on a CPU: threads of a worker, precision, packed and quantized linear layers.

The embedded draft and target, and two random models of the shapes of SmolLM2-135M and Qwen2.5-0.5B;
each setting in a process of its own, the best of several rounds. The engine packs the weights of
these two, and runs all but the last by traces; `eager` does neither, and `generate` is that of
transformers, without the engine. int8 needs torchao. Only measured where they are named: `beside`
has a second such model loaded, which waits, `beside, kept` one that keeps its compute threads
meanwhile; `compiled` puts `torch.compile` around the model's forward, and compiles for minutes.

    python benchmarks/cpu.py [--rounds 7] [--only smollm2-135m] [--settings "bfloat16, 2 threads"]
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from measure import CHECKPOINTS, apart, peak_mib, table

RESULTS = Path(__file__).parent / "results"
MODELS = (*CHECKPOINTS, "smollm2-135m", "qwen2.5-0.5b")
SETTINGS: dict[str, dict[str, Any]] = {
    f"{name}, {threads} thread{'s' * (threads > 1)}": {"threads": threads, **how}
    for name, how in {
        "float32": {},
        "float32 eager": {"engine": "eager"},
        "float32 generate": {"engine": "generate"},
        "bfloat16": {"dtype": "bfloat16"},
        "bfloat16 eager": {"dtype": "bfloat16", "engine": "eager"},
        "bfloat16 generate": {"dtype": "bfloat16", "engine": "generate"},
        "int8 weights": {"quantize": "Int8WeightOnlyConfig"},
        "int8 weights and activations": {"quantize": "Int8DynamicActivationInt8WeightConfig"},
    }.items()
    for threads in (1, 2)
}
NAMED = {
    "float32 compiled, 1 thread": {"threads": 1, "compiled": True},
    "float32 beside, 2 threads": {"threads": 2, "beside": "resting"},
    "float32 beside, kept, 2 threads": {"threads": 2, "beside": "kept"},
}
ALL = SETTINGS | NAMED
NEW, READ, PROMPT = 48, 32, 64


def main() -> None:
    """Measure; what benchmarks/results/cpu.json has of other models and settings stays there."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--settings", nargs="+", choices=ALL, default=list(SETTINGS))
    options = parser.parse_args()
    file = RESULTS / "cpu.json"
    found: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
    with tempfile.TemporaryDirectory() as folder:
        for model in options.only:
            path = CHECKPOINTS.get(model) or made(model, Path(folder))
            rows = found.setdefault(model, {})
            for setting in options.settings:
                rows[setting] = apart("cpu.py", "--one", path, setting, options.rounds)
                print(model, setting, rows[setting], file=sys.stderr)
                file.write_text(json.dumps(found, indent=2) + "\n")
    lines = ["# Settings on a CPU", "", __doc__.split("\n\n")[1]]
    for model, rows in found.items():
        lines += ["", f"## {model}", "", *told(rows)]
    print("\n".join(lines))
    (RESULTS / "cpu.md").write_text("\n".join(lines) + "\n")


def told(rows: dict[str, dict[str, Any]]) -> list[str]:
    """A table, each setting beside the first one."""
    heads = ("ms a token", "ms a token, 8 at a time", "ms to read 32", "ready after s", "MiB")
    first = next(row for row in rows.values() if "failed" not in row)
    body = []
    for setting, row in rows.items():
        if "failed" in row:
            body.append([setting, row["failed"], *[""] * len(heads)])
            continue
        body.append([setting, *row.values(), first["token"] / row["token"]])
    return table(["setting", *heads, "speed-up"], body)


@cache
def made(shape: str, folder: Path) -> str:
    """A random checkpoint, with a tokenizer that need not fit."""
    import torch

    from langgraph_arbitrage.engine import ModelSpec, load_tokenizer
    from random_models import random_model

    path = str(folder / shape)
    random_model(shape, "cpu", torch.float32).save_pretrained(path)
    load_tokenizer(ModelSpec(CHECKPOINTS["draft"])).hf.save_pretrained(path)
    return path


# --- one setting, in its own process -----------------------------------------------------


def one(path: str, setting: str, rounds: int) -> dict[str, Any]:
    """Milliseconds, or why it does not run."""
    how = ALL[setting]
    try:
        run = theirs if how.get("engine") == "generate" else measured
        return run(path, rounds, **how)
    except Exception as error:
        return {"failed": f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"}


def measured(
    path: str,
    rounds: int,
    *,
    threads: int,
    dtype: str = "float32",
    engine: str = "auto",
    quantize: str | None = None,
    beside: str | None = None,
    compiled: bool = False,
) -> dict[str, Any]:
    """The engine under a setting."""
    import torch

    from langgraph_arbitrage.engine import Engine, ModelSpec, Write, cores, worker
    from random_models import prompts

    how: dict[str, Any] = {}
    if quantize:
        from torchao import quantization
        from transformers import TorchAoConfig

        how = {"quantization_config": TorchAoConfig(getattr(quantization, quantize)())}
    if compiled:
        load = worker.load_model

        def load_compiled(spec: ModelSpec) -> Any:
            model = load(spec)
            model.forward = torch.compile(model.forward, dynamic=True)
            return model

        worker.load_model = load_compiled
    spec = ModelSpec(
        path, device="cpu", dtype=dtype, threads=threads, engine=engine, model_kwargs=how
    )
    model = Engine(spec)
    model._worker.end_ids = frozenset()  # set before the model is loaded; all tokens are written

    def write(batch: int) -> float:
        """Milliseconds a token of each sequence; prompts are read before."""
        asked = prompts(batch, PROMPT)
        for ticket in [model.submit(Write(ids, 1)) for ids in asked]:
            ticket.result()
        start = time.perf_counter()
        for ticket in [model.submit(Write(ids, NEW)) for ids in asked]:
            ticket.result()
        return 1e3 * (time.perf_counter() - start) / NEW

    def read() -> float:
        """Milliseconds of a forward over new tokens behind a cached prefix."""
        (ids,) = prompts(1, PROMPT)
        model.submit(Write(ids, 1)).result()
        return 1e3 * model.submit(Write([*ids, *prompts(1, READ)[0]], 1)).result().seconds

    if beside == "kept":
        cores._pause = lambda kind: 0
    if beside:
        other = Engine(replace(spec, max_slots=spec.max_slots + 1))
        other.submit(Write(prompts(1, PROMPT)[0], NEW)).result()
    found = _best(write, read, rounds)
    if model.backend != "slot":
        raise RuntimeError("the slot engine does not agree with a plain forward: it ran plain")
    model.close()
    return found


def theirs(path: str, rounds: int, *, threads: int, dtype: str = "float32", **_: Any) -> Any:
    """Transformers alone: `generate`, and a forward behind a cached prefix."""
    import torch
    from transformers import AutoModelForCausalLM

    from random_models import prompts

    torch.set_num_threads(threads)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=getattr(torch, dtype)).eval()
    model.generation_config.eos_token_id = None  # all tokens are written
    options = {"do_sample": False, "pad_token_id": 0}

    def write(batch: int) -> float:
        asked = torch.tensor([ids[-PROMPT + batch :] for ids in prompts(batch, PROMPT)])
        there = {"attention_mask": torch.ones_like(asked), **options}
        spent = []
        for new in (1, 1 + NEW):  # what reads the prompt is taken off
            start = time.perf_counter()
            model.generate(asked, max_new_tokens=new, **there)
            spent.append(time.perf_counter() - start)
        return 1e3 * (spent[1] - spent[0]) / NEW

    def read() -> float:
        cache = model(input_ids=torch.tensor(prompts(1, PROMPT)), use_cache=True).past_key_values
        start = time.perf_counter()
        model(input_ids=torch.tensor(prompts(1, READ)), past_key_values=cache, logits_to_keep=1)
        return 1e3 * (time.perf_counter() - start)

    with torch.inference_mode():
        return _best(write, read, rounds)


def _best(
    write: Callable[[int], float], read: Callable[[], float], rounds: int
) -> dict[str, float]:
    start = time.perf_counter()
    for work in (lambda: write(1), lambda: write(8), read):  # loads, compiles, warms up
        work()
        work()
    ready = time.perf_counter() - start
    return {
        "token": min(write(1) for _ in range(rounds)),
        "token of 8": min(write(8) for _ in range(rounds)),
        "read": min(read() for _ in range(rounds)),
        "ready": ready,
        "MiB": peak_mib(),
    }


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(one(sys.argv[2], sys.argv[3], int(sys.argv[4]))))
    else:
        main()
