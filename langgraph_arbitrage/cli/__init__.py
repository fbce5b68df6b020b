"""The command `arbitrage`: one file a subcommand, over the same graph that a program uses."""

from langgraph_arbitrage.cli.program import main

__all__ = ["main"]
