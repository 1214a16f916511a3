"""How long a training step takes, by part, and what share of the hardware's peak that is. No torch.

Attention is what the search found for one layer. The rest is counted: matrix products at the rate that large ones
reach, element-wise work at the rate of memory, gradients over the links at hand. Nothing of the rest is taken to
overlap, so the prediction is on the slow side of a trainer that overlaps gradients with the backward.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from ringattn.planner.architecture import Architecture
from ringattn.planner.cluster import Accelerator, Cluster

# Large dense products reach 80 to 90 % of the peak (FlashAttention-3, arXiv 2407.08608, section 1: "optimized matrix
# multiplication kernels ... 80-90%" on Hopper).
MATMUL_SHARE = 0.8

# Element-wise passes over what a layer keeps for its backward: written and read once forward; read, and its gradient
# written and read, backward.
_FORWARD_PASSES = 2
_BACKWARD_PASSES = 3

# An Adam step reads weight, gradient and two moments and writes all but the gradient (Kingma and Ba, arXiv 1412.6980,
# algorithm 1).
_ADAM_PASSES = 7


@dataclass(frozen=True, kw_only=True)
class Work:
    """What one rank does in a step.

    tokens: of this rank. area: visible (query, key) pairs of a whole sequence. sequences: of all ranks together.
    sequence_parallel: ranks that share a sequence. item_bytes: of an activation. recompute: layers are computed again
    in the backward; recompute_attention: attention as well. zero: the ZeRO stage.
    layer_bytes: that one layer keeps of one token for its backward.
    """

    tokens: int
    area: float
    sequences: int
    sequence_parallel: int
    dtype: str
    item_bytes: int
    recompute: bool
    recompute_attention: bool
    zero: int
    layer_bytes: int


@dataclass(frozen=True, kw_only=True)
class StepTime:
    """Seconds of one step on one rank."""

    attention: float
    matrix_products: float
    element_wise: float
    gradients: float
    optimizer: float

    @property
    def total(self) -> float:
        return sum(getattr(self, part.name) for part in fields(self))

    def parts(self) -> list[tuple[str, float]]:
        """(name in words, seconds), the total last."""
        named = [(part.name.replace("_", " "), getattr(self, part.name)) for part in fields(self)]
        return [*named, ("total", self.total)]


def step_time(
    sizes: Architecture, cluster: Cluster, work: Work, *, attention_forward: float, attention_backward: float
) -> StepTime:
    """The time of one training step. attention_forward, attention_backward: seconds of one layer's, as found by a
    search; one sequence at a time."""
    accelerator = cluster.accelerator
    rate = matmul_rate(accelerator, work.dtype)
    again = 1 if work.recompute else 0
    matrices = sizes.layers * (sizes.layer_parameters() - 2 * sizes.hidden_size)
    lookup = sizes.vocabulary * sizes.hidden_size
    # Two FLOP forward and four backward for each weight and token.
    products = work.tokens * (matrices * (6 + 2 * again) + lookup * 6)
    passes = _FORWARD_PASSES * (1 + again) + _BACKWARD_PASSES
    attention = attention_forward * (2 if work.recompute_attention else 1) + attention_backward
    parameters = sizes.parameters()
    sharing = cluster.world if work.zero >= 1 else 1
    return StepTime(
        attention=sizes.layers * attention,
        matrix_products=products / rate,
        element_wise=passes * sizes.layers * work.layer_bytes * work.tokens / accelerator.memory_bandwidth,
        gradients=_gradient_seconds(cluster, parameters, work),
        optimizer=_ADAM_PASSES * 4 * parameters / sharing / accelerator.memory_bandwidth,
    )


def layer_bytes(sizes: Architecture, item_bytes: int) -> int:
    """What one layer keeps of a token for its backward: of the residual stream three tensors at each norm (its input,
    the normalized input, the result), queries, keys, values and out, and four tensors of the feed-forward."""
    queries, keys = sizes.heads * sizes.head_dim, sizes.key_value_heads * sizes.head_dim
    return item_bytes * (6 * sizes.hidden_size + 2 * queries + 2 * keys + 4 * sizes.intermediate_size)


def matmul_rate(accelerator: Accelerator, dtype: str) -> float:
    """FLOP/s of large matrix products. ValueError where the cluster's file has none for the dtype."""
    return peak(accelerator, dtype) * MATMUL_SHARE


def peak(accelerator: Accelerator, dtype: str) -> float:
    """FLOP/s that the data sheet states for a dtype."""
    found = accelerator.matmul.get(dtype)
    if found is None:
        raise ValueError(
            f"accelerator {accelerator.name!r} has no rate of matrix products for {dtype}: it has "
            f"{', '.join(sorted(accelerator.matmul))}; add it to the cluster's file, or choose one of these"
        )
    return found


def model_flops(sizes: Architecture, work: Work) -> float:
    """FLOP of a step of all ranks that the model asks for, with nothing computed twice."""
    return work.sequences * sequence_flops(sizes, work.tokens * work.sequence_parallel, work.area)


def sequence_flops(sizes: Architecture, tokens: int, pairs: float) -> float:
    """FLOP of training on one sequence: 6 for each weight and token, 12 for each visible pair, head and head dimension
    of
    each layer (Chowdhery et al., PaLM, arXiv 2204.02311, appendix B; the pairs are those that the mask shows)."""
    weights = sizes.parameters() - (0 if sizes.tie_embeddings else sizes.vocabulary * sizes.hidden_size)
    return 6 * weights * tokens + 12 * pairs * sizes.heads * sizes.head_dim * sizes.layers


def _gradient_seconds(cluster: Cluster, parameters: int, work: Work) -> float:
    """Gradients summed over all ranks in fp32 around a ring: 2 (P - 1) / P of their bytes on every hop (Patarasuk and
    Yuan, 2009); ZeRO 3 gathers weights in the forward and again in the backward instead of once (arXiv 1910.02054,
    section 7)."""
    world = cluster.world
    if world == 1:
        return 0.0
    crossed = [lane for rank in range(world) for lane in cluster.way(rank, (rank + 1) % world).lanes]
    bandwidth = np.asarray([lane.bandwidth for lane in cluster.lanes])
    # Bytes of one rank's hop over its slowest lane, shared where several hops cross it.
    slowest = float((np.bincount(crossed, minlength=len(bandwidth)) / bandwidth).max())
    share = (world - 1) / world
    sent = 2 * 4 * parameters * share
    if work.zero == 3:
        sent = (4 + 2 * work.item_bytes) * parameters * share
    return sent * slowest
