"""Make the embedded models: ``python -m langgraph_arbitrage.embedded.make --help``."""

import argparse
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerFast

from langgraph_arbitrage.embedded.make.card import write_card
from langgraph_arbitrage.embedded.make.checkpoint import write_checkpoint
from langgraph_arbitrage.embedded.make.evaluate import evaluate
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
    parser.add_argument(
        "what",
        choices=("tokenizer", "train", "write", "evaluate"),
        help="train: take up or start a run; write: put its checkpoint, finished or not, into the "
        "package; evaluate: measure what is in the package and write its card",
    )
    parser.add_argument("role", nargs="?", choices=sorted(RECIPES), help="which model")
    parser.add_argument("--runs", type=Path, default=Path("build/embedded"),
                        help="folder of checkpoints and logs (default: %(default)s)")  # fmt: skip
    parser.add_argument("-n", type=int, default=1000,
                        help="held-out problems to evaluate on (default: %(default)s)")  # fmt: skip
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.what == "tokenizer":
        train_tokenizer(tokenizer_text(), VOCABULARY).save_pretrained(options.runs / "tokenizer")
        return
    if options.role is None:
        parser.error(f"{options.what} needs a role: {', '.join(sorted(RECIPES))}")
    recipe, tokenizer = RECIPES[options.role], _tokenizer(options.runs)
    if options.what == "train":
        train(recipe, tokenizer, options.runs)
    elif options.what == "write":
        write_checkpoint(recipe, tokenizer, options.runs, PACKAGE / recipe.role)
    else:
        write_card(recipe, PACKAGE / recipe.role, evaluate(PACKAGE / recipe.role, options.n))


if __name__ == "__main__":
    main()
