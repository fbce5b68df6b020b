"""`arbitrage fit`: says whether two models fit the memory, before their weights are downloaded."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from langgraph_arbitrage.cli.options import add_setting_options, settings_of
from langgraph_arbitrage.errors import SettingsError
from langgraph_arbitrage.remote.address import parse_address

if TYPE_CHECKING:
    import torch

    from langgraph_arbitrage.models.fit import MemoryNeeds

__all__ = ["add_command"]


def add_command(commands: Any) -> None:
    """Add the subcommand."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "fit",
        help="say whether two models fit the memory",
        description="Compute the memory that two models and their KV caches need, and compare it "
        "with the free memory. Only the configs are read; no weights are downloaded. The exit "
        "status is 1 if the models do not fit.",
    )
    parser.add_argument("draft", metavar="DRAFT", help="The draft: a folder, GGUF file or hub id.")
    parser.add_argument("target", metavar="TARGET", help="The target: the same.")
    parser.add_argument(
        "--concurrency",
        type=int,
        default=8,
        metavar="N",
        help="Answers in progress at a time. (default: 8)",
    )
    parser.add_argument(
        "--tokens",
        type=int,
        default=4096,
        metavar="N",
        help="Tokens of a prompt and its answer. (default: 4096)",
    )
    add_setting_options(parser, "device", "dtype")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the memory needs and what to change if they exceed the free memory."""
    from rich.console import Console

    from langgraph_arbitrage.loop.models import Models
    from langgraph_arbitrage.models.fit import memory_needs
    from langgraph_arbitrage.models.memory import free_bytes

    for name in ("concurrency", "tokens"):
        if getattr(args, name) < 1:
            raise SettingsError(f"--{name} must be at least 1, not {getattr(args, name)}")
    models = Models(settings_of(args, draft=args.draft, target=args.target))
    specs = {
        role: models.spec(role)  # type: ignore[arg-type]
        for role, path in (("draft", args.draft), ("target", args.target))
        if not parse_address(path)
    }
    needs = {role: memory_needs(spec) for role, spec in specs.items()}
    console, fits = Console(soft_wrap=True), True
    console.print(_table(needs, args))
    console.print(f"KV cache: {args.concurrency} sequences of {args.tokens:,} tokens.")
    for device in dict.fromkeys(need.device for need in needs.values()):
        here = [need for need in needs.values() if need.device == device]
        total = sum(need.total(args.concurrency, args.tokens) for need in _distinct(here))
        free = free_bytes(device)
        console.print(f"{device}: {_gib(total)} needed, {_gib(free)} free.")
        if total > free:
            fits = False
            console.print("It does not fit. Options:")
            for option in _options(here, device, args, free):
                console.print(f"- {option}")
    if fits:
        console.print("It fits.")
    return 0 if fits else 1


def _table(needs: dict[str, MemoryNeeds], args: argparse.Namespace) -> Any:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(
        "", "model", "weights", "KV cache", "dtype", "parameters", "context", box=SIMPLE_HEAD
    )
    for role, need in needs.items():
        table.add_row(
            role,
            need.name,
            _gib(need.weights),
            _gib(need.cache(args.concurrency, args.tokens)),
            str(need.dtype).removeprefix("torch.") + (", quantized" if need.quantized else ""),
            f"{need.parameters / 1e9:.2f}B",
            "no limit" if need.context is None else f"{need.context:,}",
        )
    return table


def _distinct(needs: list[MemoryNeeds]) -> list[MemoryNeeds]:
    """A model that is both draft and target is loaded once."""
    return list({need.name: need for need in needs}.values())


def _options(
    needs: list[MemoryNeeds], device: torch.device, args: argparse.Namespace, free: int
) -> list[str]:
    """What would make the models fit, those that suffice by themselves first."""
    found: list[tuple[int, str]] = []
    models = _distinct(needs)

    def total(concurrency: int, factor: float = 1.0) -> int:
        return int(sum(factor * need.total(concurrency, args.tokens) for need in models))

    if any(need.dtype.itemsize > 2 for need in models):
        found.append((total(args.concurrency, 0.5), "--dtype bfloat16"))
    if args.concurrency > 1:
        found.append((total(1), "one answer at a time (--concurrency 1, max_slots=1)"))
    weights = max(models, key=lambda need: need.weights)
    if not weights.quantized:
        saved = int(weights.weights * (1 - 4.5 / (8 * weights.dtype.itemsize)))
        text = (
            f"a checkpoint of {weights.name} with 4 bits a weight, such as AWQ or GPTQ, or "
            "model_kwargs={'quantization_config': …}"
        )
        found.append((total(args.concurrency) - saved, text))
    texts = [
        f"{text}: {_gib(needed)}, which {'fits' if needed <= free else 'does not suffice alone'}"
        for needed, text in sorted(found)
    ]
    texts.append("a smaller model")
    if device.type == "cuda":
        texts.append("target_kwargs={'device_map': 'auto'} to distribute it over all devices")
    return texts


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB"
