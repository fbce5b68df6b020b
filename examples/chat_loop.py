"""A chat with memory: the graph state holds the turns, and the KV cache their tokens."""

from langchain_core.messages import HumanMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph

from langgraph_arbitrage import ChatArbitrage

TURNS = ("My name is Ida.", "How much is 34 + 58?", "What is my name?")


def main() -> None:
    """Run three turns in one thread. Each turn computes only the new tokens."""
    llm = ChatArbitrage(max_tokens=100)

    def answer(state: MessagesState) -> MessagesState:
        return {"messages": [llm.invoke(state["messages"])]}

    graph = StateGraph(MessagesState).add_node(answer).add_edge(START, "answer")
    chat = graph.compile(checkpointer=InMemorySaver())
    for turn in TURNS:
        state = chat.invoke(
            {"messages": [HumanMessage(turn)]}, {"configurable": {"thread_id": "ida"}}
        )
        reply = state["messages"][-1]
        usage = reply.usage_metadata
        cached = usage["input_token_details"]["cache_read"]
        print(f"> {turn}\n{reply.text}  ({cached} of {usage['input_tokens']} prompt tokens cached)")


if __name__ == "__main__":
    main()
