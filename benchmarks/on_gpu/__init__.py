"""What `gpu.py` measures: one file a noun."""
