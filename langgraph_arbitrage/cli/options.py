"""Options of the command line from the fields of `ArbitrageSettings`: one text for both."""

from __future__ import annotations

import argparse
import inspect
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from langgraph_arbitrage import embedded
from langgraph_arbitrage.cli.text import unescape
from langgraph_arbitrage.errors import SettingsError
from langgraph_arbitrage.policies import Policy
from langgraph_arbitrage.policies.calibration import parse
from langgraph_arbitrage.policies.named import POLICIES, SCORED
from langgraph_arbitrage.settings import ArbitrageSettings

__all__ = [
    "BUDGETS",
    "LIMITS",
    "MANY",
    "MODELS",
    "SAMPLING",
    "add_options",
    "add_setting",
    "settings_of",
]

MODELS = (
    *("draft", "target", "policy", "router", "prm", "threshold"),
    *("first_steps", "escalate_repeats", "max_target_share"),
    *("device", "dtype", "engine", "cuda_graphs", "draft_kwargs", "target_kwargs", "chat_template"),
)
LIMITS = ("max_tokens", "max_steps")
BUDGETS = ("max_target_tokens", "max_seconds", "at_limit")
SAMPLING = ("temperature", "top_p", "top_k", "seed", "separator")
MANY = (*MODELS, *LIMITS, *BUDGETS, "timeout", *SAMPLING, "batch_invariant")
"""Of a command that answers many questions at a time."""


def _read(file: str) -> str:
    try:
        return Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise argparse.ArgumentTypeError(f"{file} cannot be read: {error}") from None


def _json(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text} is no JSON: {error}") from None
    if not isinstance(found, dict):
        raise argparse.ArgumentTypeError(f"{text} is no JSON object, such as {{}}")
    return found


