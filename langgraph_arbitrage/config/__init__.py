"""Settings: declared once, validated, combined for a run."""
