"""The chat model: invoke it, inspect the statistics of the answer, stream.

The example runs the embedded models. To use your own models:

    ChatArbitrage(draft="Qwen/Qwen2.5-0.5B-Instruct", target="Qwen/Qwen2.5-7B-Instruct")
"""

from langgraph_arbitrage import ChatArbitrage

QUESTION = "Ann has 34 apples. She buys 58 more apples. How many apples does she have now?"


def main() -> None:
    """Answer a question, then stream another answer to it."""
    llm = ChatArbitrage(max_tokens=300)
    message = llm.invoke(QUESTION)
    print(message.text)

    statistics = message.response_metadata["arbitrage"]
    for step in statistics["steps"]:
        print(f"{step['writer']:6} {step['tokens']:3} tokens, score {step['score']}")
    print(f"escalated: {statistics['escalation_rate']:.0%}, usage: {message.usage_metadata}")

    # Options of a single call. A threshold of 0 escalates nearly every step.
    for chunk in llm.stream(QUESTION, threshold=0.0):
        print(chunk.text, end="", flush=True)
    print()


if __name__ == "__main__":
    main()
