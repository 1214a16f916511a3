"""The study of hybrids, repeated small; `scripts/study.py` is its command."""
