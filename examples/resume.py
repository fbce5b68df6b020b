"""A run that stops for a human before the target works, then is rewound and goes another way."""

from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command

from langgraph_arbitrage import Context, create_arbitrage_graph, embedded
from langgraph_arbitrage.persistence.time_travel import fork, list_steps


def main() -> None:
    """Accept the first step that is asked about, escalate the others; then fork the thread."""
    graph = create_arbitrage_graph(approve="escalations").compile(checkpointer=InMemorySaver())
    thread = {"configurable": {"thread_id": "1"}}
    (problem,) = embedded.problems(1, seed=8)
    print(problem.question)
    state = graph.invoke({"messages": [("user", problem.question)]}, thread)
    answers = iter(["accept"])
    while "__interrupt__" in state:
        asked = state["__interrupt__"][0].value
        answer = next(answers, "escalate")
        print(f"  asked about step {asked['step']}, score {asked['score']:.2f}: {answer}")
        state = graph.invoke(Command(resume=answer), thread)
    for step in list_steps(graph, thread):
        print(f"  {step['writer']:6} {step['text'].strip()}")
    print("the same by the draft alone, from its second step:")
    other = fork(graph, thread, 1, thread="2")
    state = graph.invoke(None, other, context=Context(threshold=1.0))
    print(f"  {state['messages'][-1].text.splitlines()[-1]}")


if __name__ == "__main__":
    main()
