"""Plan, solve, verify: a solution that fails the check is solved again, with the reason.

START → plan → solve → verify ─┬→ END
                 ↑             │
                 └── not yet ──┘
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, TypedDict

from langchain_core.messages import AIMessage, AnyMessage, HumanMessage
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages

from langgraph_arbitrage.config.context import Context
from langgraph_arbitrage.errors import SettingsError
from langgraph_arbitrage.nodes.binding import Chat, chat_node
from langgraph_arbitrage.policies import AlwaysTarget
from langgraph_arbitrage.prompts.messages import last_question
from langgraph_arbitrage.state import MessagesInput

if TYPE_CHECKING:
    from langgraph_arbitrage.chat_model import ChatArbitrage

__all__ = ["Attempt", "PlanSolveVerifyState", "Verify", "create_plan_solve_verify_graph"]

Verify = Callable[[str, str], str | None]
"""Maps a question and its solution to what is wrong with it, or None if it is right."""

PLAN = "Do not solve this yet. Write a plan: a few short steps that lead to the answer."
FOLLOW = "Follow this plan:\n{plan}"
AGAIN = "An earlier solution was wrong: {fault}"
CHECK = (
    "Here is a solution of the question.\n\nQuestion: {question}\n\nSolution: {solution}\n\n"
    "Check each step of it. Is it right? If not, say in `fault` what is wrong."
)
VERDICT = {
    "title": "Verdict",
    "type": "object",
    "properties": {"right": {"type": "boolean"}, "fault": {"type": "string", "maxLength": 200}},
    "required": ["right", "fault"],
}
BAD_STEP = "step {number} is probably wrong: {text}"


class Attempt(TypedDict):
    """A solution and the result of its check."""

    message: AIMessage
    fault: str | None
    """Description of the error; None if the check passed."""
    score: float | None
    """PRM score of the solution's worst step; None without a PRM."""


class PlanSolveVerifyState(TypedDict, total=False):
    """State of the graph."""

    messages: Annotated[list[AnyMessage], add_messages]
    """The conversation; the answer is appended."""
    plan: str
    solution: AIMessage
    """The solution to verify."""
    attempts: list[Attempt]
    """The verified solutions of the last question."""


