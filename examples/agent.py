"""An agent with two tools: swap the chat model, keep the program.

The embedded models know little; with two of your own the same agent is as good as they are:

    ChatArbitrage(draft="Qwen/Qwen2.5-0.5B-Instruct", target="Qwen/Qwen2.5-7B-Instruct")
"""

from langchain.agents import create_agent

from langgraph_arbitrage import ChatArbitrage

PRICES = {"bread": 3, "tea": 5, "soap": 2}


def find_price(item: str) -> int:
    """Return the price of an item."""
    return PRICES.get(item, 0)


def count_stock(item: str) -> int:
    """Return how many of an item are there."""
    return 10 * len(item)


def main() -> None:
    """Ask once, then print each message; streamed, the steps come as they are made."""
    agent = create_agent(ChatArbitrage(max_tokens=200), [find_price, count_stock])
    question = {"messages": [("user", "Use find_price with item bread.")]}
    limit = {"recursion_limit": 12}
    for message in agent.invoke(question, limit)["messages"]:
        message.pretty_print()
    for update in agent.stream(question, limit, stream_mode="updates"):
        print("step of the agent:", ", ".join(update))


if __name__ == "__main__":
    main()
