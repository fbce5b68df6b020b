"""Helpers without dependencies on other parts of the package."""