def create_plan_solve_verify_graph(
    llm: ChatArbitrage | None = None,
    /,
    *,
    attempts: int = 3,
    plan: bool = True,
    feedback: bool = True,
    verify: Verify | None = None,
    prm: str | None = None,
    threshold: float = 0.5,
    **settings: Any,
) -> StateGraph[PlanSolveVerifyState, Context, MessagesInput, PlanSolveVerifyState]:
    """Writes a plan, a solution that follows it, and checks the solution; an uncompiled graph.

    A solution that fails the check is solved again with another seed and a temperature of at least
    0.5. If no solution passes, the answer is the last one, or with a PRM the one with the best
    score. It has `response_metadata["plan_solve_verify"]` = {`plan`, `verified`, `attempts`,
    `faults`}.

    Args:
        llm: The chat model; created from the settings by default.
        attempts: Maximum number of solutions.
        plan: Write a plan first.
        feedback: Include what was wrong in the next prompt. Models that cannot follow such advice,
            such as the embedded ones, do better without.
        verify: The check. By default the target alone is asked, which needs the extra
            `structured`.
        prm: Process reward model. A solution passes iff no step scores below the threshold.
        threshold: Threshold of the PRM, in [0, 1].
        settings: Fields of `ArbitrageSettings`.

    Example:
        >>> from langgraph_arbitrage.graphs import create_plan_solve_verify_graph
        >>> def boxed(question, solution):
        ...     return None if "boxed{" in solution else "it has no boxed answer"
        >>> graph = create_plan_solve_verify_graph(verify=boxed, plan=False).compile()
        >>> question = "Ann has 34 apples. She buys 58. How many apples are there in the end?"
        >>> state = graph.invoke({"messages": [("user", question)]})
        >>> state["messages"][-1].response_metadata["plan_solve_verify"]["attempts"] in (1, 2, 3)
        True

    Raises:
        SettingsError: A setting is unknown or outside its range.
        CheckpointError: The checkpoint is not a PRM of a known format.
    """
    if attempts < 1:
        raise SettingsError(f"attempts must be at least 1, not {attempts}")
    if verify is not None and prm is not None:
        raise SettingsError("pass verify= or prm=, not both")
    if not 0 <= threshold <= 1:
        raise SettingsError(f"threshold must be a number from 0 to 1, not {threshold}")
    from langgraph_arbitrage.chat_model import ChatArbitrage
    from langgraph_arbitrage.graphs.answer_scores import AnswerScores

    llm = llm or ChatArbitrage(**settings)
    scores = AnswerScores(llm, prm) if prm else None
    alone = llm.under(AlwaysTarget())

    async def make_plan(state: PlanSolveVerifyState, chat: Chat) -> dict[str, Any]:
        if not plan:
            return {"plan": "", "attempts": []}
        message = await chat.ask(llm, _with_notes(state["messages"], [PLAN]))
        return {"plan": message.text.strip(), "attempts": []}

    async def solve(state: PlanSolveVerifyState, chat: Chat) -> dict[str, Any]:
        before = state["attempts"]
        notes = [FOLLOW.format(plan=state["plan"])] if state["plan"] else []
        options: dict[str, Any] = {}
        if before:
            notes += [AGAIN.format(fault=before[-1]["fault"])] if feedback else []
            options = {"temperature": max(0.5, llm.temperature or 0.0)}
            if llm.seed is not None:
                options["seed"] = llm.seed + len(before)
        message = await chat.ask(llm, _with_notes(state["messages"], notes), **options)
        return {"solution": message}

    async def check(state: PlanSolveVerifyState, chat: Chat) -> dict[str, Any]:
        question, message = last_question(state["messages"]), state["solution"]
        score = None
        if verify is not None:
            fault = verify(question, message.text)
        elif scores is not None:
            found = await scores.score(question, message, chat)
            score = min(found)
            fault = _bad_step(found, message) if score < threshold else None
        else:
            asked = HumanMessage(CHECK.format(question=question, solution=message.text))
            verdict = await chat.ask(alone, [asked], response_format=VERDICT, temperature=0.0)
            fault = _fault_of(verdict.text)
        attempt = Attempt(message=message, fault=fault, score=score)
        done = [*state["attempts"], attempt]
        if fault is not None and len(done) < attempts:
            return {"attempts": done}
        return {"attempts": done, "messages": [_answer(done, state["plan"])]}

    def after_verify(state: PlanSolveVerifyState) -> str:
        done = state["attempts"]
        return END if done[-1]["fault"] is None or len(done) >= attempts else "solve"

    graph = StateGraph(PlanSolveVerifyState, context_schema=Context, input_schema=MessagesInput)
    graph.add_node("plan", chat_node(make_plan, "plan"))
    graph.add_node("solve", chat_node(solve, "solve"))
    graph.add_node("verify", chat_node(check, "verify"))
    graph.add_edge(START, "plan")
    graph.add_edge("plan", "solve")
    graph.add_edge("solve", "verify")
    graph.add_conditional_edges("verify", after_verify, ["solve", END])
    return graph


def _with_notes(messages: list[AnyMessage], notes: list[str]) -> list[AnyMessage]:
    """Return the conversation with notes appended to its last message."""
    if not notes:
        return messages
    *before, last = messages
    return [*before, HumanMessage("\n\n".join([last.text, *notes]))]


def _bad_step(scores: list[float], message: AIMessage) -> str:
    worst = min(range(len(scores)), key=scores.__getitem__)
    text = message.response_metadata["arbitrage"]["steps"][worst]["text"]
    return BAD_STEP.format(number=worst + 1, text=text.strip())


def _fault_of(verdict: str) -> str | None:
    """Return the error that a verdict names. A verdict cut off by a limit counts as an error."""
    try:
        found = json.loads(verdict)
    except ValueError:
        return "the check was cut off"
    return None if found["right"] else found["fault"] or "it was found wrong"


def _answer(attempts: list[Attempt], plan: str) -> AIMessage:
    found = attempts[-1]
    if found["fault"] is not None and found["score"] is not None:
        found = max(attempts, key=lambda attempt: attempt["score"] or 0.0)
    statistics = {
        "plan": plan,
        "verified": found["fault"] is None,
        "attempts": len(attempts),
        "faults": [a["fault"] for a in attempts if a["fault"] is not None],
    }
    message = found["message"]
    metadata = {**message.response_metadata, "plan_solve_verify": statistics}
    return message.model_copy(update={"response_metadata": metadata, "id": None})
