"""A cascade over three models: a larger pair answers if the smaller pair is not confident."""

from langgraph_arbitrage import embedded
from langgraph_arbitrage.graphs import create_cascade_graph


def main(questions: int = 8) -> None:
    """Answer with draft and reader; if the PRM scores a step too low, with reader and target."""
    models = (embedded.DRAFT, embedded.READER, embedded.TARGET)
    graph = create_cascade_graph(
        models, prm="embedded:prm", threshold=0.8, max_tokens=300
    ).compile()
    for problem in embedded.problems(questions, seed=14):
        answer = graph.invoke({"messages": [("user", problem.question)]})["messages"][-1]
        cascade = answer.response_metadata["cascade"]
        right = "right" if embedded.check_answer(problem, answer.text) else "wrong"
        scores = ", ".join(f"{confidence:.2f}" for confidence in cascade["confidences"])
        print(f"level {cascade['level']} of {cascade['levels']}, confidence {scores}: {right}")


if __name__ == "__main__":
    main()
