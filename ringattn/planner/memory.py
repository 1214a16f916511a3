"""How many bytes a rank needs for one training step, by part, from sizes alone. No torch.

Weights are replicated and in fp32, as this trainer keeps them. Activations are what autograd keeps of a
LLaMA-like layer; attention buffers are what the verifier counts for the schedule at hand; both are for this
rank's tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from ringattn.planner.architecture import Architecture
from ringattn.schedule import make_schedule
from ringattn.schedule.traffic import Tensors, chunk_bytes
from ringattn.schedule.value import Shape
from ringattn.schedule.verify import verify
from ringattn.sequence.blocks import visible_blocks
from ringattn.sequence.layout import make_layout
from ringattn.sequence.mask import Mask

FP32 = 4
BUCKET_BYTES = 64 * 2**20
# At one time in the loss: the logits, their softmax turned gradient, and one more inside the cross-entropy.
LOGIT_COPIES = 3


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What a rank trains.

    length: tokens of a sequence over all its ranks. item_bytes: of an activation, 4 in fp32 and 2 in bf16.
    moments: numbers that the optimizer keeps for each weight of a layer's matrices, and of the rest.
    """

    length: int
    ranks: int
    schedule: str
    layout: str
    item_bytes: int
    loss_chunk: int
    gradient_checkpointing: bool
    keep_attention: bool
    moments: tuple[int, int] = (2, 2)


@dataclass(frozen=True, kw_only=True)
class MemoryEstimate:
    """Bytes on the rank that needs most."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    attention_buffers: int
    logits_chunk: int

    @property
    def total(self) -> int:
        return sum(getattr(self, part.name) for part in fields(self))

    def parts(self) -> list[tuple[str, int]]:
        """(name in words, bytes), the total last."""
        named = [(part.name.replace("_", " "), getattr(self, part.name)) for part in fields(self)]
        return [*named, ("total", self.total)]


def estimate(sizes: Architecture, work: Workload) -> MemoryEstimate:
    """The memory of one training step on the fullest rank."""
    parameters = sizes.parameters()
    matrices = sizes.layers * (sizes.layer_parameters() - 2 * sizes.hidden_size)
    layout = make_layout(work.layout, work.length, work.ranks)
    tokens = max(layout.local_length(rank) for rank in range(work.ranks))
    return MemoryEstimate(
        weights=FP32 * parameters,
        gradients=FP32 * parameters + min(BUCKET_BYTES, FP32 * parameters),
        optimizer=FP32 * (work.moments[0] * matrices + work.moments[1] * (parameters - matrices)),
        activations=tokens * activation_bytes_per_token(sizes, work),
        attention_buffers=attention_buffers(sizes, work),
        logits_chunk=FP32
        * (LOGIT_COPIES * min(work.loss_chunk, tokens) * sizes.vocabulary + sizes.vocabulary * sizes.hidden_size),
    )


def activation_bytes_per_token(sizes: Architecture, work: Workload) -> int:
    """What is kept between forward and backward, for one token over all layers.

    A layer keeps, of the residual stream, three tensors at each norm (its input, the normalized input, the
    result); queries, keys, values, out and lse of attention; and four tensors of the feed-forward (gate, its
    activation, up, their product). With checkpointing only a layer's input stays, and attention's results
    where they are kept; one layer at a time is whole again in the backward.
    """
    hidden, item = sizes.hidden_size, work.item_bytes
    queries, keys = sizes.heads * sizes.head_dim, sizes.key_value_heads * sizes.head_dim
    attention_results = item * queries + FP32 * sizes.heads
    layer = item * (6 * hidden + queries + 2 * keys + 4 * sizes.intermediate_size) + attention_results
    last_norm_and_loss = item * 4 * hidden
    if not work.gradient_checkpointing:
        return sizes.layers * layer + last_norm_and_loss
    kept = item * hidden + (attention_results if work.keep_attention else 0)
    return sizes.layers * kept + layer + last_norm_and_loss


def attention_buffers(sizes: Architecture, work: Workload) -> int:
    """Parcels and partials that are on the way in one layer, on the fullest rank, the larger of forward and
    backward.
    """
    layout = make_layout(work.layout, work.length, work.ranks)
    schedule = make_schedule(
        work.schedule, Shape(work.ranks, sizes.heads, sizes.key_value_heads, layout.chunks_per_rank)
    )
    visible = visible_blocks(Mask(), layout, layout)
    tensors = Tensors(
        batch=1,
        query_heads=sizes.heads,
        key_heads=sizes.key_value_heads,
        head_dim=sizes.head_dim,
        item_bytes=work.item_bytes,
        sum_bytes=FP32,
    )
    peaks: list[int] = []
    for backward in (False, True):
        size = chunk_bytes(schedule, layout, layout, tensors, backward=backward)
        peaks += verify(schedule, visible, backward=backward, size=size).peak
    return max(peaks)
