"""How a step ends, and how it is constrained: stop rules and grammars."""
