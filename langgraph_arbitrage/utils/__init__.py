"""Helper functions that import no other part of the package."""
