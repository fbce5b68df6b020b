"""The notice that the embedded models are a demo, printed in interactive terminals."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from langgraph_arbitrage import embedded

if TYPE_CHECKING:
    from langgraph_arbitrage.config.settings import ArbitrageSettings

__all__ = ["print_demo_notice"]

NOTICE = (
    "Note: the embedded models are a 0.1M/3M-parameter demo for generated word problems. "
    "Use --draft and --target for your own models."
)


def print_demo_notice(settings: ArbitrageSettings) -> None:
    """Print the notice on stderr if it is a terminal and the settings name the embedded pair."""
    is_embedded = (settings.draft, settings.target) == (embedded.DRAFT, embedded.TARGET)
    if is_embedded and sys.stderr.isatty():
        print(NOTICE, file=sys.stderr)
