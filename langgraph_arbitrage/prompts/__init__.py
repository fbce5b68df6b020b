"""Turns LangChain messages into the token ids of a model's own chat template."""
