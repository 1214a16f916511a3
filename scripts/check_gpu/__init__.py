"""The larger parts of what `scripts/check_gpu.py` shows."""
