"""Reads and writes data files, and extracts final answers from texts."""
