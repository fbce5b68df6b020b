"""An agent with two tools. `ChatArbitrage` replaces any other chat model.

The embedded models are a small demo. Use your own models for real tasks:

    ChatArbitrage(draft="Qwen/Qwen2.5-0.5B-Instruct", target="Qwen/Qwen2.5-7B-Instruct")
"""

from langchain.agents import create_agent

from langgraph_arbitrage import ChatArbitrage

PRICES = {"bread": 3, "tea": 5, "soap": 2}


def find_price(item: str) -> int:
    """Return the price of an item."""
    return PRICES.get(item, 0)


def count_stock(item: str) -> int:
    """Return the number of items in stock."""
    return 10 * len(item)


def main() -> None:
    """Run the agent twice: print all messages, then stream the agent's steps."""
    agent = create_agent(ChatArbitrage(max_tokens=200), [find_price, count_stock])
    question = {"messages": [("user", "Use find_price with item bread.")]}
    config = {"recursion_limit": 12}
    for message in agent.invoke(question, config)["messages"]:
        message.pretty_print()
    for update in agent.stream(question, config, stream_mode="updates"):
        print("agent step:", ", ".join(update))


if __name__ == "__main__":
    main()
