"""Human approval: a run pauses before each escalation. Then the thread is forked."""

from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command

from langgraph_arbitrage import Context, create_arbitrage_graph, embedded
from langgraph_arbitrage.persistence.time_travel import fork, list_steps


def main() -> None:
    """Accept the first step that needs approval, escalate the others; then fork the thread."""
    graph = create_arbitrage_graph(approve="escalations").compile(checkpointer=InMemorySaver())
    thread = {"configurable": {"thread_id": "1"}}
    (problem,) = embedded.problems(1, seed=8)
    print(problem.question)
    state = graph.invoke({"messages": [("user", problem.question)]}, thread)
    decisions = iter(["accept"])
    while "__interrupt__" in state:
        approval = state["__interrupt__"][0].value
        decision = next(decisions, "escalate")
        print(f"  step {approval['step']}, score {approval['score']:.2f}: {decision}")
        state = graph.invoke(Command(resume=decision), thread)
    for step in list_steps(graph, thread):
        print(f"  {step['writer']:6} {step['text'].strip()}")
    print("forked at the second step and continued by the draft alone:")
    forked = fork(graph, thread, 1, thread="2")
    state = graph.invoke(None, forked, context=Context(threshold=1.0))
    print(f"  {state['messages'][-1].text.splitlines()[-1]}")


if __name__ == "__main__":
    main()
