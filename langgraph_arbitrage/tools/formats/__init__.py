"""How models write tool calls: one file a kind, and which of them a chat template uses."""

from langgraph_arbitrage.tools.formats.base import PROBE, CallFormat, ParsedCall, Tool
from langgraph_arbitrage.tools.formats.json_calls import Hermes, LlamaJson, Mistral
from langgraph_arbitrage.tools.formats.pythonic import Pythonic
from langgraph_arbitrage.tools.formats.xml_calls import QwenXml

__all__ = [
    "PROBE",
    "CallFormat",
    "Hermes",
    "LlamaJson",
    "Mistral",
    "ParsedCall",
    "Pythonic",
    "QwenXml",
    "Tool",
    "format_of_sample",
]

KNOWN: tuple[type[CallFormat], ...] = (QwenXml, Hermes, Mistral, Pythonic, LlamaJson)
"""In the order in which a sample is compared: the more particular first."""


def format_of_sample(sample: str) -> CallFormat | None:
    """The format in which a chat template rendered the `PROBE` call; None if none is known."""
    return next((found for kind in KNOWN if (found := kind.of_sample(sample))), None)
