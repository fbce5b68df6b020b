"""Make the embedded models: ``python -m langgraph_arbitrage.embedded.make --help``."""

import argparse
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerFast

from langgraph_arbitrage.embedded.make.checkpoint import write_checkpoint
from langgraph_arbitrage.embedded.make.recipes import RECIPES, VOCABULARY
from langgraph_arbitrage.embedded.make.text import tokenizer_text
from langgraph_arbitrage.embedded.make.tokenizer import train_tokenizer
from langgraph_arbitrage.embedded.make.train import train

PACKAGE = Path(__file__).parent.parent


def _tokenizer(runs: Path) -> PreTrainedTokenizerFast:
    loaded = PreTrainedTokenizerFast.from_pretrained(runs / "tokenizer")
    if not isinstance(loaded, PreTrainedTokenizerFast):
        raise TypeError(f"{runs / 'tokenizer'} holds no fast tokenizer: make it first")
    return loaded


def main() -> None:
    """Parse the command line and do what it says."""
    parser = argparse.ArgumentParser(
        prog="python -m langgraph_arbitrage.embedded.make", description=__doc__
    )
    parser.add_argument("what", choices=("tokenizer", "train", "write"))
    parser.add_argument("role", nargs="?", choices=sorted(RECIPES))
    parser.add_argument("--runs", type=Path, default=Path("build/embedded"),
                        help="folder of checkpoints and logs (default: %(default)s)")  # fmt: skip
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.what == "tokenizer":
        train_tokenizer(tokenizer_text(), VOCABULARY).save_pretrained(options.runs / "tokenizer")
        return
    recipe, tokenizer = RECIPES[options.role], _tokenizer(options.runs)
    if options.what == "train":
        train(recipe, tokenizer, options.runs)
    else:
        write_checkpoint(recipe, tokenizer, options.runs, PACKAGE / recipe.role)


if __name__ == "__main__":
    main()
