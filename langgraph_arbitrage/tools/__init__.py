"""Tool calls and structured output: formats, parsing, schemas and grammars."""
