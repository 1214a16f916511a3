"""What a linear layer's mixer holds on a rank: for its backward, in its backward, and in buffers of states. No torch.

The counts follow `ringattn.layers.linear` tensor by tensor: query, key and value in fp32 by heads and pieces, scores
[64, 64] of each piece and head, the state that enters each piece. Which of them autograd keeps follows from what each
operation's gradient reads. One process on a CPU mixes a long text in parts, and has the gradients of one part at a
time: they are counted for all tokens, as a GPU has them. Left out: numbers of each token and head (decays, betas),
padding, masks of documents.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from ringattn.planner.mixers import GLA_RANK, PIECE, Decay, LinearSizes
from ringattn.planner.training_step import FP32, TrainingStep
from ringattn.schedule.states import StateSizes, fitted_route, make_state_route, state_messages
from ringattn.sequence.layout import make_layout
from ringattn.sequence.stretches import stretches


@dataclass(frozen=True, kw_only=True)
class MixerMemory:
    """Bytes of one layer. kept: from forward to backward, between the norm before it and the residual. left, workspace:
    at the fullest moment of its backward, what is left of that, and what the gradients take. buffers: of states."""

    sizes: LinearSizes
    kept: int
    left: int
    workspace: int
    buffers: int


@dataclass(frozen=True)
class _Numbers:
    """For each token: numbers in the activations' dtype, and in fp32."""

    item: float = 0.0
    wide: float = 0.0

    def bytes(self, item_bytes: int) -> float:
        return item_bytes * self.item + FP32 * self.wide


def mixer_memory(sizes: LinearSizes, step: TrainingStep) -> MixerMemory:
    """Of a layer of `sizes` on a rank that trains `step`."""
    spread, narrow = step.ranks > 1, step.item_bytes < FP32
    before, core, after = _before(sizes, narrow), _core(sizes, spread), _after(sizes)

    def bytes_of(*parts: _Numbers) -> int:
        return round(step.tokens * sum(part.bytes(step.item_bytes) for part in parts))

    # States that enter a rank's chunks, where they are in none of the scans.
    entering = 0
    if spread and (sizes.delta or sizes.decay is Decay.FIXED):
        entering = make_layout(step.layout, 0, step.ranks).chunks_per_rank * sizes.states().state_bytes()
    # At the output's norm nothing else has gone yet; in the midst of the chunked form what came after it has.
    at_the_norm = bytes_of(after, _Numbers(wide=_at_the_norm(sizes, narrow) * sizes.values))
    return MixerMemory(
        sizes=sizes,
        kept=bytes_of(before, core, after) + entering,
        left=bytes_of(before, core) + entering,
        workspace=max(at_the_norm, bytes_of(_gradients(sizes, spread))),
        buffers=_buffers(sizes.states(), step.state_route, step.layout, step.ranks) if spread else 0,
    )


def _before(sizes: LinearSizes, narrow: bool) -> _Numbers:
    """What makes query, key, value and decay from the maps' results."""
    keys, values, heads = sizes.keys, sizes.values, sizes.heads
    if sizes.delta:
        # The convolution's input, and silu's; then query and key are divided by their lengths.
        convolved = sizes.convolved
        item, wide = (2 * convolved, 2 * keys) if narrow else (3 * convolved, 0)
        if sizes.mixer == "kda":
            # The thin maps' results; softplus's input and result.
            return _Numbers(item + 2 * sizes.value_dim, wide + 2 * keys + 3 * heads)
        return _Numbers(item, wide + (6 if sizes.decay is Decay.HEAD else 3) * heads)
    if sizes.mixer == "gla":
        # log sigmoid's input, and what it keeps beside it.
        return _Numbers(GLA_RANK, 2 * keys)
    if sizes.mixer == "hgrn":
        # The forget gate three times on its way, and the value that is written.
        return _Numbers(values if sizes.value_silu else 0, 4 * values)
    if sizes.mixer == "hgrn2":
        return _Numbers(keys, 3 * keys)
    if sizes.mixer == "lightning":
        return _Numbers(2 * keys)
    # RetNet's cosines and sines, of query and of key.
    return _Numbers(2 * sizes.key_dim)


