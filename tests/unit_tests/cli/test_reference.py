"""docs/settings.md matches the declarations of the settings."""

from pathlib import Path

from langgraph_arbitrage.cli.reference import reference


def test_the_settings_page_is_generated_from_the_declarations():
    page = Path(__file__).parents[3] / "docs" / "settings.md"
    hint = "run: python -m langgraph_arbitrage.cli.reference > docs/settings.md"
    assert page.read_text(encoding="utf-8") == reference(), hint
