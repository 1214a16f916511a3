"""Hybrid models: linear attentions in most layers, softmax attention in some (arXiv 2507.06457)."""

from ringattn.models.hybrid.config import HybridConfig
from ringattn.models.hybrid.model import HybridForCausalLM, HybridModel

__all__ = ["HybridConfig", "HybridForCausalLM", "HybridModel"]