def _core(sizes: LinearSizes, spread: bool) -> _Numbers:
    """The chunked form, in the names of `ringattn.layers.linear.chunked`."""
    keys, values = sizes.keys, sizes.values
    if sizes.mixer == "hgrn":
        # Decays, states from zero and what is written to them, products of decays; the state that enters each piece.
        return _Numbers(wide=4 * values + 2 * values / PIECE)
    scores = sizes.heads * PIECE
    state = keys * sizes.value_dim / PIECE
    if sizes.decay is Decay.CHANNEL:
        # query, key, the running decay and its two exponentials, and the two products of them.
        by_key, squares = 7, 1
    elif sizes.decay is Decay.NONE:
        by_key, squares = 2, 1
    else:
        # query, key, and both decayed; decays between tokens, and, where they learn, products before they are decayed.
        by_key, squares = 4, 2 if sizes.decay is Decay.FIXED else 3
    if not sizes.delta:
        # Where decays learn, each state by itself as well; over ranks those from zero too.
        states = 1 if sizes.decay is Decay.FIXED else 2 + spread
        return _Numbers(wide=by_key * keys + values + squares * scores + states * state)
    # Products of keys, decayed and then times beta; what is wanted and what is solved, of values and keys; what is
    # written, from zero and in all; states.
    squares += 3 if sizes.decay is Decay.HEAD else 2
    rows = by_key * keys + 2 * (values + keys) + 2 * values
    if spread:
        # The same scan from zero, with a unit matrix beside the state.
        rows += values + keys
        state += (keys * (sizes.value_dim + sizes.key_dim) / PIECE) / 2
    return _Numbers(wide=rows + squares * scores + 2 * state)


def _after(sizes: LinearSizes) -> _Numbers:
    """The norm of the output, its gate, and what the output's map reads."""
    values = sizes.values
    if sizes.mixer in ("deltanet", "hgrn2"):
        return _Numbers(2 * values, values)
    if sizes.mixer == "lightning":
        return _Numbers(3 * values, values)
    return _Numbers((4 if sizes.mixer == "kda" else 5) * values, values)


def _at_the_norm(sizes: LinearSizes, narrow: bool) -> int:
    """Gradients of the output's norm, in fp32 numbers for each channel of a value: of its result and its input, of a
    gate without an activation or of no gate one more, and in narrow dtypes a wider one."""
    return 2 + (sizes.mixer in ("deltanet", "hgrn2", "lightning")) + narrow


# Gradients in the midst of the chunked form, over what is left for them: fp32 numbers for each channel of a key, of a
# value, and for each score, alone and over ranks. Read off the profiler for a layer's backward of 12 shapes, from keys
# eight times as wide as values to half: with these its peak is met to 6 %, and to 2 % in the mean.
_GRADIENTS = {
    (True, Decay.NONE): ((3.5, 0.5, 1.5), (4.5, 0.0, 0.0)),
    (True, Decay.HEAD): ((1.5, 0.0, 2.0), (3.5, 0.0, 0.0)),
    (True, Decay.CHANNEL): ((7.0, 0.5, -3.0), (3.5, 0.0, 0.0)),
    (False, Decay.CHANNEL): ((6.0, 0.0, 0.0), (6.0, 0.0, 0.0)),
    (False, Decay.FIXED): ((1.5, 4.0, -0.5), (2.0, 2.5, 0.0)),
}


def _gradients(sizes: LinearSizes, spread: bool) -> _Numbers:
    """In the midst of the chunked form; HGRN's are fewest there."""
    if sizes.mixer == "hgrn":
        return _Numbers()
    by_key, by_value, by_score = _GRADIENTS[sizes.delta, sizes.decay][spread]
    return _Numbers(wide=by_key * sizes.keys + by_value * sizes.values + by_score * sizes.heads * PIECE)


@lru_cache(maxsize=256)
def _buffers(sizes: StateSizes, route: str, layout: str, ranks: int) -> int:
    """The most that a rank takes for the messages of one pass: what it sends, once where it goes to several ranks, and
    what it receives, until the pass ends."""
    holders = tuple(stretch.rank for stretch in stretches(make_layout(layout, 2 * ranks, ranks)))
    value = make_state_route(fitted_route(route, sizes.heads, sizes.value_dim), ranks, holders)
    taken = [0] * ranks
    for step in value.steps:
        packed = set()
        for (source, target), moves in state_messages(step).items():
            size = sum(sizes.carried_bytes(move, value.slices) for move in moves)
            taken[target] += size
            what = (source, tuple((move.kind, move.stretch, move.slice, move.last) for move in moves))
            if what not in packed:
                packed.add(what)
                taken[source] += size
    return max(taken)
