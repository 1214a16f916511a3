"""What a call of a parallelized model is given, and what its layers get: the hooks around the call.

A call without `length` has FULL inputs, the same on every rank of the group: the hook cuts them, fills the positions,
and shifts the labels before it cuts them too, so that no target is lost at a border between shards. A call with
`length` has this rank's shards already. Either way `length` and `documents` travel as keyword arguments to the
attention function; as arguments, and not as state, because activation checkpointing runs a layer again in the backward,
when the call is long over.
"""

from __future__ import annotations

import hashlib
import inspect
from typing import Any

import torch
from torch import Tensor, nn

from ringattn.models.attachment import Attachment
from ringattn.models.loss import IGNORE, shift
from ringattn.models.rotary import warn_of_long_sequence
from ringattn.sequence.mask import Mask

_CUT = ("input_ids", "inputs_embeds", "position_ids", "token_type_ids")

Arguments = dict[str, Any]


class InputHooks:
    """A forward pre-hook and a forward hook for a causal LM and for the decoder inside; the outermost call is the one
    that is prepared."""

    def __init__(self, attachment: Attachment, config: Any) -> None:
        self._attachment = attachment
        self._config = config

    def register(self, module: nn.Module) -> None:
        module.register_forward_pre_hook(self.before, with_kwargs=True)
        # Always: a call that raised is over too.
        module.register_forward_hook(self.after, always_call=True)

    def before(self, module: nn.Module, args: tuple[Any, ...], kwargs: Arguments) -> tuple[tuple[()], Arguments]:
        given = _by_name(module, args, kwargs)
        attachment = self._attachment
        if attachment.outermost is not None and attachment.outermost is not module:
            if given.get("length") is None:
                raise ValueError(
                    f"{type(attachment.outermost).__name__} drops the keyword arguments of its call before "
                    f"{type(module).__name__}: this model can't be parallelized"
                )
            return (), given
        terms: dict[str, str] = {}
        refused = None
        try:
            self._check(given)
            if given.get("shards") is not None and given["shards"].decoding:
                self._prepare_step(given)
                warn_of_long_sequence(attachment, self._config)
                attachment.outermost, attachment.attended = module, False
                return (), given
            terms = self._prepare_shards(given) if given.get("length") is not None else self._cut(given)
        except ValueError as error:
            refused = error
        attachment.sp.agree(terms, refused)
        warn_of_long_sequence(attachment, self._config)
        attachment.outermost, attachment.attended = module, False
        return (), given

    def after(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        attachment = self._attachment
        if attachment.outermost is not module:
            return
        attachment.outermost = None
        if output is not None and not attachment.attended:
            raise ValueError(
                f"{type(module).__name__} computed its attention without transformers' attention interface, so each "
                "rank saw its own tokens alone: this model can't be parallelized"
            )

    def _check(self, given: Arguments) -> None:
        if given.get("use_cache") or given.get("past_key_values") is not None:
            raise ValueError(
                "a parallelized model keeps no key and value cache, but was called with "
                f"{'use_cache=True' if given.get('use_cache') else 'past_key_values'}: call it with use_cache=False, "
                "and generate with ringattn.generate"
            )
        given["use_cache"] = False
        if given.get("output_attentions"):
            raise ValueError(
                "a parallelized model never holds its attention weights, but was called with output_attentions=True: "
                "drop it"
            )
        keep = given.get("logits_to_keep") if given.get("shards") is None else None
        if self._attachment.sp.world > 1 and (isinstance(keep, Tensor) or keep):
            raise ValueError(
                "logits_to_keep counts tokens of the whole sequence, and a rank of a parallelized model holds only "
                f"its shard's logits, got {keep}: drop it, and generate with ringattn.generate"
            )
        check_no_padding(given.pop("attention_mask", None))
        for name in ("input_ids", "inputs_embeds"):
            if given.get(name) is not None and given[name].dim() < 2:
                raise ValueError(f"{name} must be [batch, tokens, ...], got the shape {tuple(given[name].shape)}")
        if (given.get("input_ids") is None) == (given.get("inputs_embeds") is None):
            raise ValueError("a model is called with either input_ids or inputs_embeds: give exactly one of them")

    def _cut(self, given: Arguments) -> dict[str, str]:
        """Replace full inputs by this rank's shards. Returns what all ranks must have been given alike."""
        sp = self._attachment.sp
        tokens = _tokens(given)
        batch, length = tokens.shape[:2]
        documents = _documents(given, length)
        for name in (*_CUT, "labels", "shift_labels"):
            if given.get(name) is not None:
                _check_full(name, given[name], batch, length)
        terms = {f"{name}, which every rank gets whole and alike,": describe_value(given.get(name)) for name in _ALIKE}
        cut = self._attachment.cut
        layout = cut.layout(length, documents)
        if min(layout.local_length(rank) for rank in range(sp.world)) == 0:
            raise ValueError(
                f"every rank needs a token, but layout {layout.name!r} leaves a rank without any of {length} tokens "
                f"over {sp.world} ranks: give a longer sequence"
            )
        positions = given.get("position_ids")
        self._check_of_landmarks(given, _positions(length, documents))
        if positions is None:
            positions = _positions(length, documents).to(tokens.device)[None]
        given["position_ids"] = positions
        self._attachment.last_position = cut.last_place(int(positions.max()))
        self._cut_labels(given, documents)
        for name in _CUT:
            if given.get(name) is not None:
                given[name] = cut.shard(given[name], 1, documents)
        given["length"], given["documents"] = length, documents
        return terms

    def _cut_labels(self, given: Arguments, documents: tuple[int, ...] | None) -> None:
        targets = given.get("shift_labels")
        if targets is None and given.get("labels") is not None:
            targets = shift(given["labels"], documents)
        if targets is None:
            return
        items = given.get("num_items_in_batch")
        if items is None:
            items = int((targets != IGNORE).sum())
            if items == 0:
                raise ValueError(
                    f"a batch needs at least one target that is not {IGNORE}, got none: check the labels, of which "
                    "the first of a sequence and of each document is nobody's target"
                )
        self._give_targets(given, self._attachment.cut.shard(targets, 1, documents), items)

    def _prepare_shards(self, given: Arguments) -> dict[str, str]:
        """Check this rank's shards and fill their positions. Returns what all ranks must say alike."""
        sp, cut = self._attachment.sp, self._attachment.cut
        tokens, length = _tokens(given), given["length"]
        if isinstance(length, bool) or not isinstance(length, int) or length < 1:
            raise ValueError(f"length is the global number of tokens, a whole number above 0, got {length!r}")
        documents = _documents(given, length)
        if given.get("labels") is not None:
            raise ValueError(
                "labels of a shard can't be shifted, because their targets lie over its border on another rank: call "
                "with full inputs (without length=), or shift before you cut, and pass shift_labels and "
                "num_items_in_batch, the number of targets of the whole sequence"
            )
        sp.check_shard("input_ids" if given.get("input_ids") is not None else "inputs_embeds", tokens.shape[1],
                       cut.layout(length, documents))  # fmt: skip
        places = _positions(length, documents)
        own = cut.shard(places, 0, documents)
        self._check_of_landmarks(given, own)
        if given.get("position_ids") is None:
            given["position_ids"] = own.to(tokens.device)[None]
        self._attachment.last_position = cut.last_place(int(places.max()))
        if given.get("shift_labels") is not None:
            if given.get("num_items_in_batch") is None:
                raise ValueError(
                    "shift_labels of a shard need num_items_in_batch, the number of targets of the whole sequence "
                    "over all ranks: pass it"
                )
            self._give_targets(given, given["shift_labels"], given["num_items_in_batch"])
        given["documents"] = documents
        return {
            "length": str(length),
            "documents": _shortened(documents),
            "the batch size": str(tokens.shape[0]),
        }

    def _check_of_landmarks(self, given: Arguments, positions: Tensor) -> None:
        """What a landmark model refuses, found before the ranks agree: one rank's tokens alone may be wrong."""
        if self._attachment.cut.landmark_block is not None:
            check_ids(given.get("input_ids"), self._config.vocab_size)
            check_positions(given.get("position_ids"), positions)

    def _prepare_step(self, given: Arguments) -> None:
        """One token of each row, on every rank: nothing is cut, and the ranks agreed when the prompt was read."""
        position = given["shards"].length
        self._attachment.last_position = position
        given["length"], given["documents"] = position + 1, None

    def _give_targets(self, given: Arguments, targets: Tensor, items: Any) -> None:
        """Targets of this rank, under both names: models compute no loss without `labels`. The loss is a sum over
        `num_items_in_batch`, and the mean over ranks of sum x world / items is the mean over targets."""
        given["labels"] = given["shift_labels"] = targets
        given["num_items_in_batch"] = items / self._attachment.sp.world


_ALIKE = ("input_ids", "inputs_embeds", "position_ids", "labels", "shift_labels", "documents", "num_items_in_batch")


def _by_name(module: nn.Module, args: tuple[Any, ...], kwargs: Arguments) -> Arguments:
    bound = inspect.signature(module.forward).bind(*args, **kwargs)
    given: Arguments = {}
    for name, value in bound.arguments.items():
        if bound.signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD:
            given.update(value)
        else:
            given[name] = value
    return given


def _tokens(given: Arguments) -> Tensor:
    tokens: Tensor = given["input_ids"] if given.get("input_ids") is not None else given["inputs_embeds"]
    return tokens


def check_ids(input_ids: Tensor | None, vocabulary: int) -> None:
    """ValueError where a landmark model's text has other ids than `vocabulary` ordinary tokens have."""
    highest = int(input_ids.max()) if input_ids is not None and input_ids.numel() else 0
    if highest >= vocabulary:
        what = "the landmark's own id, which the model puts in by itself" if highest == vocabulary else "no token's"
        raise ValueError(
            f"a text's token ids go from 0 to {vocabulary - 1}, got {highest}, {what}: give the text without it."
        )


def check_positions(given: Tensor | None, expected: Tensor) -> None:
    """ValueError where a landmark model is given other positions than each token's place in its document, int64 [n]."""
    if given is None:
        return
    if given.shape[-1] != len(expected) or bool((given.cpu() != expected).any()):
        raise ValueError(
            "a landmark model counts positions by itself, landmarks among them, but was given position_ids that "
            "are not each token's place in its document: leave them out, and say where documents end with "
            "documents=."
        )


def check_no_padding(mask: Any) -> None:
    if mask is None:
        return
    if not isinstance(mask, Tensor) or mask.dim() != 2:
        shape = tuple(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
        raise ValueError(
            f"attention_mask must be [batch, tokens] and all ones, or left out, got {shape}: masks of other kinds are "
            "not supported; causality and windows follow from the model, packed documents from documents="
        )
    masked = int((mask == 0).sum())
    if masked:
        raise ValueError(
            f"padding is not supported, and attention_mask masks {masked} of {mask.numel()} tokens: pack the texts "
            "into one row and pass documents=, their cumulative lengths, and leave attention_mask out"
        )


def _documents(given: Arguments, length: int) -> tuple[int, ...] | None:
    """The packed documents of a call: as `documents`, as transformers' `cu_seq_lens_q`, or from positions that restart
    (as transformers reads them where no mask is given)."""
    named = given.pop("cu_seq_lens_q", None)
    of_keys = given.pop("cu_seq_lens_k", None)
    for name in ("max_length_q", "max_length_k"):
        given.pop(name, None)
    bounds = given.get("documents")
    if bounds is None:
        bounds = named
    if bounds is None and given.get("length") is None:
        bounds = documents_of_positions(given.get("position_ids"))
    if bounds is None:
        return None
    values = tuple(int(bound) for bound in bounds)
    if named is not None and of_keys is not None and [int(bound) for bound in of_keys] != [int(b) for b in named]:
        raise ValueError("cu_seq_lens_q and cu_seq_lens_k must be the same in a causal LM: pass documents= instead")
    Mask(documents=values).check(length, length)
    given["documents"] = values
    return values


def documents_of_positions(positions: Tensor | None) -> list[int] | None:
    """The documents' bounds that positions [rows, L] show where they restart; None where they never do."""
    if positions is None or positions.dim() != 2:
        return None
    jumps = positions[:, 1:] - positions[:, :-1] != 1
    if not bool(jumps.any()):
        return None
    if bool((jumps != jumps[:1]).any()):
        raise ValueError(
            "position_ids restart at other places in one row of the batch than in another, and packed documents must "
            "end at the same places in every row: pass one row"
        )
    starts = (jumps[0].nonzero().flatten() + 1).tolist()
    return [0, *starts, positions.shape[1]]


def _positions(length: int, documents: tuple[int, ...] | None) -> Tensor:
    """int64 [length]: each token's position in its document."""
    places = torch.arange(length)
    if documents is None:
        return places
    bounds = torch.tensor(documents)
    return places - bounds[torch.searchsorted(bounds, places, right=True) - 1]


def _check_full(name: str, tensor: Tensor, batch: int, length: int) -> None:
    batches = (1, batch) if name == "position_ids" else (batch,)
    if tensor.dim() < 2 or tensor.shape[0] not in batches or tensor.shape[1] != length:
        raise ValueError(
            f"{name} must be [{batch}, {length}] like the tokens, got the shape {tuple(tensor.shape)}: without "
            "length=, a parallelized model takes full inputs"
        )


def describe_value(value: Any) -> str:
    """A few words that differ where values do."""
    if value is None:
        return "none"
    if not isinstance(value, Tensor):
        return _shortened(value)
    words = f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    if value.is_floating_point() and value.dim() > 1:
        return words  # Embeddings may differ in their last digits from rank to rank.
    content = value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
    return f"{words} {hashlib.sha256(content).hexdigest()[:8]}"


def _shortened(value: Any) -> str:
    words = repr(value)
    if len(words) <= 60:
        return words
    return f"{words[:40]}... {hashlib.sha256(words.encode()).hexdigest()[:8]}"
