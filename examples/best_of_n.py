"""Best of n: a vote over four answers, weighted by the scores of a PRM."""

from langgraph_arbitrage import embedded
from langgraph_arbitrage.graphs import create_best_of_n_graph


def main(questions: int = 2) -> None:
    """Answer held-out problems. Without `prm`, the most frequent answer is selected."""
    graph = create_best_of_n_graph(n=4, prm="embedded:prm", max_tokens=300, seed=1).compile()
    for problem in embedded.problems(questions, seed=12):
        state = graph.invoke({"messages": [("user", problem.question)]})
        answer = state["messages"][-1]
        votes = answer.response_metadata["best_of_n"]["answers"]
        right = "right" if embedded.check_answer(problem, answer.text) else "wrong"
        scores = ", ".join(f"{trace['score']:.2f}" for trace in state["traces"])
        print(f"{problem.question}\n  answers {votes}, scores {scores}: {right}")


if __name__ == "__main__":
    main()
