"""Training texts of the tokenizer."""

import json
from itertools import islice

from langgraph_arbitrage.embedded.make.chats import chats
from langgraph_arbitrage.embedded.problems import training_problems


def tokenizer_texts(problem_count: int = 3000, chat_count: int = 1500) -> list[str]:
    """Texts of problems with solutions, and of the messages, tools and calls of chats."""
    texts = [f"{p.question} {p.solution}" for p in islice(training_problems(-1), problem_count)]
    for messages, tools in islice(chats(-1), chat_count):
        texts += [json.dumps(t["function"]) for t in tools]
        for message in messages:
            texts.append(message["content"])
            for call in message.get("tool_calls", ()):
                function = call["function"]
                name, arguments = function["name"], function["arguments"]
                texts.append(json.dumps({"name": name, "arguments": arguments}))
    return texts
