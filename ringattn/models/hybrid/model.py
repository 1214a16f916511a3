"""Hybrid models as transformers' own kind of model: full or sliding attention in some layers, linear in the others.

In one process it is called as any causal LM. `ringattn.parallelize` spreads its sequence over ranks: the attending
layers through transformers' attention interface, the linear layers through their context.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.models.llama.modeling_llama import LlamaRMSNorm, LlamaRotaryEmbedding

from ringattn.layers.linear.context import Context
from ringattn.layers.linear.mixers.hgrn import lower_bounds
from ringattn.layers.linear.mixers.mixer import Mixer
from ringattn.models.attachment import Attachment, attachment_of
from ringattn.models.hybrid.cache import HybridCache
from ringattn.models.hybrid.config import HybridConfig
from ringattn.models.hybrid.layers import HybridLayer
from ringattn.models.hybrid.states import ShardedStates
from ringattn.models.inputs import documents_of_positions

# Mixers whose forget gates have lower bounds that rise with the layers, and what each has one for.
_BOUNDED = {"hgrn": "values", "hgrn2": "keys"}


class HybridPreTrainedModel(PreTrainedModel):
    config_class = HybridConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["HybridLayer"]  # noqa: RUF012 (as transformers declares it)
    _supports_sdpa = True
    _supports_attention_backend = True
    # transformers then neither makes a cache of its own nor takes tokens back.
    _is_stateful = True
    # Kinds of layers that mix tokens by other means than attention, and do so over ranks.
    sequence_parallel_layers = frozenset({"linear_attention"})

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, Mixer):
            # Where weights were loaded, they stay.
            if not all(getattr(parameter, "_is_hf_initialized", False) for parameter in module.parameters()):
                module.reset_parameters()
            return
        super()._init_weights(module)

    @classmethod
    def from_pretrained(cls, name: Any, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        """As transformers'; ValueError where the configuration asked for has other layers than the checkpoint."""
        model = super().from_pretrained(name, *args, **kwargs)
        found = model[0] if isinstance(model, tuple) else model
        names = ("subfolder", "revision", "cache_dir", "local_files_only", "token")
        stored = HybridConfig.from_pretrained(name, **{key: kwargs[key] for key in names if key in kwargs})
        sizes = ("linear_heads", "linear_key_dim", "linear_value_dim", "conv_width")
        for what in ("layer_types", "mixer", *sizes, "linear_gate_bias", "linear_value_silu"):
            one, other = getattr(stored, what), getattr(found.config, what)
            if one != other:
                raise ValueError(
                    f"the checkpoint {name} was made with {what} {_shown(one)}, and {_shown(other)} was asked for: "
                    "its weights serve its own layers alone; load it as it is"
                )
        return model


class HybridModel(HybridPreTrainedModel):
    """The decoder: tokens to states."""

    def __init__(self, config: HybridConfig) -> None:
        config.check_layers()
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, config.pad_token_id)
        self.layers = nn.ModuleList(HybridLayer(config, index) for index in range(config.num_hidden_layers))
        self.norm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.rotary_emb = LlamaRotaryEmbedding(config=cast(Any, config))
        self.lower_bounds: nn.Parameter | None = None
        linear = config.layer_types.count("linear_attention")
        if linear and config.mixer in _BOUNDED:
            channels = getattr(config.mixer_sizes(0), _BOUNDED[config.mixer])
            # No matrix that maps anything, which optimizers that make updates orthogonal would take two dims for.
            self.lower_bounds = nn.Parameter(torch.zeros(linear, 1, channels))
        self.gradient_checkpointing = False
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: HybridCache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        documents: Sequence[int] | Tensor | None = None,
        length: int | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """input_ids: int64 [B, n]. attention_mask: [B, tokens so far], 0 at padding, which lies before a text.
        documents: cumulative lengths of packed documents, the same in every row. length: the whole sequence's, of
        parallelized models."""
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("a model is called with either input_ids or inputs_embeds: give exactly one of them")
        hidden = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        attachment = attachment_of(self)
        shards = kwargs.pop("shards", None)
        visible, kept = None, None
        if attachment is not None:
            assert length is not None and position_ids is not None
            # Layers without attention mix tokens over ranks too.
            attachment.attended = True
            context = self._spread(attachment, length, documents, shards)
            kwargs.update(length=length, documents=documents, shards=shards)
        else:
            if length is not None:
                raise ValueError("length is for a parallelized model: call ringattn.parallelize(model, sp), or drop it")
            use_cache = self.config.use_cache if use_cache is None else use_cache
            # Checkpointing runs a layer twice, and a cache must be written once.
            if use_cache and past_key_values is None and not (self.gradient_checkpointing and self.training):
                past_key_values = HybridCache(self.config)
            if past_key_values is not None and not isinstance(past_key_values, HybridCache):
                raise ValueError(
                    f"a hybrid model keeps states, for which {type(past_key_values).__name__} has no place: give none, "
                    "or a HybridCache(model.config)"
                )
            past = past_key_values.get_seq_length() if past_key_values is not None else 0
            context, position_ids, visible, kept = _alone(
                hidden,
                past,
                attention_mask,
                position_ids,
                documents,
                needs_mask=self._needs_mask(hidden.shape[1], past),
            )
        rotation = self.rotary_emb(hidden, position_ids=position_ids)
        for layer, own in zip(self.layers, self._contexts(context), strict=True):
            hidden = layer(
                hidden,
                context=own,
                rotation=rotation,
                visible=visible,
                kept=kept,
                past_key_values=past_key_values,
                states=None if shards is None else shards.states,
                more=kwargs,
            )
        return BaseModelOutputWithPast(last_hidden_state=self.norm(hidden), past_key_values=past_key_values)

    def _spread(self, attachment: Attachment, length: int, documents: Any, shards: Any) -> Context:
        if "linear_attention" not in self.config.layer_types:
            # No layer reads it, and any layout serves.
            return Context((range(length),))
        if shards is None:
            return Context.spread(attachment.sp, length, documents, route=self.config.state_route)
        if shards.states is None:
            shards.states = ShardedStates(attachment.sp)
        shards.states.decoding = shards.decoding
        if shards.decoding:
            return Context((range(length - 1, length),))
        return Context.spread(attachment.sp, length, documents, route=self.config.state_route)

    def contexts_of(self, length: int, documents: Sequence[int] | Tensor | None = None) -> list[Context]:
        """What each layer's mixer is called with, for this rank's tokens of a sequence; of parallelized models."""
        attachment = attachment_of(self)
        if attachment is None:
            raise ValueError("tokens are spread over ranks by ringattn.parallelize(model, sp): call it first")
        return self._contexts(self._spread(attachment, length, documents, None))

    def _contexts(self, context: Context) -> list[Context]:
        """Each layer's, with its lower bound."""
        if self.lower_bounds is None:
            return [context] * len(self.layers)
        bounds = iter(lower_bounds(self.lower_bounds).unbind(0))
        return [
            dataclasses.replace(context, lower_bound=next(bounds)) if layer.linear else context for layer in self.layers
        ]

    def _needs_mask(self, tokens: int, past: int) -> bool:
        """Whether attention of one process has to be told what is seen; causality alone torch's own knows."""
        plain = self.config._attn_implementation == "sdpa" and (past == 0 or tokens == 1)
        return not plain or "sliding_attention" in self.config.layer_types


