"""Random requests, within and outside the OpenAPI schema."""

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

MAX_TOKENS = 4  # maximum number of tokens of an answer

app = create_app(
    ChatArbitrage(**pair(), max_tokens=MAX_TOKENS), ServeSettings(max_body=20_000, max_waiting=1000)
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
def test_no_request_causes_a_server_error(case: Any) -> None:
    if isinstance(case.body, dict):
        case.body.pop("model", None)  # almost never the name of a served model
        if isinstance(case.body.get("max_tokens"), int):
            case.body["max_tokens"] = min(case.body["max_tokens"], MAX_TOKENS)
    response = case.call()
    assert response.status_code < 500, response.text
    if response.status_code >= 400:
        assert response.json()["error"]["message"]
