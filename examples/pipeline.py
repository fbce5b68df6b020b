"""An LCEL pipeline: a prompt, a model with retries and a fallback, and a parser."""

from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate

from langgraph_arbitrage import AlwaysTarget, ChatArbitrage
from langgraph_arbitrage.errors import EngineError


def main() -> None:
    """Try the pair twice, then fall back to the target alone."""
    prompt = ChatPromptTemplate.from_messages(
        [("system", "You solve word problems."), ("user", "{question}")]
    )
    llm = ChatArbitrage(max_tokens=300)
    target_only = ChatArbitrage(router=AlwaysTarget(), max_tokens=300)
    robust = llm.with_retry(
        retry_if_exception_type=(EngineError,), stop_after_attempt=2
    ).with_fallbacks([target_only])
    chain = prompt | robust | StrOutputParser()
    question = "Ann has 34 apples. She buys 58 more apples. How many apples does she have now?"
    print(chain.invoke({"question": question}))
    for piece in chain.stream({"question": question}):
        print(piece, end="|")
    print()


if __name__ == "__main__":
    main()
