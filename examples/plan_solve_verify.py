"""Plan, solve, verify: if a PRM finds a bad step, the problem is solved again.

The embedded models can neither plan nor use feedback, so both are disabled here. With models that
can, the target can verify the solution as well:

    create_plan_solve_verify_graph(draft="…", target="…")
"""

from langgraph_arbitrage import embedded
from langgraph_arbitrage.graphs import create_plan_solve_verify_graph


def main(questions: int = 3) -> None:
    """Solve held-out problems with up to three attempts each."""
    graph = create_plan_solve_verify_graph(
        plan=False, feedback=False, prm="embedded:prm", threshold=0.4, max_tokens=300, seed=1
    ).compile()
    for problem in embedded.problems(questions, seed=13):
        print(problem.question)
        run = graph.stream({"messages": [("user", problem.question)]}, stream_mode="updates")
        for update in run:
            for node, changes in update.items():
                if node == "verify":
                    last = changes["attempts"][-1]
                    print(f"  score {last['score']:.2f}: {last['fault'] or 'accepted'}")


if __name__ == "__main__":
    main()
