"""How tokens are chosen."""

from __future__ import annotations


def check_sampling(*, max_new_tokens: int, temperature: float, top_p: float) -> None:
    """Raise ValueError where a number is outside of its range."""
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens must be at least 1, got {max_new_tokens}: write for example 64.")
    if not 0 <= temperature < float("inf"):
        raise ValueError(f"temperature must be 0 (the likeliest token) or above, got {temperature}: write 0.7.")
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p is a probability above 0 and at most 1, got {top_p}: write for example 0.9.")
