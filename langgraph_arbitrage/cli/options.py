"""Options of the command line from the fields of `ArbitrageSettings`: one text for both."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from langgraph_arbitrage import embedded
from langgraph_arbitrage.cli.text import unescape
from langgraph_arbitrage.policies import AlwaysDraft, AlwaysTarget, DraftConfidence, Policy, Random
from langgraph_arbitrage.settings import ArbitrageSettings

__all__ = ["LIMITS", "MODELS", "POLICIES", "SAMPLING", "add_options", "settings_of"]

POLICIES: dict[str, type[Policy]] = {
    "confidence": DraftConfidence,
    "random": Random,
    "draft": AlwaysDraft,
    "target": AlwaysTarget,
}
"""What `--policy` may name."""

MODELS = ("draft", "target", "policy", "threshold", "device", "dtype", "chat_template")
LIMITS = ("max_tokens", "max_steps", "max_target_tokens", "max_seconds", "at_limit")
SAMPLING = ("temperature", "top_p", "top_k", "seed", "separator")


def _read(file: str) -> str:
    try:
        return Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise argparse.ArgumentTypeError(f"{file} cannot be read: {error}") from None


_KINDS: dict[str, dict[str, Any]] = {
    "draft": {"metavar": "MODEL"},
    "target": {"metavar": "MODEL"},
    "policy": {"choices": list(POLICIES), "dest": "router"},
    "threshold": {"type": float, "metavar": "X"},
    "chat_template": {"type": _read, "metavar": "FILE"},
    "max_tokens": {"type": int, "metavar": "N"},
    "max_steps": {"type": int, "metavar": "N"},
    "max_target_tokens": {"type": int, "metavar": "N"},
    "max_seconds": {"type": float, "metavar": "S"},
    "at_limit": {"choices": ["end", "draft"]},
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
_MORE_HELP = {
    "policy": f" {_POLICY_HELP}.",
    "separator": " Escapes such as \\n are understood; give the option again for one more.",
}


def add_options(parser: argparse.ArgumentParser, names: Sequence[str]) -> None:
    """Add an option for each of these settings, with the setting's own text and default."""
    for name in names:
        kind = _KINDS.get(name, {})
        field = ArbitrageSettings.model_fields[kind.get("dest", name)]
        text = (field.description or "") + _MORE_HELP.get(name, "")
        if field.default is not None:
            text += f" (default: {_shown(field.default)})"
        flag = "--" + name.replace("_", "-")
        parser.add_argument(flag, help=text.replace("%", "%%"), **kind)


def settings_of(args: argparse.Namespace, **others: Any) -> ArbitrageSettings:
    """The settings that the arguments ask for.

    Raises:
        SettingsError: One is outside its range.
    """
    given = {
        n: v for n in ArbitrageSettings.model_fields if (v := getattr(args, n, None)) is not None
    }
    if "router" in given:
        given["router"] = POLICIES[given["router"]]()
    return ArbitrageSettings(**given, **others)


def _shown(default: Any) -> str:
    """A default as one would type it."""
    if isinstance(default, tuple):
        return " ".join(text.encode("unicode_escape").decode() for text in default)
    return str(_NAMED_DEFAULTS.get(default, default))
