"""`parallelize`: a Hugging Face causal LM whose sequence is spread over ranks."""

from __future__ import annotations

from typing import TypeVar

from torch import nn
from transformers import PreTrainedModel

from ringattn.attention import SequenceParallel
from ringattn.models.attachment import Attachment, attachment_of
from ringattn.models.attend import register
from ringattn.models.checkpointing import enable_checkpointing
from ringattn.models.cut import Cut
from ringattn.models.inputs import InputHooks
from ringattn.models.loss import local_loss
from ringattn.models.rotary import LastPositionHooks, depends_on_length
from ringattn.models.support import attention_modules, check_supported, set_attention, text_model

Model = TypeVar("Model", bound=nn.Module)


def parallelize(
    model: Model, sp: SequenceParallel, *, gradient_checkpointing: bool = False, keep_attention: bool = True
) -> Model:
    """Spread the sequence that `model` reads over the ranks of `sp`. Returns `model` itself.

    model: a Hugging Face causal LM with the attention interface (LLaMA, Qwen2, Qwen3, Mistral, Gemma2, Gemma3 and
        others), or a PEFT model around one. Weights stay as they are, whole on every rank.
    gradient_checkpointing: drop each layer's activations and compute them again in the backward.
    keep_attention: then keep attention's out and lse, so that attention neither computes nor communicates again.

    The model is then called in one of two ways, by all ranks of the group together.

    With full inputs, the same on every rank: `model(input_ids=ids, labels=ids, documents=bounds)`, where ids is int64
    [B, L] and `documents`, if given, holds the cumulative lengths of packed documents from 0 to L (positions then
    restart, and no document's last token has a target). `outputs.logits` are those of this rank's tokens,
    [B, n, vocabulary]: `sp.unshard(outputs.logits, 1, length=L)` makes them whole (of a landmark model, which is cut
    between blocks, `cut_of(model).unshard(outputs.logits, 1, L, bounds)`, from `ringattn.models.attachment`).
    `outputs.loss` is the sum of this rank's token losses x ranks / targets of the whole batch: its mean over ranks is
    the loss, and gradients averaged over ranks (DistributedDataParallel, DeepSpeed, Trainer) are the loss's.
    `num_items_in_batch`, where given, stands for the number of targets, as in transformers.

    With this rank's shards: `model(input_ids=local, length=L)`, or the decoder inside,
    `model.model(input_ids=local, position_ids=sp.positions(L)[None], length=L)`. Positions are filled in where not
    given. Labels are refused there: pass `shift_labels`, shifted before they were cut, and `num_items_in_batch`.

    Raises ValueError where the model can't be parallelized, or is so already with another `sp`. Calls raise it, on
    every rank, for padding, a key and value cache, and inputs that differ between ranks.
    """
    inner = text_model(model)
    present = attachment_of(inner)
    if present is not None and present.sp is not sp:
        raise ValueError(
            "the model is parallelized already, with another SequenceParallel: make a new model, or use the first one"
        )
    if present is None:
        check_supported(inner)
        register()
        set_attention(inner)
        _attach(model, inner, Attachment(sp, Cut(sp, getattr(inner.config, "landmark_block", None))))
    if gradient_checkpointing:
        enable_checkpointing(inner, sp, keep_attention=keep_attention)
    return model


def _attach(model: nn.Module, inner: PreTrainedModel, attachment: Attachment) -> None:
    inner.loss_function = local_loss
    for module in attention_modules(inner):
        attachment.attach(module)
    hooks = InputHooks(attachment, inner.config.get_text_config())
    # The outermost of these that is called prepares the call.
    callables: list[nn.Module] = [model, inner, inner.base_model]
    for module in dict.fromkeys(callables):
        attachment.attach(module)
        hooks.register(module)
    of_length = LastPositionHooks(attachment)
    for module in inner.modules():
        if depends_on_length(module):
            of_length.register(module)
