"""Structured extraction: constrained decoding makes the answer fit the schema."""

from typing import Literal

from pydantic import BaseModel, Field

from langgraph_arbitrage import ChatArbitrage


class Order(BaseModel):
    """An order."""

    item: str
    size: int = Field(ge=0, le=999)
    kind: Literal["new", "old"]


def main() -> None:
    """Extract an order from a text, and print it with the writers of its steps."""
    llm = ChatArbitrage(max_tokens=120)
    output = llm.with_structured_output(Order, include_raw=True).invoke(
        "item bread, size 12, kind new"
    )
    order: Order = output["parsed"]
    print(order)
    statistics = output["raw"].response_metadata["arbitrage"]
    print("written by", ", ".join(step["writer"] for step in statistics["steps"]))


if __name__ == "__main__":
    main()
