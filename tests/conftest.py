"""Tests run offline: sockets are off (see pyproject.toml), and hubs are not asked.

A test that serves on loopback says so with `@pytest.mark.allow_hosts(["127.0.0.1"])`.
"""

import gc
import os

import pytest

# Before anything imports transformers, which reads them once.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["LANGSMITH_TRACING"] = "false"


def pytest_collection_finish(session: pytest.Session) -> None:
    """Leave torch's and transformers' million objects out of every later collection of garbage."""
    gc.collect()
    gc.freeze()
