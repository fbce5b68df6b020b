"""Settings that no longer exist, refused by name."""

from __future__ import annotations

from collections.abc import Iterable

from langgraph_arbitrage.errors import SettingsError

__all__ = ["refuse_removed"]

REMOVED = {
    "speculate": "The target verifies the draft's step in any case, and speculating further within "
    "an escalated step gained less than 1.2 times on real models. Leave the setting out",
}


def refuse_removed(names: Iterable[str]) -> None:
    """Raise if a name is that of a removed setting.

    Raises:
        SettingsError: Names the removed setting, the reason and what to do.
    """
    for name in names:
        if reason := REMOVED.get(name.strip("-").replace("-", "_")):
            raise SettingsError(f"{name} was removed. {reason}.")
