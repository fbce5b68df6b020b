"""A cascade over three models: the larger pair answers only where the smaller one was not sure."""

from langgraph_arbitrage import embedded
from langgraph_arbitrage.graphs import create_cascade_graph


def main(questions: int = 8) -> None:
    """Draft and reader first; where the PRM doubts a step of theirs, reader and target."""
    models = (embedded.DRAFT, embedded.READER, embedded.TARGET)
    graph = create_cascade_graph(
        models, prm="embedded:prm", threshold=0.8, max_tokens=300
    ).compile()
    for problem in embedded.problems(questions, seed=14):
        answer = graph.invoke({"messages": [("user", problem.question)]})["messages"][-1]
        told = answer.response_metadata["cascade"]
        right = "right" if embedded.check_answer(problem, answer.text) else "wrong"
        sure = ", ".join(f"{confidence:.2f}" for confidence in told["confidences"])
        print(f"level {told['level']} of {told['levels']}, confidence {sure}: {right}")


if __name__ == "__main__":
    main()
