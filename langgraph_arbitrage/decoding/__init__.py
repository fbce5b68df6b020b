"""Stop rules and grammars: where a step ends, and which tokens may come next."""
