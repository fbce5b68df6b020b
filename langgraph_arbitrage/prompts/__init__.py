"""Convert LangChain messages to token ids with a model's chat template."""
