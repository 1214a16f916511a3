"""Landmark models: Hugging Face causal LMs whose attention is grouped by landmarks (Mohtashami and Jaggi, "Landmark
Attention: Random-Access Infinite Context Length for Transformers", arXiv 2305.16300).

Importing this package makes transformers' Auto classes know their configurations and models.
"""

from ringattn.models.landmark.convert import check_tokenizer, from_landmark, to_landmark, with_blocks
from ringattn.models.landmark.families import FAMILIES, is_landmark, register_families

register_families()

__all__ = [
    "FAMILIES",
    "check_tokenizer",
    "from_landmark",
    "is_landmark",
    "register_families",
    "to_landmark",
    "with_blocks",
]
