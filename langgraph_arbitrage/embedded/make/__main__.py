"""Train, write and evaluate the embedded models."""

import argparse
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerFast

from langgraph_arbitrage.embedded.make.card import write_card
from langgraph_arbitrage.embedded.make.checkpoint import write_checkpoint
from langgraph_arbitrage.embedded.make.evaluate import evaluate
from langgraph_arbitrage.embedded.make.recipes import RECIPES, VOCABULARY
from langgraph_arbitrage.embedded.make.text import tokenizer_texts
from langgraph_arbitrage.embedded.make.tokenizer import train_tokenizer
from langgraph_arbitrage.embedded.make.train import train

PACKAGE = Path(__file__).parent.parent


def _load_tokenizer(runs: Path) -> PreTrainedTokenizerFast:
    loaded = PreTrainedTokenizerFast.from_pretrained(runs / "tokenizer")
    if not isinstance(loaded, PreTrainedTokenizerFast):
        raise TypeError(
            f"{runs / 'tokenizer'} is not a fast tokenizer: run the command `tokenizer` first"
        )
    return loaded


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m langgraph_arbitrage.embedded.make", description=__doc__
    )
    parser.add_argument(
        "command",
        choices=("tokenizer", "train", "write", "evaluate"),
        help="tokenizer: train the shared tokenizer; train: start or resume a training run; write: "
        "write the latest checkpoint of a run to the package; evaluate: evaluate the checkpoint in "
        "the package and write its model card",
    )
    parser.add_argument(
        "role", nargs="?", choices=sorted(RECIPES), help="model to work on; not used by tokenizer"
    )
    parser.add_argument(
        "--runs",
        type=Path,
        default=Path("build/embedded"),
        help="folder of the training runs and the tokenizer (default: %(default)s)",
    )
    parser.add_argument(
        "-n",
        type=int,
        default=1000,
        help="number of held-out problems for evaluate (default: %(default)s)",
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.command == "tokenizer":
        train_tokenizer(tokenizer_texts(), VOCABULARY).save_pretrained(options.runs / "tokenizer")
        return
    if options.role is None:
        parser.error(f"{options.command} needs a role, one of: {', '.join(sorted(RECIPES))}")
    recipe, tokenizer = RECIPES[options.role], _load_tokenizer(options.runs)
    if options.command == "train":
        train(recipe, tokenizer, options.runs)
    elif options.command == "write":
        write_checkpoint(recipe, tokenizer, options.runs, PACKAGE / recipe.role)
    else:
        write_card(recipe, PACKAGE / recipe.role, evaluate(PACKAGE / recipe.role, options.n))


if __name__ == "__main__":
    main()
