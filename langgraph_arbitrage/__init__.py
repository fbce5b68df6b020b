"""Step-level speculative reasoning as a LangGraph component."""
