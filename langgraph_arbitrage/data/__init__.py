"""Reads and writes records: JSON Lines files, dataset rows, final answers in texts."""
