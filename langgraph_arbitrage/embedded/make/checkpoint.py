"""Convert a training run to a checkpoint folder in the format of transformers."""

import shutil
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerFast

from langgraph_arbitrage.embedded.make.model import config, to_hugging_face
from langgraph_arbitrage.embedded.make.recipes import Recipe


def write_checkpoint(
    recipe: Recipe, tokenizer: PreTrainedTokenizerFast, runs: Path, folder: Path
) -> None:
    """Write the model (fp16), tokenizer and training log of a run, which may be unfinished."""
    state = torch.load(runs / recipe.role / "checkpoint.pt")
    weights = state["weights"]
    cfg = config(recipe.width, len(weights["q"]), recipe.heads, len(tokenizer))
    to_hugging_face(weights, cfg).half().save_pretrained(folder)
    # transformers makes the file readable for its owner only.
    (folder / "model.safetensors").chmod(0o644)
    tokenizer.save_pretrained(folder)
    shutil.copy(runs / recipe.role / "log.jsonl", folder / "training_log.jsonl")