def _threshold(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        pass
    try:
        parse(text)
    except SettingsError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


_KINDS: dict[str, dict[str, Any]] = {
    "draft": {"metavar": "MODEL"},
    "target": {"metavar": "MODEL"},
    # Other commands have a policy, a router and a PRM of their own: these go by other names.
    "policy": {"choices": list(POLICIES), "dest": "policy_name"},
    "router": {"metavar": "CHECKPOINT", "dest": "policy_router"},
    "prm": {"metavar": "CHECKPOINT", "dest": "policy_prm"},
    "threshold": {"type": _threshold, "metavar": "X"},
    "first_steps": {"type": int, "metavar": "K"},
    "escalate_repeats": {"action": "store_true", "default": None},
    "max_target_share": {"type": float, "metavar": "S"},
    "engine": {"choices": ["auto", "eager", "plain"]},
    "cuda_graphs": {"action": argparse.BooleanOptionalAction},
    "draft_kwargs": {"type": _json, "metavar": "JSON"},
    "target_kwargs": {"type": _json, "metavar": "JSON"},
    "chat_template": {"type": _read, "metavar": "FILE"},
    "max_tokens": {"type": int, "metavar": "N"},
    "max_steps": {"type": int, "metavar": "N"},
    "max_target_tokens": {"type": int, "metavar": "N"},
    "max_seconds": {"type": float, "metavar": "S"},
    "at_limit": {"choices": ["end", "draft"]},
    "timeout": {"type": float, "metavar": "SECONDS"},
    "batch_invariant": {"action": "store_true", "default": None},
    "temperature": {"type": float, "metavar": "T"},
    "top_p": {"type": float, "metavar": "P"},
    "top_k": {"type": int, "metavar": "K"},
    "seed": {"type": int, "metavar": "N"},
    "separator": {"type": unescape, "action": "append", "metavar": "TEXT"},
}
_NAMED_DEFAULTS = {embedded.DRAFT: "the embedded draft", embedded.TARGET: "the embedded target"}
_POLICY_HELP = "; ".join(
    f"{name}: {(inspect.getdoc(policy) or '').partition('.')[0]}"
    for name, policy in POLICIES.items()
)
_HELP = {
    "policy": f"Policy that decides which steps are escalated. {_POLICY_HELP}. (default: router "
    "where --router names one and for the embedded pair, else confidence)",
    "router": "Checkpoint of a trained router, a folder or a hub id, for --policy router. "
    "(default: the embedded one for the embedded pair)",
    "prm": "Checkpoint of a process reward model, a folder or a hub id, for --policy rsd and "
    "oracle. A kind that its files do not tell stands before it: rlhflow:NAME, math-shepherd:NAME. "
    "(default: the embedded one for the embedded pair)",
}
_MORE_HELP = {
    "draft_kwargs": """ (such as '{"quantization_config": {"load_in_4bit": true}}')""",
    "target_kwargs": """ (such as '{"device_map": "auto"}')""",
    "separator": " Escapes such as \\n are understood; give the option again for one more.",
}


def add_options(parser: argparse.ArgumentParser, names: Sequence[str]) -> None:
    """Add an option for each of these settings, with the setting's own text and default."""
    for name in names:
        kind = _KINDS.get(name, {})
        text = _HELP.get(name) or _text_of(name)
        flag = "--" + name.replace("_", "-")
        parser.add_argument(flag, help=text.replace("%", "%%"), **kind)


def add_setting(
    parser: argparse.ArgumentParser, settings: type[BaseModel], name: str, **kind: Any
) -> None:
    """Add an option for a field of some settings, with the field's own text and default."""
    field = settings.model_fields[name]
    text = " ".join((field.description or "").split())
    if field.default and not isinstance(field.default, bool):
        text += f" (default: {field.default})"
    kind.setdefault("default", field.default)
    parser.add_argument("--" + name.replace("_", "-"), help=text.replace("%", "%%"), **kind)


def settings_of(args: argparse.Namespace, **others: Any) -> ArbitrageSettings:
    """The settings that the arguments ask for.

    Raises:
        SettingsError: One is outside its range.
    """
    given = {
        n: v
        for n in ArbitrageSettings.model_fields
        if n != "router" and (v := getattr(args, n, None)) is not None
    }
    if "router" not in others and "policy_name" in args:
        given["router"] = _policy_of(args)
    return ArbitrageSettings(**given | others)


def _policy_of(args: argparse.Namespace) -> Policy | None:
    """The policy that is named; None leaves the default."""
    named = {"router": args.policy_router, "prm": args.policy_prm}
    name = args.policy_name or ("router" if named["router"] else None)
    option = SCORED.get(name or "")
    for other, checkpoint in named.items():
        if checkpoint and other != option:
            users = " and ".join(policy for policy, needed in SCORED.items() if needed == other)
            raise SettingsError(
                f"{f'--policy {name}' if name else 'the default policy'} does not use --{other}; "
                f"--policy {users} does"
            )
    if name is None:
        return None
    if option is None:
        return POLICIES[name]()
    pair = (args.draft or embedded.DRAFT, args.target or embedded.TARGET)
    if not named[option] and pair == (embedded.DRAFT, embedded.TARGET):
        named[option] = f"embedded:{option}"
    if not named[option]:
        made = "train-router" if option == "router" else "train-prm"
        raise SettingsError(
            f"--policy {name} needs --{option} CHECKPOINT, such as `arbitrage {made}` makes"
        )
    return POLICIES[name](named[option])  # type: ignore[call-arg]


def _text_of(name: str) -> str:
    """The text under a setting, and its default."""
    field = ArbitrageSettings.model_fields[name]
    text = (field.description or "") + _MORE_HELP.get(name, "")
    if field.default is not None and field.annotation is not bool and not field.default_factory:
        text += f" (default: {_shown(field.default)})"
    return text


def _shown(default: Any) -> str:
    """A default as one would type it."""
    if isinstance(default, tuple):
        return " ".join(text.encode("unicode_escape").decode() for text in default)
    return str(_NAMED_DEFAULTS.get(default, default))
