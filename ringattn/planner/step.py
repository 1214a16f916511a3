"""How long a training step takes, by part, and what share of the hardware's peak that is. No torch.

Attention is what the search found for one layer. The rest is counted: matrix products at the rate that large ones
reach, element-wise work at the rate of memory, gradients over the links at hand. Nothing of the rest is taken to
overlap, so the prediction is on the slow side of a trainer that overlaps gradients with the backward.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, replace

import numpy as np

from ringattn.planner.architecture import FULL, LINEAR, SLIDING, Architecture, in_matrices
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
    layer_bytes: that one layer of each kind keeps of one token for its backward (`planner.memory.layer_bytes`).
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
    layer_bytes: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class StepTime:
    """Seconds of one step on one rank. linear_attention: products of the linear layers' mixing. states: these and their
    convolutions' halos on their way between ranks."""

    attention: float
    matrix_products: float
    element_wise: float
    gradients: float
    optimizer: float
    linear_attention: float = 0.0
    states: float = 0.0

    @property
    def total(self) -> float:
        return sum(getattr(self, part.name) for part in fields(self))

    def parts(self) -> list[tuple[str, float]]:
        """(name in words, seconds), the total last; those of linear layers where there are any."""
        named = [(part, getattr(self, part.name)) for part in fields(self)]
        shown = [(part.name.replace("_", " "), spent) for part, spent in named if spent or part.default is MISSING]
        return [*shown, ("total", self.total)]

    def of_sequences(self, each: int) -> StepTime:
        """With so many sequences one after another: everything but what a step does once."""
        once = {"gradients", "optimizer"}
        return replace(self, **{p.name: each * getattr(self, p.name) for p in fields(self) if p.name not in once})


def step_time(
    sizes: Architecture,
    cluster: Cluster,
    work: Work,
    *,
    attention_forward: float,
    attention_backward: float,
    sliding: tuple[float, float] = (0.0, 0.0),
    passing: tuple[float, float] = (0.0, 0.0),
) -> StepTime:
    """The time of one training step, one sequence at a time.

    attention_forward, attention_backward: seconds of one full layer's, as found by a search. sliding: the same of one
    sliding layer. passing: seconds in which what one linear layer needs of other ranks travels, forward and backward.
    """
    accelerator = cluster.accelerator
    rate = matmul_rate(accelerator, work.dtype)
    again = 1 if work.recompute else 0
    layers = Counter(sizes.kinds())
    matrices = sum(count * in_matrices(sizes.layer_weights(kind)) for kind, count in layers.items())
    lookup = sizes.vocabulary * sizes.hidden_size
    # Two FLOP forward and four backward for each weight and token.
    products = work.tokens * (matrices * (6 + 2 * again) + lookup * 6)
    passes = _FORWARD_PASSES * (1 + again) + _BACKWARD_PASSES
    kept = sum(count * work.layer_bytes[kind] for kind, count in layers.items())
    forwards = 2 if work.recompute_attention else 1
    parameters = sizes.parameters()
    sharing = cluster.world if work.zero >= 1 else 1
    mixing = 0.0
    mixer = sizes.mixer()
    if mixer is not None:
        forward, backward = mixer.mixing_flops(spread=work.sequence_parallel > 1)
        flops = layers[LINEAR] * work.tokens * ((1 + again) * forward + backward)
        # In fp32, whatever the activations' dtype.
        mixing = flops / matmul_rate(accelerator, "float32")
    return StepTime(
        attention=layers[FULL] * (attention_forward * forwards + attention_backward)
        + layers[SLIDING] * (sliding[0] * forwards + sliding[1]),
        matrix_products=products / rate,
        element_wise=passes * kept * work.tokens / accelerator.memory_bandwidth,
        gradients=_gradient_seconds(cluster, parameters, work),
        optimizer=_ADAM_PASSES * 4 * parameters / sharing / accelerator.memory_bandwidth,
        linear_attention=mixing,
        states=layers[LINEAR] * ((1 + again) * passing[0] + passing[1]),
    )


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
    of each attending layer (Chowdhery et al., PaLM, arXiv 2204.02311, appendix B; the pairs are those that the mask
    shows), and three times its recurrence for each linear layer, whatever more its chunked form multiplies.

    pairs: of a full layer; those of a sliding one are counted here.
    """
    layers = Counter(sizes.kinds())
    weights = sizes.parameters() - (0 if sizes.tie_embeddings else sizes.vocabulary * sizes.hidden_size)
    seen = min(sizes.window(SLIDING) or tokens, tokens)
    pairs = layers[FULL] * pairs + layers[SLIDING] * (seen * (seen + 1) / 2 + (tokens - seen) * seen)
    mixer = sizes.mixer()
    recurrences = 0.0 if mixer is None else 3 * layers[LINEAR] * tokens * mixer.recurrence_flops()
    return 6 * weights * tokens + 12 * pairs * sizes.heads * sizes.head_dim + recurrences


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
