"""Command-line options, derived from the declarations of the settings."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Mapping
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from langgraph_arbitrage import embedded
from langgraph_arbitrage.config.base import Flag
from langgraph_arbitrage.config.settings import ArbitrageSettings
from langgraph_arbitrage.errors import SettingsError
from langgraph_arbitrage.policies import Policy
from langgraph_arbitrage.policies.named import POLICIES, SCORER_ROLES

__all__ = ["ANSWERING", "MODELS", "SERVICE", "add_options", "add_setting_options", "config_of",
           "option_name", "settings_of"]  # fmt: skip

MODELS = ("models", "policy", "limits")
"""Option groups of every command that answers questions."""
ANSWERING = (*MODELS, "budgets", "sampling")
"""Option groups of a command that answers one question at a time."""
SERVICE = (*ANSWERING, "service")
"""Option groups of a command that answers many questions concurrently."""

_METAVARS = {int: "N", float: "X", str: "TEXT"}
_DEFAULTS = {embedded.DRAFT: "the embedded draft", embedded.TARGET: "the embedded target"}
_POLICY_LIST = "; ".join(
    f"{name}: {(inspect.getdoc(policy) or '').partition('.')[0]}"
    for name, policy in POLICIES.items()
)
# Other commands have a policy, a router and a PRM of their own: these have other destinations.
_POLICY_OPTIONS: dict[str, dict[str, Any]] = {
    "policy": {
        "choices": list(POLICIES),
        "dest": "policy_name",
        "help": f"Policy that decides which steps are escalated. {_POLICY_LIST}. (default: router "
        "if --router names one and for the embedded pair, confidence for a target on a server, "
        "else likelihood)",
    },
    "router": {
        "metavar": "CHECKPOINT",
        "dest": "policy_router",
        "help": "Trained router for --policy router: a folder or a hub id. (default: the embedded "
        "one for the embedded pair)",
    },
    "prm": {
        "metavar": "CHECKPOINT",
        "dest": "policy_prm",
        "help": "Process reward model for --policy rsd and oracle: a folder or a hub id. If its "
        "files do not tell its format, prefix it: rlhflow:NAME, math-shepherd:NAME. (default: the "
        "embedded one for the embedded pair)",
    },
}


def add_setting_options(parser: argparse.ArgumentParser, *wanted: str) -> None:
    """Add options for fields of `ArbitrageSettings`.

    Args:
        parser: The command's parser.
        wanted: Groups of options, or names of single fields.
    """
    if "policy" in wanted:
        for name, kind in _POLICY_OPTIONS.items():
            parser.add_argument(option_name(name), **{**kind, "help": _escaped(kind["help"])})
    for name, field in ArbitrageSettings.model_fields.items():
        flag = _flag(field)
        if flag is not None and (name in wanted or flag.group in wanted):
            parser.add_argument(option_name(name), default=None, **_kind(field))


def add_options(
    parser: argparse.ArgumentParser, configs: Mapping[str, type[BaseModel]] | type[BaseModel]
) -> None:
    """Add an option for each field of one or several pydantic models.

    Args:
        parser: The command's parser.
        configs: A model; or several by name, if a further option chooses between them. Then the
            help says which of them an option belongs to.
    """
    if not isinstance(configs, Mapping):
        configs = {"": configs}
    for name in dict.fromkeys(name for c in configs.values() for name in c.model_fields):
        fields = {k: c.model_fields[name] for k, c in configs.items() if name in c.model_fields}
        first = next(iter(fields.values()))
        kinds = {key: _kind(field) for key, field in fields.items()}
        kind = next(iter(kinds.values()))
        texts = {key: k["help"] for key, k in kinds.items()}
        if len(fields) < len(configs) or len(set(texts.values())) > 1:
            kind["help"] = " ".join(f"{key}: {text}" for key, text in texts.items())
        parser.add_argument(
            option_name(name), dest=name, required=first.is_required(), default=None, **kind
        )


def option_name(field: str) -> str:
    """The option that sets a field: `max_tokens` → `--max-tokens`."""
    return "--" + field.replace("_", "-")


def _flag(field: FieldInfo) -> Flag | None:
    return next((m for m in field.metadata if isinstance(m, Flag)), None)


def _kind(field: FieldInfo) -> dict[str, Any]:
    """Arguments of `add_argument` that follow from a field's annotation and flag."""
    flag = _flag(field) or Flag("")
    kind: Any = field.annotation
    if get_origin(kind) in (UnionType, Union):
        kind = next(k for k in get_args(kind) if k is not type(None))
    found: dict[str, Any] = {"help": _help(field, flag)}
    if get_origin(kind) is Literal:
        choices = get_args(kind)
        return found | {"choices": choices, "type": type(choices[0])}
    if kind is bool:
        return found | {"action": argparse.BooleanOptionalAction}
    if flag.repeat:
        found["action"] = "append"
    plain = kind if kind in _METAVARS else str
    return found | {
        "type": plain if flag.parse is None else _reported(flag.parse),
        "metavar": flag.metavar or _METAVARS[plain],
    }


