"""The measurements of `gpu.py`."""
