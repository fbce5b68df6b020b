"""`arbitrage train-router` and `train-prm`: train a step scorer on collected rows."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from langgraph_arbitrage.cli.collect import progress_bar
from langgraph_arbitrage.cli.options import add_options, add_setting_options, config_of
from langgraph_arbitrage.training.configs import SurpriseConfig, TokenConfig

if TYPE_CHECKING:
    from langgraph_arbitrage.training import TrainingData

__all__ = ["add_command"]

HEADS: dict[str, type[TokenConfig] | type[SurpriseConfig]] = {
    "token": TokenConfig,
    "surprise": SurpriseConfig,
}
Role = Literal["router", "prm"]
DESCRIPTIONS: dict[Role, str] = {
    "router": "Train a router for one pair of models on rows of `arbitrage collect`.",
    "prm": "Train a process reward model on labelled steps (columns question, history, step and "
    "correct), or on rows of `arbitrage collect`, whose scores serve as labels.",
}


def add_command(commands: Any) -> None:
    """Add both subcommands."""
    for role, description in DESCRIPTIONS.items():
        parser: argparse.ArgumentParser = commands.add_parser(
            f"train-{role}",
            help="train a router" if role == "router" else "train a process reward model",
            description=f"{description} Repeating the command resumes an interrupted training.",
        )
        _add_options(parser, role)
        parser.set_defaults(run=run, role=role)


def _add_options(parser: argparse.ArgumentParser, role: Role) -> None:
    parser.add_argument(
        "rows",
        nargs="+",
        type=Path,
        metavar="ROWS",
        help="Files with training rows: .jsonl or .parquet.",
    )
    parser.add_argument(
        "--head",
        choices=list(HEADS),
        required=True,
        help="token: fine-tune the base model as a token classifier, as in the paper. surprise: "
        "train a small network on features of a frozen causal LM, which takes minutes on a CPU.",
    )
    parser.add_argument(
        "--base",
        required=True,
        metavar="MODEL",
        help="Base model: a local folder, a hub id, or embedded:draft.",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="Folder to which the checkpoint is written.",
    )
    if role == "router":
        parser.add_argument(
            "--margin",
            type=float,
            metavar="X",
            help="Label a row y = 1 if its advantage exceeds this. (default: use the labels "
            "stored in the rows)",
        )
    else:
        parser.add_argument(
            "--right",
            type=float,
            default=0.5,
            metavar="X",
            help="Label a step of a collected row as right if its score is at least this. "
            "(default: 0.5)",
        )
    parser.add_argument(
        "--push-to-hub",
        metavar="REPO",
        help="Also upload the checkpoint to this repository on the hub. (default: no upload)",
    )
    add_setting_options(parser, "device")
    add_options(parser, HEADS)


def run(args: argparse.Namespace) -> None:
    """Train, then print the metrics."""
    config = config_of(args, HEADS[args.head], HEADS)

    from langgraph_arbitrage.training import Job, is_main_process, push_to_hub, train

    job = Job(
        data=_data(args),
        base=args.base,
        output=args.output,
        config=config,
        device=args.device or "auto",
    )
    with progress_bar() as progress:
        task = progress.add_task("Training", total=None)
        record = train(job, lambda done, total: progress.update(task, completed=done, total=total))
    if not is_main_process():
        return
    print(f"{job.output}: trained on {record.rows:,} rows")
    if record.too_long:
        print(f"Excluded because they exceed the base model's context: {record.too_long:,} rows")
    for name, value in record.formatted_metrics():
        print(f"  {name:32} {value}")
    if args.push_to_hub is not None:
        print(push_to_hub(job, args.push_to_hub))


def _data(args: argparse.Namespace) -> TrainingData:
    from langgraph_arbitrage.training import (
        prm_examples,
        read_labelled_steps,
        read_rows,
        router_examples,
    )

    if args.role == "router":
        return router_examples(read_rows(args.rows), args.margin)
    return prm_examples(read_labelled_steps(args.rows), args.right)
