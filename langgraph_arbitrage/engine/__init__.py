"""The engine: local Hugging Face models that write and score steps.

Alone in importing torch and transformers, and knows nothing of LangChain or LangGraph.
One owner a resource: `SlotTable` says who holds which slot, `SlotCache` holds the tensors,
a backend calls the model, `Scheduler` says who runs, `Worker` owns the thread.
"""

from langgraph_arbitrage.engine.engine import Engine
from langgraph_arbitrage.engine.footprint import Footprint
from langgraph_arbitrage.engine.registry import acquire, release
from langgraph_arbitrage.engine.requests import (
    Expected,
    Finish,
    Grammar,
    Reading,
    Sampling,
    Score,
    Write,
    Written,
)
from langgraph_arbitrage.engine.spec import ModelSpec
from langgraph_arbitrage.engine.ticket import Listener, Ticket
from langgraph_arbitrage.engine.tokenizer import Tokenizer, load_tokenizer

__all__ = [
    "Engine",
    "Expected",
    "Finish",
    "Footprint",
    "Grammar",
    "Listener",
    "ModelSpec",
    "Reading",
    "Sampling",
    "Score",
    "Ticket",
    "Tokenizer",
    "Write",
    "Written",
    "acquire",
    "load_tokenizer",
    "release",
]
