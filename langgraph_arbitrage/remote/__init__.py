"""Runs models on OpenAI-compatible servers."""