def _reported(parse: Any) -> Any:
    """Wrap a value parser so that argparse prints its whole error message."""

    def parsed(text: str) -> Any:
        try:
            return parse(text)
        except (ValueError, OSError) as error:
            raise argparse.ArgumentTypeError(f"{text!r}: {error}") from None

    return parsed


def _help(field: FieldInfo, flag: Flag) -> str:
    """Return the description and the default of a field."""
    text = " ".join((field.description or "").split()) + flag.note
    default = field.default
    if flag.repeat:
        text += " May be given several times."
    if not field.is_required() and default is not None and not field.default_factory:
        if isinstance(default, bool):
            default = "yes" if default else "no"
        elif isinstance(default, tuple):
            default = " ".join(text.encode("unicode_escape").decode() for text in default)
        text += f" (default: {_DEFAULTS.get(default, default)})"
    return _escaped(text)


def _escaped(text: str) -> str:
    return text.replace("%", "%%")  # argparse formats help texts


def settings_of(args: argparse.Namespace, **others: Any) -> ArbitrageSettings:
    """The settings that a command line asks for.

    Args:
        args: The command line.
        others: Further settings, which win over the options.

    Raises:
        SettingsError: A value is outside its range.
    """
    given = {
        n: v
        for n in ArbitrageSettings.model_fields
        if n != "router" and (v := getattr(args, n, None)) is not None
    }
    if "router" not in others and "policy_name" in args:
        given["router"] = _policy_of(args)
    return ArbitrageSettings(**given | others)


_Config = TypeVar("_Config", bound=BaseModel)


def config_of(
    args: argparse.Namespace, config: type[_Config], others: Mapping[str, type[BaseModel]] = {}
) -> _Config:
    """The pydantic model that a command line asks for.

    Args:
        args: The command line.
        config: The model.
        others: Further models whose options the command has, by name.

    Raises:
        SettingsError: A value is outside its range, or an option belongs to another model.
    """
    given = {n: v for n in config.model_fields if (v := getattr(args, n, None)) is not None}
    for kind, other in others.items():
        for name in other.model_fields.keys() - config.model_fields.keys():
            if getattr(args, name, None) is not None:
                raise SettingsError(f"{option_name(name)} is an option of {kind} only")
    try:
        return config(**given)
    except ValidationError as error:
        first = error.errors()[0]
        option = option_name("-".join(map(str, first["loc"])))
        raise SettingsError(f"{option} {first['input']}: {first['msg']}") from None


def _policy_of(args: argparse.Namespace) -> Policy | None:
    """The policy that is named; None for the default."""
    checkpoints = {"router": args.policy_router, "prm": args.policy_prm}
    name = args.policy_name or ("router" if checkpoints["router"] else None)
    needed = SCORER_ROLES.get(name or "")
    for option, checkpoint in checkpoints.items():
        if checkpoint and option != needed:
            users = " and ".join(policy for policy, kind in SCORER_ROLES.items() if kind == option)
            raise SettingsError(
                f"{f'--policy {name}' if name else 'the default policy'} does not use --{option}; "
                f"--policy {users} does"
            )
    if name is None:
        return None
    if needed is None:
        return POLICIES[name]()
    pair = (args.draft or embedded.DRAFT, args.target or embedded.TARGET)
    if not checkpoints[needed] and pair == (embedded.DRAFT, embedded.TARGET):
        checkpoints[needed] = f"embedded:{needed}"
    if not checkpoints[needed]:
        command = "train-router" if needed == "router" else "train-prm"
        raise SettingsError(
            f"--policy {name} needs --{needed} CHECKPOINT, such as `arbitrage {command}` makes"
        )
    return POLICIES[name](checkpoints[needed])  # type: ignore[call-arg]
