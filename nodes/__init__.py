"""One file a node: draft, route, regenerate, commit."""
