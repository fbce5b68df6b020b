"""Compare greedy answers on real checkpoints with transformers' `generate`, including penalties.

Each model answers ten questions with up to 200 tokens in float32, one and eight at a time. It uses
its own generation config, and then the values that Qwen publishes (repetition_penalty 1.1,
do_sample with temperature 0.7, top_p 0.8, top_k 20). temperature=0 turns sampling off but not
penalties.

    python benchmarks/real_models/equality.py --models DIR [--only NAME] [--tokens 200]

DIR contains checkpoint folders. Results are written to benchmarks/results/real_equality.json.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from langgraph_arbitrage import AlwaysTarget, ChatArbitrage

RESULTS = Path(__file__).parent.parent / "results" / "real_equality.json"
PUBLISHED = {
    "do_sample": True,
    "repetition_penalty": 1.1,
    "temperature": 0.7,
    "top_p": 0.8,
    "top_k": 20,
}
QUESTIONS = [
    "Write a Python function that reverses a linked list, and explain it.",
    "A train travels 60 km in 45 minutes. How far does it travel in 2 hours?",
    "Name three causes of the French Revolution and explain each in two sentences.",
    "List the first ten prime numbers and their squares.",
    "Explain how a hash map handles collisions.",
    "Write a short poem about a lighthouse in winter.",
    "Solve 3x + 7 = 2(x - 4) step by step.",
    "What is the difference between a process and a thread?",
    "Translate into French: The library opens at nine and closes at six.",
    "A shop sells pens at 3 for 2 dollars. How much do 27 pens cost?",
]


def with_config(model: Path, values: dict[str, Any], folder: Path) -> Path:
    """Create a checkpoint of symbolic links with a changed generation config; return its path."""
    for file in model.iterdir():
        (folder / file.name).symlink_to(file)
    config = json.loads((model / "generation_config.json").read_text())
    (folder / "generation_config.json").unlink()
    (folder / "generation_config.json").write_text(json.dumps(config | values))
    return folder


def expected(path: Path, tokens: int) -> list[str]:
    """Return the answers of `generate(do_sample=False)`."""
    tokenizer = AutoTokenizer.from_pretrained(path)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    texts = []
    for question in QUESTIONS:
        inputs = tokenizer.apply_chat_template(
            [{"role": "user", "content": question}],
            add_generation_prompt=True,
            return_tensors="pt",
            return_dict=True,
        )
        with torch.inference_mode():
            out = model.generate(**inputs, do_sample=False, max_new_tokens=tokens)
        new = out[0, inputs["input_ids"].shape[1] :]
        texts.append(tokenizer.decode(new, skip_special_tokens=True))
        print(".", end="", file=sys.stderr, flush=True)
    return texts


def main() -> None:
    """Compare all models and write the results after each configuration."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=Path, required=True, help="folder of checkpoints")
    parser.add_argument("--only", nargs="+", help="names of checkpoints; default: all")
    parser.add_argument("--tokens", type=int, default=200, help="maximum tokens per answer")
    options = parser.parse_args()
    results = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    names = options.only or sorted(p.parent.name for p in options.models.glob("*/config.json"))
    for name in names:
        for label, values in (("published Qwen values", PUBLISHED), ("its own", {})):
            with TemporaryDirectory() as folder:
                path = with_config(options.models / name, values, Path(folder))
                reference = [text.rstrip("\n") for text in expected(path, options.tokens)]
                llm = ChatArbitrage(
                    draft=str(path),
                    target=str(path),
                    router=AlwaysTarget(),
                    dtype="float32",
                    temperature=0,
                    max_tokens=options.tokens,
                )
                alone = [llm.invoke(question).text for question in QUESTIONS]
                batch = llm.batch(QUESTIONS, config={"max_concurrency": 8})
                llm.close()
            equal = [a == r for a, r in zip(alone, reference, strict=True)]
            together = [m.text == r for m, r in zip(batch, reference, strict=True)]
            results[f"{name}, {label}"] = {
                "questions": len(reference),
                "tokens": options.tokens,
                "equal alone": sum(equal),
                "equal eight at a time": sum(together),
            }
            print(name, label, results[f"{name}, {label}"], flush=True)
            RESULTS.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
