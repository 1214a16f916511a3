"""How many bytes a rank holds at each moment of a training step, from sizes alone. No torch.

A step's peak is no sum of everything it ever holds: logits are gone when the backward of a layer runs, and a layer's
activations when the optimizer does. So the tensors that exist together are added up moment by moment - in the loss, in
the backward of the last norm, of each layer's feed-forward and attention and of the embedding, in the reduction of
gradients, in the optimizer - and the largest of these sums is the estimate. Every term is a tensor that can be pointed
at in `ringattn.training` or in a LLaMA of transformers; `scripts/measure_memory.py` holds the sums against what the
allocator counts.

Left out: indices (token ids, positions, labels), single numbers, and what is not tensors: the program, and buffers of
gloo's or NCCL's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate, pairwise

from ringattn.planner.architecture import LINEAR, LOOKUPS, Architecture, in_matrices, size_of
from ringattn.planner.attention_memory import AttentionMemory, attention_memory
from ringattn.planner.mixer_memory import MixerMemory, mixer_memory
from ringattn.planner.training_step import BF16, FP32, GRAIN, Precision, TrainingStep
from ringattn.schedule.traffic import Tensors

BUCKET_BYTES = 64 * 2**20


@dataclass(frozen=True, kw_only=True)
class MemoryEstimate:
    """Bytes on the fullest rank at one moment of a step.

    activations: what autograd keeps for the backward. attention_buffers: of messages, kept from call to call. loss:
    the head's gradients, which the loss makes in its forward, and the logits. temporaries: of the operation under way.
    """

    moment: str
    weights: int
    gradients: int
    optimizer: int
    attention_buffers: int
    activations: int = 0
    loss: int = 0
    temporaries: int = 0

    @property
    def total(self) -> int:
        return sum(size for _, size in self._named())

    def parts(self) -> list[tuple[str, int]]:
        """(name in words, bytes), the total last."""
        return [*self._named(), ("total", self.total)]

    def _named(self) -> list[tuple[str, int]]:
        names = ("weights", "gradients", "optimizer", "attention_buffers", "activations", "loss", "temporaries")
        return [(name.replace("_", " "), getattr(self, name)) for name in names]


def estimate(sizes: Architecture, step: TrainingStep) -> MemoryEstimate:
    """The fullest moment of a training step, in a run that has made steps before."""
    return max(moments(sizes, step), key=lambda moment: moment.total)


def least(sizes: Architecture, step: TrainingStep) -> int:
    """Bytes that the step takes on the fullest rank under any schedule of the backward: `step.backward` is not read."""
    return max(moment.total for moment in _Step(sizes, step, any_backward=True).moments())


def moments(sizes: Architecture, step: TrainingStep) -> list[MemoryEstimate]:
    """Each moment of a training step at which the peak can be, in their order."""
    return list(_Step(sizes, step).moments())


def activation_bytes_per_token(sizes: Architecture, step: TrainingStep) -> int:
    """What is kept between forward and backward, for one token over all layers; with checkpointing one layer at a time
    is whole again in the backward, and counted too."""
    whole = _Step(sizes, replace(step, length=step.ranks * GRAIN))
    again = max(map(whole.layer_activations, whole.kinds)) if step.gradient_checkpointing else 0
    return -(-(whole.kept(sizes.layers) + 2 * FP32 * whole.stream + again) // whole.tokens)


def layer_bytes(sizes: Architecture, step: TrainingStep) -> dict[str, float]:
    """What one layer of each kind keeps of one token for its backward."""
    whole = _Step(sizes, replace(step, length=step.ranks * GRAIN))
    return {kind: whole.layer_activations(kind) / whole.tokens for kind in whole.layer}


def longest(sizes: Architecture, step: TrainingStep, memory_bytes: int) -> int:
    """The longest sequence whose training step takes at most `memory_bytes` on each rank, in tokens: a multiple of
    128 for each of `step.ranks`, 0 where even one such multiple takes more. `step.length` is not read."""

    def fits(parts: int) -> bool:
        return estimate(sizes, replace(step, length=parts * GRAIN * step.ranks)).total <= memory_bytes

    low, high = 0, 1
    while fits(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low * GRAIN * step.ranks


class _Step:
    """The moments of one step. Names of sizes are in elements unless they say bytes."""

    def __init__(self, sizes: Architecture, step: TrainingStep, *, any_backward: bool = False) -> None:
        self.sizes, self.step, self.any_backward = sizes, step, any_backward
        self.item, self.weight = step.item_bytes, step.weight_bytes
        self.tokens = step.tokens
        self.queries, self.keys = sizes.heads * sizes.head_dim, sizes.key_value_heads * sizes.head_dim
        self.stream = self.tokens * sizes.hidden_size
        # Of the tokens that a feed-forward layer reads at one time.
        self.inner = min(self.tokens, step.mlp_chunk or self.tokens) * sizes.intermediate_size
        self.tiled = step.mlp_chunk is not None and step.mlp_chunk < self.tokens
        self.lookup = sizes.vocabulary * sizes.hidden_size
        self.kinds = sizes.kinds()
        weights = {kind: sizes.layer_weights(kind) for kind in set(self.kinds)}
        self.layer = {kind: size_of(weights[kind]) for kind in weights}
        self.matrices = {kind: in_matrices(weights[kind]) for kind in weights}
        # Of the first 0, 1, 2, ... layers.
        self.up_to = [0, *accumulate(self.layer[kind] for kind in self.kinds)]
        self.attending = [0, *accumulate(kind != LINEAR for kind in self.kinds)]
        self.all = sizes.parameters()
        self.feed_forward = sizes.hidden_size * sizes.intermediate_size

    @cached_property
    def attention(self) -> AttentionMemory:
        sizes, step = self.sizes, self.step
        return attention_memory(
            step.schedule,
            None if self.any_backward else step.backward or step.schedule,
            step.layout,
            Tensors(1, sizes.heads, sizes.key_value_heads, sizes.head_dim, self.item, FP32),
            ranks=step.ranks,
            tokens=self.tokens,
            threads=step.threads,
        )

    @cached_property
    def mixer(self) -> MixerMemory:
        linear = self.sizes.mixer()
        assert linear is not None, "asked for linear layers alone"
        return mixer_memory(linear, self.step)

    @property
    def buffers(self) -> int:
        """Attention and states take theirs from one pool, one after the other."""
        found = [self.attention.buffers] if self.attending[-1] else []
        return max([*found, self.mixer.buffers] if LINEAR in self.kinds else found)

    def moments(self) -> Iterator[MemoryEstimate]:
        sizes, stream = self.sizes, self.stream
        yield self._at("loss", loss=self._in_the_loss(), cast=self._cast(sizes.layers), before=True, last=True)
        # Gradient of the input along two ways, of the mean square, the input to the power of 1 and twice that.
        yield self._at("backward of the last norm", temporaries=5 * FP32 * stream, done=self.lookup, input_too=True,
                       cast=self._cast(sizes.layers), whole=self.lookup)  # fmt: skip
        for layer, kind in reversed([*enumerate(self.kinds)]):
            own = self.layer[kind]
            above = self.lookup + sizes.hidden_size + self.up_to[-1] - self.up_to[layer + 1]
            # Gradients of the product, of gate's activation and of up, and of the residual stream around them.
            yield self._at(
                f"backward of layer {layer + 1}'s feed-forward",
                layer=layer,
                activations=self.layer_activations(kind) + self.item * self.inner * (3 if self.tiled else -1),
                temporaries=3 * self.item * self.inner + self.weight * stream,
                done=above + self.feed_forward,
                cast=self._cast(layer) + self.step.copy_bytes * (own - self.feed_forward),
                whole=own,
            )
            yield self._mixing(layer, kind, above + 3 * self.feed_forward)
        # A tied embedding has the head's gradient already when its own is made.
        twice = self.weight * self.lookup if sizes.tie_embeddings or self.step.accumulation > 1 else 0
        yield self._at("backward of the embedding", temporaries=self.weight * stream + twice, done=self.all,
                       whole=self.lookup)  # fmt: skip
        if self.step.world > 1:
            yield self._at("reduction of gradients", temporaries=self._buckets(), done=self.all)
        yield from self._optimizer()

    def _mixing(self, layer: int, kind: str, above: int) -> MemoryEstimate:
        """In the middle of a layer's backward. above: weights whose gradients are there, but for the output's map."""
        hidden, copies = self.sizes.hidden_size, self.step.copy_bytes
        if kind == LINEAR:
            values = self.mixer.sizes.values
            return self._at(
                f"backward of layer {layer + 1}'s mixer",
                layer=layer,
                activations=self._first_norm(kind) + self.mixer.left + self._input(),
                temporaries=self.weight * self.stream + self.mixer.workspace,
                done=above + hidden * values,
                cast=self._cast(layer) + copies * (self.matrices[kind] - 3 * self.feed_forward - hidden * values),
                whole=self.layer[kind],
            )
        return self._at(
            f"backward of layer {layer + 1}'s attention",
            layer=layer,
            activations=self._first_norm(kind) + self._kept_attention() + self._projections() + self._input(),
            temporaries=self.weight * self.stream + self.item * self.tokens * self.queries + self.attention.workspace,
            done=above + hidden * self.queries,
            cast=self._cast(layer) + copies * hidden * (self.queries + 2 * self.keys),
            whole=self.layer[kind],
        )

    def _at(
        self,
        moment: str,
        *,
        layer: int | None = None,
        activations: int = 0,
        temporaries: int = 0,
        loss: int | None = None,
        done: int = 0,
        cast: int = 0,
        whole: int = 0,
        before: bool = False,
        last: bool = False,
        input_too: bool = False,
    ) -> MemoryEstimate:
        """layer: the one under way, with `activations` of its own; all of them are kept where it is None and the
        forward is over. done: weights whose gradients are there. whole: weights that ZeRO gathers for the moment."""
        step, sizes = self.step, self.sizes
        kept = 0
        if before or last or input_too or layer is not None:
            kept = self.kept(sizes.layers if layer is None else layer) + activations
        if last:
            kept += self.stream * self.step.norm_bytes(1) if not self.step.copy_bytes else self.stream * 3 * FP32
        if input_too:
            kept += FP32 * self.stream
        if step.accumulation > 1:
            done = self.all
        weights, gradients = self.weight * self.all, round(step.trained * self.weight * done)
        if step.zero >= 2:
            # Gradients are divided as soon as a layer's are there.
            gradients = -(-self.weight * self.all // step.world) + (self.weight * whole if done else 0)
            gradients = round(step.trained * gradients)
        if step.zero == 3:
            weights = -(-weights // step.world) + self.weight * (self.lookup if before else whole)
        return MemoryEstimate(
            moment=moment,
            weights=weights,
            gradients=gradients,
            optimizer=self._state(),
            attention_buffers=self.buffers,
            activations=kept + cast,
            loss=0 if loss is None else loss,
            temporaries=temporaries,
        )

    def layer_activations(self, kind: str) -> int:
        """What the backward of a layer reads: two norms, attention or a mixer, and of the feed-forward gate, its
        activation, up and their product."""
        second = self.stream * self.step.norm_bytes(2) + FP32 * self.tokens
        # A feed-forward in chunks keeps its input, which the norm before it keeps anyway.
        feed_forward = 0 if self.tiled else 4 * self.item * self.inner
        mixing = self.mixer.kept if kind == LINEAR else self._kept_attention() + self._projections()
        return self._first_norm(kind) + mixing + second + feed_forward + self._input()

    def _first_norm(self, kind: str) -> int:
        readers = self.mixer.sizes.readers() if kind == LINEAR else 3
        return self.stream * self.step.norm_bytes(readers) + FP32 * self.tokens

    def _projections(self) -> int:
        """Queries and keys with their positions, and values."""
        return self.item * self.tokens * (self.queries + 2 * self.keys)

    def _kept_attention(self) -> int:
        """out and lse."""
        return self.tokens * (self.item * self.queries + FP32 * self.sizes.heads)

    def _input(self) -> int:
        """A checkpointed layer's input, where its first norm reads a wider copy."""
        checkpointed = self.step.gradient_checkpointing and self.step.precision is Precision.MASTER
        return self.weight * self.stream if checkpointed else 0

    def kept(self, layers: int) -> int:
        """What the first `layers` layers keep for the backward: with checkpointing their inputs, and out and lse of
        attention where kept. And cosines and sines, which all attending layers read."""
        attending = self.attending[layers]
        rotation = 2 * self.weight * self.tokens * self.sizes.head_dim
        if not self.step.gradient_checkpointing:
            whole = sum(self.layer_activations(kind) * self.kinds[:layers].count(kind) for kind in self.layer)
            return whole + (rotation if self.attending[-1] else 0)
        kept_attention = self._kept_attention() if self.step.keep_attention else 0
        return layers * self.weight * self.stream + attending * kept_attention + rotation

    def _cast(self, layers: int) -> int:
        """bf16 copies of so many layers' matrices. Autocast caches them until the loss is there; from then on autograd
        has them, unless the layer is checkpointed."""
        checkpointed = self.step.gradient_checkpointing and layers < self.sizes.layers
        copied = sum(self.matrices[kind] * self.kinds[:layers].count(kind) for kind in self.matrices)
        return 0 if checkpointed else self.step.copy_bytes * copied

    def _in_the_loss(self) -> int:
        """Gradients of the states and of the head (its in fp32), and the logits of a chunk.

        The first product with the head's gradient has logits and their gradient at hand; each further chunk makes its
        logits while those of the chunk before are still there. Narrow products are widened before they are added.
        """
        vocabulary, hidden = self.sizes.vocabulary, self.sizes.hidden_size
        first = min(self.step.loss_chunk, self.tokens)
        second = min(first, self.tokens - first)
        chunk, next_chunk = first * vocabulary, second * vocabulary
        made = FP32 * self.lookup + self.weight * self.stream
        held = chunk * (FP32 + self.weight)
        if self.item == FP32:
            most = max(FP32 * self.lookup, FP32 * next_chunk)
        else:
            narrow = self.step.copy_bytes
            multiplied = BF16 * self.lookup + narrow * (chunk + first * hidden)
            logits = BF16 * next_chunk + max(FP32 * next_chunk, narrow * (second * hidden + self.lookup))
            # Autocast has a copy of the head from the first chunk on.
            most = max((BF16 + FP32) * self.lookup, multiplied, logits if second else 0) + narrow * self.lookup
        return made + held + most

    def _state(self) -> int:
        matrices = sum(self.matrices[kind] for kind in self.kinds)
        numbers = self.step.moments[0] * matrices + self.step.moments[1] * (self.all - matrices)
        whole = FP32 * numbers + (FP32 * self.all if self.step.precision is Precision.MASTER else 0)
        whole = round(self.step.trained * whole)
        return -(-whole // self.step.world) if self.step.zero else whole

    def _buckets(self) -> int:
        """Two flat fp32 buckets: one is filled while the last one still has its name."""
        buckets = [0]
        for weight in self.sizes.weights():
            size = FP32 * weight.size
            if buckets[-1] and buckets[-1] + size > BUCKET_BYTES:
                buckets.append(0)
            buckets[-1] += size
        return max(a + b for a, b in pairwise([0, *buckets]))

    def _optimizer(self) -> Iterator[MemoryEstimate]:
        """AdamW goes from weight to weight (torch's default on a CPU): the root of the second moment, that over its
        bias, and what the weight before left. Muon, after it, has the matrices' gradients alone, and for each the
        update before, this one's input, x, a x, and the new x in two parts beside x x^T. ZeRO's optimizers see a rank's
        share as one flat weight."""
        muon = self.step.moments[0] < self.step.moments[1]
        rest = [w.size for w in self.sizes.weights() if not muon or w.rows == 1 or w.name in LOOKUPS]
        if self.step.zero:
            yield self._at("optimizer", temporaries=2 * FP32 * -(-self.all // self.step.world), done=self.all)
            return
        yield self._at("optimizer", done=self.all, temporaries=FP32 * max(a + 2 * b for a, b in pairwise([0, *rest])))
        if muon:
            matrices = [w for kind in self.layer for w in self.sizes.layer_weights(kind) if w.rows > 1]
            most = max(5 * w.size + min(w.rows, w.columns) ** 2 for w in matrices)
            before = max(w.size for w in matrices)
            held = sum(self.matrices[kind] for kind in self.kinds)
            yield self._at("Muon", temporaries=FP32 * (most + before), done=held)