class HybridForCausalLM(HybridPreTrainedModel, GenerationMixin):
    """The decoder and its output head, tied to the embedding where the configuration says so."""

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}  # noqa: RUF012 (as transformers declares it)

    def __init__(self, config: HybridConfig) -> None:
        super().__init__(config)
        self.model = HybridModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def linear_kernels(self, dtype: torch.dtype, *, device: str = "cpu") -> list[tuple[str, str]]:
        """What `Mixer.kernels` says of the linear layers; nothing where there are none."""
        mixers = (layer.mixer for layer in self.model.layers if layer.linear)
        return next((mixer.kernels(dtype, device=device) for mixer in mixers), [])

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        """The model makes its own cache."""
        return False

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: HybridCache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """As LlamaForCausalLM; `documents` among the rest. labels: int64 [B, n], shifted inside, -100 for none."""
        loss_names = ("shift_labels", "num_items_in_batch")
        of_loss = {name: kwargs.pop(name) for name in loss_names if name in kwargs}
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **kwargs,
        )
        keep = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(outputs.last_hidden_state[:, keep])
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **of_loss)
        return CausalLMOutputWithPast(loss=loss, logits=logits, past_key_values=outputs.past_key_values)


def register() -> None:
    """Make `AutoConfig` and `AutoModelForCausalLM` know hybrid models."""
    AutoConfig.register(HybridConfig.model_type, HybridConfig, exist_ok=True)
    AutoModelForCausalLM.register(HybridConfig, HybridForCausalLM, exist_ok=True)


def _alone(
    hidden: Tensor,
    past: int,
    attention_mask: Tensor | None,
    position_ids: Tensor | None,
    documents: Sequence[int] | Tensor | None,
    *,
    needs_mask: bool,
) -> tuple[Context, Tensor, Tensor | None, Tensor | None]:
    """For one process: (context, positions [B or 1, n], what is visible bool [B or 1, n, past + n], kept [B, n, 1])."""
    tokens, device = hidden.shape[1], hidden.device
    padded = attention_mask is not None and not bool(attention_mask.all())
    if documents is not None and (past or padded):
        raise ValueError(
            "packed documents are read at once and without padding, but "
            + (
                f"{past} tokens were read before: call without a cache"
                if past
                else "attention_mask masks some: drop it"
            )
        )
    if documents is None and past == 0 and attention_mask is None:
        documents = documents_of_positions(position_ids)
    context = Context((range(past, past + tokens),))
    places = torch.arange(past, past + tokens, device=device)
    seen = None
    if needs_mask or padded or documents is not None:
        seen = (places[:, None] >= torch.arange(past + tokens, device=device))[None]
    if documents is not None:
        context = Context.alone(tokens, documents)
        assert context.documents is not None and seen is not None
        lengths = torch.tensor([stop - start for start, stop in pairwise(context.documents)], device=device)
        starts = torch.tensor(context.documents[:-1], device=device).repeat_interleave(lengths)
        seen = seen & (starts[:, None] == starts)
        places = places - starts
    kept = None
    if padded:
        assert attention_mask is not None and seen is not None
        real = attention_mask.bool()
        if real.ndim != 2 or real.shape[1] != past + tokens:
            raise ValueError(f"attention_mask is [batch, {past + tokens}], got {list(attention_mask.shape)}")
        # A padding token sees itself, for a softmax over nothing is no number.
        seen = (seen & real[:, None]) | (places[:, None] == torch.arange(past + tokens, device=device))
        kept = real[:, past:, None].to(hidden.dtype)
    return context, places[None] if position_ids is None else position_ids, seen, kept


def _shown(value: Any) -> str:
    words = str(value)
    return words if len(words) <= 100 else f"{words[:100]}..."


register()
