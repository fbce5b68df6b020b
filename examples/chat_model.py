"""The chat model: ask, look at what each model did, stream.

Runs on the embedded models; put two of your own in their place:

    ChatArbitrage(draft="Qwen/Qwen2.5-0.5B-Instruct", target="Qwen/Qwen2.5-7B-Instruct")
"""

from langgraph_arbitrage import ChatArbitrage

QUESTION = "Ann has 34 apples. She buys 58 more apples. How many apples does she have now?"


def main() -> None:
    """Answer one question whole, then again as a stream."""
    llm = ChatArbitrage(max_tokens=300)
    message = llm.invoke(QUESTION)
    print(message.text)

    figures = message.response_metadata["arbitrage"]
    for step in figures["steps"]:
        print(f"{step['writer']:6} {step['tokens']:3} tokens, score {step['score']}")
    print(f"escalated: {figures['escalation_rate']:.0%}, usage: {message.usage_metadata}")

    # Settings of one call: a threshold of 0 sends nearly every step to the target.
    for chunk in llm.stream(QUESTION, threshold=0.0):
        print(chunk.text, end="", flush=True)
    print()


if __name__ == "__main__":
    main()
