"""A callback handler that prints the steps of each complete answer."""

from typing import Any

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.outputs import LLMResult

from langgraph_arbitrage import ChatArbitrage


class StepPrinter(BaseCallbackHandler):
    """Prints the writer, score and length of each step."""

    def on_llm_end(self, response: LLMResult, **kwargs: Any) -> None:
        """Read the steps from the message's metadata."""
        message = response.generations[0][0].message  # type: ignore[union-attr]
        for step in message.response_metadata["arbitrage"]["steps"]:
            score = "-" if step["score"] is None else f"{step['score']:.2f}"
            print(f"{step['writer']:6} {score} {step['tokens']:3} tokens  {step['text'].strip()}")


def main() -> None:
    """Answer a question with the handler attached."""
    llm = ChatArbitrage(max_tokens=300)
    question = "Ann has 34 apples. She buys 58 more apples. How many apples does she have now?"
    llm.invoke(question, config={"callbacks": [StepPrinter()]})


if __name__ == "__main__":
    main()
