"""The `arbitrage` command: one module per subcommand."""

from langgraph_arbitrage.cli.program import main

__all__ = ["main"]
