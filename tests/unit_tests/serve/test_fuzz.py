"""Requests that nobody would write: whatever the description of the interface allows, and more."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("fastapi")
schemathesis = pytest.importorskip("schemathesis")

from hypothesis import HealthCheck, Phase, settings  # noqa: E402

from langgraph_arbitrage import ChatArbitrage  # noqa: E402
from langgraph_arbitrage.serve import ServeSettings  # noqa: E402
from langgraph_arbitrage.serve.app import create_app  # noqa: E402
from tiny import pair  # noqa: E402

LONGEST = 4  # tokens of an answer that nobody reads

app = create_app(
    ChatArbitrage(**pair(), max_tokens=LONGEST), ServeSettings(max_body=20_000, max_waiting=1000)
)
schema = schemathesis.openapi.from_dict(app.openapi())
schema.app = app
schema.config.generation.update(modes=list(schemathesis.GenerationMode))


@schema.parametrize()
@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate],
    database=None,
    derandomize=True,
)
def test_no_request_makes_the_server_fail(case: Any) -> None:
    if isinstance(case.body, dict):
        case.body.pop("model", None)  # hardly one of those served
        if isinstance(case.body.get("max_tokens"), int):
            case.body["max_tokens"] = min(case.body["max_tokens"], LONGEST)
    response = case.call()
    assert response.status_code < 500, response.text
    if response.status_code >= 400:
        assert response.json()["error"]["message"]
