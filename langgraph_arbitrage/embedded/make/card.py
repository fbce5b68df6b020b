"""Write the model card of an embedded model from its evaluation."""

import json
from pathlib import Path
from typing import Any

from langgraph_arbitrage.embedded.make.data import CHAT_EVERY
from langgraph_arbitrage.embedded.make.evaluate import CHATS, SEED
from langgraph_arbitrage.embedded.make.recipes import Recipe
from langgraph_arbitrage.embedded.problems import HARD_SHARE, HELD_OUT_ONE_IN, LEVELS

PURPOSE = {
    "draft": "It writes the first version of every reasoning step. Its accuracy is limited by its "
    "size, not by its training: the learning rate decayed to the end of the schedule.",
    "reader": "It does not generate text in the loop. The router and the PRM score a step by how "
    "much it surprises this model, with one forward pass per step.",
    "target": "It rewrites the steps that the router escalates. It is deep and narrow, because the "
    "depth determines the time per token at batch size 1.",
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
| vocabulary | {vocabulary} tokens (byte-level BPE, single digits), shared by all embedded models |
| context length | 4096 tokens; trained on texts of up to 768 |
| time per token | {milliseconds:.2f} ms (batch size 1, KV cache, eager, fp32, one thread of a \
shared server CPU) |

## Accuracy

Measured with transformers and greedy decoding, in fp32 from these fp16 weights, on held-out
problems (`embedded.problems({problems}, seed={seed})`). An answer is right if `\\boxed{{}}` holds
the right number. A problem is hard if it needs the remainder of a division by a two-digit number,
which no embedded model has learned.

| problems | n | right |
|---|---|---|
{accuracy}

The chats use names that do not occur in training, {chats} chats of each kind. A turn is right if it
equals the reference exactly; a tool call is right if its names and arguments do.

| kind of turn | right |
|---|---|
{turns}

## Training

- Duration: {tokens:.1f} million tokens ({steps} steps) in {minutes:.0f} minutes on one core of a
  shared CPU. The final loss is {loss:.3f} (`training_log.jsonl`).{growth}
- Optimizer: Muon for matrices, AdamW for all other weights. The learning rate is {lr}, with a
  linear decay to 3 % over the last {decay:.0%} of the steps. Only the assistant's tokens contribute
  to the loss.
- Copying: in the first {copying} steps the model only learns to copy random tokens
  (`make/copying.py`).
{note}
All text is generated (`langgraph_arbitrage/embedded/problems.py`, `make/chats.py`). Most batches
hold word problems of 2 to 9 steps, {hard:.0%} of them hard. One batch in {chat_every} holds short
chats, tool use and JSON answers. One problem in {held_out}, chosen by a hash of template and
operands, is held out of training. The training text contains nothing from public test suites.

## Limitations

The model solves problems of the four stories in its training text, with numbers up to 999. It fails
on other wordings, on larger numbers and on more than nine steps, and it knows no facts. In chats,
tool calls and JSON answers it copies words and values of the request into fixed formats, with the
accuracy in the table. It can call only a tool that the request names. Its token probabilities are
meaningful only on this kind of text.

## Reproduction

```
python -m langgraph_arbitrage.embedded.make tokenizer
python -m langgraph_arbitrage.embedded.make train {role}
python -m langgraph_arbitrage.embedded.make write {role}
python -m langgraph_arbitrage.embedded.make evaluate {role}
```

Training is seeded and resumable. Rounding differs between machines, so results may differ slightly.
"""


def write_card(recipe: Recipe, folder: Path, evaluation: dict[str, Any]) -> None:
    """Write ``README.md`` and ``evaluation.json`` into a checkpoint folder."""
    (folder / "evaluation.json").write_text(json.dumps(evaluation, indent=1) + "\n")
    log = [json.loads(row) for row in (folder / "training_log.jsonl").read_text().splitlines()]
    config = json.loads((folder / "config.json").read_text())
    rows = [
        ("not hard", evaluation["easy"]),
        ("hard", evaluation["hard"]),
        ("all", evaluation["all"]),
        *(
            (f"level {x} ({low}–{high} steps), not hard", evaluation["levels"][str(x)])
            for x, (low, high) in LEVELS.items()
        ),
    ]
    growth = (
        f"\n- Depth: the first {recipe.grow_at} steps used {recipe.grow_from} layers. Then the "
        "other layers were\n  inserted between them, initialized as the identity."
        if recipe.grow_at
        else ""
    )
    card = CARD.format(
        role=recipe.role,
        purpose=PURPOSE[recipe.role],
        parameters=evaluation["parameters"],
        layers=config["num_hidden_layers"],
        width=config["hidden_size"],
        heads=config["num_attention_heads"],
        megabytes=(folder / "model.safetensors").stat().st_size / 1e6,
        vocabulary=config["vocab_size"],
        milliseconds=evaluation["milliseconds"],
        problems=evaluation["all"]["n"],
        seed=SEED,
        accuracy="\n".join(f"| {t} | {m['n']} | {m['accuracy']:.1%} |" for t, m in rows),
        chats=CHATS,
        turns="\n".join(f"| {kind} | {x:.0%} |" for kind, x in evaluation["chats"].items()),
        tokens=log[-1]["tokens"] / 1e6,
        steps=log[-1]["step"],
        minutes=log[-1]["seconds"] / 60,
        loss=log[-1]["loss"],
        growth=growth,
        lr=recipe.lr,
        decay=recipe.decay,
        copying=recipe.copying,
        note=f"- {recipe.note}\n" if recipe.note else "",
        hard=HARD_SHARE,
        chat_every=CHAT_EVERY,
        held_out=HELD_OUT_ONE_IN,
    )
    (folder / "README.md").write_text(card)
