"""Train the embedded models; see ``python -m langgraph_arbitrage.embedded.make --help``."""
