"""The text that the tokenizer is trained on."""

import json
from itertools import islice

from langgraph_arbitrage.embedded.make.chats import chats
from langgraph_arbitrage.embedded.problems import training_problems


def tokenizer_text(problems: int = 3000, some_chats: int = 1500) -> list[str]:
    """Return problems with solutions, and chats as they are rendered."""
    texts = [f"{p.question} {p.solution}" for p in islice(training_problems(-1), problems)]
    for messages, tools in islice(chats(-1), some_chats):
        texts += [json.dumps(t["function"]) for t in tools]
        for message in messages:
            texts.append(message["content"])
            for call in message.get("tool_calls", ()):
                f = call["function"]
                texts.append(json.dumps({"name": f["name"], "arguments": f["arguments"]}))
    return texts
