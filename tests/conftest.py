"""Tests run offline: sockets are off (see pyproject.toml), and hubs are not asked.

A test that serves on loopback says so with `@pytest.mark.allow_hosts(["127.0.0.1"])`.
"""

import os

# Before anything imports transformers, which reads them once.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["LANGSMITH_TRACING"] = "false"
