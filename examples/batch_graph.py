"""A batch graph: answers a list of questions concurrently and stores each answer at once."""

from langgraph.checkpoint.memory import InMemorySaver

from langgraph_arbitrage import embedded
from langgraph_arbitrage.graphs import create_batch_graph


def main(questions: int = 12) -> None:
    """Answer a list of problems. With a persistent checkpointer, an interrupted run resumes."""
    graph = create_batch_graph(concurrency=4, max_tokens=300).compile(checkpointer=InMemorySaver())
    problems = list(embedded.problems(questions, seed=15))
    state = graph.invoke(
        {"questions": [problem.question for problem in problems]},
        {"configurable": {"thread_id": "1"}},
    )
    for problem, answer in zip(problems, state["answers"], strict=True):
        text = answer["error"] or answer["message"].text.rpartition("\n")[2]
        right = not answer["error"] and embedded.check_answer(problem, answer["message"].text)
        print(f"{answer['index']:2} {'right' if right else 'wrong'}  {text}")


if __name__ == "__main__":
    main()
