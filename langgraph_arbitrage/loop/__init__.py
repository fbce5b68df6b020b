"""Objects that the nodes share in a run: models, settings, requests, events, approval."""
