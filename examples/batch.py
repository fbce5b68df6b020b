"""Many questions at once: concurrent requests share the models and are batched."""

import asyncio
import time

from langgraph_arbitrage import ChatArbitrage, embedded


async def main(questions: int = 16) -> None:
    """Answer held-out problems concurrently and count the right answers."""
    llm = ChatArbitrage(max_tokens=300)
    problems = list(embedded.problems(questions, seed=9))
    start = time.perf_counter()
    messages = await llm.abatch([p.question for p in problems], config={"max_concurrency": 8})
    right = sum(embedded.check_answer(p, m.text) for p, m in zip(problems, messages, strict=True))
    print(f"{right} of {questions} right in {time.perf_counter() - start:.1f} s")


if __name__ == "__main__":
    asyncio.run(main())
