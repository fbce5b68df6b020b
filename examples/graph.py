"""The graph: custom events during a run, the state, and a second turn in the same thread."""

from langgraph.checkpoint.memory import InMemorySaver

from langgraph_arbitrage import Context, create_arbitrage_graph, embedded


def main() -> None:
    """Answer two questions in one thread and print each committed step."""
    graph = create_arbitrage_graph(max_tokens=300).compile(checkpointer=InMemorySaver())
    thread = {"configurable": {"thread_id": "1"}}
    for problem in embedded.problems(2, seed=8):
        print(f"\n{problem.question}")
        events = graph.stream(
            {"messages": [("user", problem.question)]},
            thread,
            context=Context(threshold=0.2),
            stream_mode="custom",
        )
        for event in events:
            if event["type"] == "committed":
                print(f"  {event['writer']:6} {event['text'].strip()}")
    print(f"\n{len(graph.get_state(thread).values['messages'])} messages in the thread")


if __name__ == "__main__":
    main()
