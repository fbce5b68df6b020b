"""What a graph node needs of a run: models, requests, settings in force, events, approval."""
