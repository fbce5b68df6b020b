"""Structured extraction: the answer always fits the schema, since it is decoded under it."""

from typing import Literal

from pydantic import BaseModel, Field

from langgraph_arbitrage import ChatArbitrage


class Order(BaseModel):
    """An order."""

    item: str
    size: int = Field(ge=0, le=999)
    kind: Literal["new", "old"]


def main() -> None:
    """Fill in the form from a text, with the message that it was read from beside it."""
    llm = ChatArbitrage(max_tokens=120)
    found = llm.with_structured_output(Order, include_raw=True).invoke(
        "item bread, size 12, kind new"
    )
    order: Order = found["parsed"]
    print(order)
    figures = found["raw"].response_metadata["arbitrage"]
    print("written by", ", ".join(step["writer"] for step in figures["steps"]))


if __name__ == "__main__":
    main()
