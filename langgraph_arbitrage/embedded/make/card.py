"""The model card of a checkpoint, written from what was measured."""

import json
from pathlib import Path
from typing import Any

from langgraph_arbitrage.embedded.make.data import CHAT_EVERY
from langgraph_arbitrage.embedded.make.evaluate import CHATS, SEED
from langgraph_arbitrage.embedded.make.recipes import Recipe
from langgraph_arbitrage.embedded.problems import HARD_SHARE, HELD_OUT_ONE_IN, LEVELS

PURPOSE = {
    "draft": "Writes every reasoning step first. It is weak because it is small, not because its "
    "training was stopped: its learning rate fell to the end.",
    "reader": "Writes nothing in the loop: router and PRM judge a step by how it surprises this "
    "model, which reads it in one forward.",
    "target": "Rewrites the steps that a router sends to it. It is deep and narrow, because depth "
    "is what costs time a token at batch 1.",
}

CARD = """---
license: mit
library_name: transformers
pipeline_tag: text-generation
---

# Embedded {role} of langgraph-arbitrage

An arithmetic demo, not a language model. {purpose}

| | |
|---|---|
| parameters | {parameters:,} (LlamaForCausalLM, {layers} layers of width {width}, {heads} heads) |
| file | {megabytes:.2f} MB, fp16 |
| vocabulary | {vocabulary} (byte-level BPE, single digits), shared by all embedded models |
| context | 4096 tokens; trained on texts of at most 768 |
| time a token | {milliseconds:.2f} ms (batch 1, cached, eager, fp32, one thread of a shared \
server CPU) |

## Accuracy

Greedy, through plain transformers in fp32 from these fp16 weights, on held-out problems
(`embedded.problems({problems}, seed={seed})`); right means the right number in `\\boxed{{}}`.

| problems | n | right |
|---|---|---|
{accuracy}

Chats with names that training did not contain, {chats} of each kind, a turn counts where it is
exactly right (a tool call: the same names and arguments):

| kind | right |
|---|---|
{turns}

## Training

{tokens:.1f} million tokens ({steps} steps), {minutes:.0f} minutes on one shared CPU core, \
final loss {loss:.3f} (`training_log.jsonl`){growth}. \
Muon for matrices, AdamW for the rest, learning rate {lr}, falling in a line to 3 % over the last
{decay:.0%} of the steps; only what the assistant writes is trained. The first {copying} steps
practise copying alone (`make/copying.py`): random tokens, written again.{note}

All text is generated (`langgraph_arbitrage/embedded/problems.py`, `make/chats.py`): word problems
of 2 to 9 steps, {hard:.0%} of them with a remainder by a two-digit number that no embedded model
learns ("hard" above), and in one batch of {chat_every} short chats, tool use and JSON answers. One
problem in {held_out}, chosen by a hash of template and operands, never occurs in training, and
nothing of any public test suite does.

## Limits

It solves problems of the four stories it was trained on, with numbers up to 999, and little else.
Other wordings, larger numbers or more than nine steps fail; it knows no facts. Chat, tool use and
JSON are copying in learned forms: it calls a tool that is named in the request, with values that
stand there, as often as the table says. Reports of confidence hold for this text only.

## Make it again

```
python -m langgraph_arbitrage.embedded.make tokenizer
python -m langgraph_arbitrage.embedded.make train {role}
python -m langgraph_arbitrage.embedded.make write {role}
python -m langgraph_arbitrage.embedded.make evaluate {role}
```

Seeded and resumable; rounding differs between machines, so figures may by a little.
"""


def write_card(recipe: Recipe, folder: Path, measured: dict[str, Any]) -> None:
    """Write ``README.md`` and ``evaluation.json`` beside a checkpoint."""
    (folder / "evaluation.json").write_text(json.dumps(measured, indent=1) + "\n")
    log = [json.loads(row) for row in (folder / "training_log.jsonl").read_text().splitlines()]
    config = json.loads((folder / "config.json").read_text())
    rows = [
        ("without never-learned steps", measured["easy"]),
        ("with them only", measured["hard"]),
        ("all", measured["all"]),
        *(
            (f"level {x} ({low}–{high} steps), without", measured["levels"][str(x)])
            for x, (low, high) in LEVELS.items()
        ),
    ]
    grown = recipe.grow_at and (
        f"; the first {recipe.grow_at} steps with {recipe.grow_from} layers, then idle layers "
        "were added between them"
    )
    card = CARD.format(
        role=recipe.role,
        purpose=PURPOSE[recipe.role],
        parameters=measured["parameters"],
        layers=config["num_hidden_layers"],
        width=config["hidden_size"],
        heads=config["num_attention_heads"],
        megabytes=(folder / "model.safetensors").stat().st_size / 1e6,
        vocabulary=config["vocab_size"],
        milliseconds=measured["milliseconds"],
        problems=measured["all"]["n"],
        seed=SEED,
        accuracy="\n".join(f"| {t} | {m['n']} | {m['accuracy']:.1%} |" for t, m in rows),
        chats=CHATS,
        turns="\n".join(f"| {kind} | {x:.0%} |" for kind, x in measured["chats"].items()),
        tokens=log[-1]["tokens"] / 1e6,
        steps=log[-1]["step"],
        minutes=log[-1]["seconds"] / 60,
        loss=log[-1]["loss"],
        growth=grown or "",
        lr=recipe.lr,
        decay=recipe.decay,
        copying=recipe.copying,
        note=recipe.note,
        hard=HARD_SHARE,
        chat_every=CHAT_EVERY,
        held_out=HELD_OUT_ONE_IN,
    )
    (folder / "README.md").write_text(card)
