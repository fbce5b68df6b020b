"""What the report is put together from."""
