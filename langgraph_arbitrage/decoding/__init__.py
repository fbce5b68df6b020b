"""Stop rules detect the end of a step. Grammars restrict the next token."""
