"""Formats of tool calls, one file per kind, and their detection from a chat template."""

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
    "detect_format",
]

FORMATS: tuple[type[CallFormat], ...] = (QwenXml, Hermes, Mistral, Pythonic, LlamaJson)
"""Supported formats in the order of detection, the most specific first."""


def detect_format(sample: str) -> CallFormat | None:
    """Detect the format of a rendered `PROBE` call; None if it is unknown."""
    return next((fmt for kind in FORMATS if (fmt := kind.from_sample(sample))), None)
