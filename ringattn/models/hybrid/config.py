"""The configuration of a hybrid model, as transformers saves and loads it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedConfig

from ringattn.layers.linear.mixers import mixer_class
from ringattn.layers.linear.mixers.mixer import MixerSizes
from ringattn.planner.architecture import HYBRID_TYPE
from ringattn.schedule.states import check_route
from ringattn.settings.hybrid import KINDS, layer_kinds


class HybridConfig(PreTrainedConfig):
    """A LLaMA in which some layers, by `pattern`, mix tokens by a linear attention instead.

    mixer: a name in `ringattn.layers.linear.mixers.MIXERS`. pattern: a ratio (`3:1`), `pure`, `full`, or a list of
        `linear`, `full` and `sliding` (`ringattn.settings.hybrid`).
    linear_heads, linear_key_dim, linear_value_dim: of the mixer; what its paper has for the hidden size unless given.
    conv_width: tokens of the mixer's short convolution. linear_gate_bias: a bias in the mixer's output gate;
    linear_value_silu: whether its values pass silu; both for converted models (`ringattn.models.hybrid.convert`).
    linear_kernel: what computes it (`ringattn.layers.linear.kernels`), which depends on the machine and is not saved.
    state_route: how its states travel between ranks (`ringattn.schedule.states.state_routes()`).
    sliding_window: how many keys a token of a sliding layer sees, its own included. rope_layers: the kinds of layers
        whose queries and keys are rotated by position; the others have none.

    Raises:
        ValueError: an unknown mixer, a pattern or head sizes that do not fit.
    """

    model_type = HYBRID_TYPE
    keys_to_ignore_at_inference = ["past_key_values"]  # noqa: RUF012 (as transformers declares it)

    def __init__(
        self,
        vocab_size: int = 32000,
        hidden_size: int = 1024,
        intermediate_size: int = 2816,
        num_hidden_layers: int = 24,
        num_attention_heads: int = 16,
        num_key_value_heads: int | None = None,
        head_dim: int | None = None,
        mixer: str = "gated_deltanet",
        pattern: str | Sequence[str] = "3:1",
        linear_heads: int | None = None,
        linear_key_dim: int | None = None,
        linear_value_dim: int | None = None,
        conv_width: int = 4,
        linear_gate_bias: bool = False,
        linear_value_silu: bool = True,
        linear_kernel: str = "auto",
        state_route: str = "allgather",
        sliding_window: int | None = None,
        rope_layers: Sequence[str] = ("full", "sliding"),
        rope_parameters: dict[str, Any] | None = None,
        max_position_embeddings: int = 8192,
        rms_norm_eps: float = 1e-5,
        initializer_range: float = 0.02,
        hidden_act: str = "silu",
        attention_bias: bool = False,
        attention_dropout: float = 0.0,
        mlp_bias: bool = False,
        is_causal: bool = True,
        use_cache: bool = True,
        bos_token_id: int | None = None,
        eos_token_id: int | None = None,
        pad_token_id: int | None = None,
        tie_word_embeddings: bool = False,
        **rest: Any,
    ) -> None:
        if not is_causal:
            raise ValueError(
                "a linear attention is a recurrence over the tokens before, so hybrid models are causal, got "
                "is_causal=False: leave it out"
            )
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.intermediate_size = intermediate_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.num_key_value_heads = num_attention_heads if num_key_value_heads is None else num_key_value_heads
        self.head_dim = hidden_size // num_attention_heads if head_dim is None else head_dim
        self.mixer = mixer
        self.pattern = pattern if isinstance(pattern, str) else list(pattern)
        of_paper = mixer_class(mixer).paper_sizes(hidden_size)
        self.linear_heads = of_paper[0] if linear_heads is None else linear_heads
        self.linear_key_dim = of_paper[1] if linear_key_dim is None else linear_key_dim
        self.linear_value_dim = of_paper[2] if linear_value_dim is None else linear_value_dim
        self.conv_width = conv_width
        self.linear_gate_bias = linear_gate_bias
        self.linear_value_silu = linear_value_silu
        self.linear_kernel = linear_kernel
        self.state_route = state_route
        self.rope_layers = list(rope_layers)
        kinds = layer_kinds(pattern, num_hidden_layers)
        rest.pop("layer_types", None)
        self.layer_types = [KINDS[kind] for kind in kinds]
        self.sliding_window = sliding_window
        self.max_position_embeddings = max_position_embeddings
        self.rope_parameters = rope_parameters or {"rope_type": "default", "rope_theta": 10000.0}
        self.rms_norm_eps = rms_norm_eps
        self.initializer_range = initializer_range
        self.hidden_act = hidden_act
        self.attention_bias = attention_bias
        self.attention_dropout = attention_dropout
        self.mlp_bias = mlp_bias
        self.use_cache = use_cache
        self._check(kinds)
        # Fields that transformers' base class sets on every configuration.
        common: dict[str, Any] = {
            "bos_token_id": bos_token_id,
            "eos_token_id": eos_token_id,
            "pad_token_id": pad_token_id,
            "tie_word_embeddings": tie_word_embeddings,
            **rest,
        }
        super().__init__(**common)

    def to_dict(self) -> dict[str, Any]:
        """As transformers saves it. A checkpoint made on GPUs with kernel `fla` is one that CPUs can load."""
        values: dict[str, Any] = super().to_dict()
        values.pop("linear_kernel", None)
        return values

    def check_layers(self) -> None:
        """Raise ValueError where the pattern was changed behind the layers that were made of it."""
        asked = [KINDS[kind] for kind in layer_kinds(self.pattern, self.num_hidden_layers)]
        if asked != self.layer_types:
            raise ValueError(
                f"this configuration, or the checkpoint it came with, has the layers {self.layer_types}, and the "
                f"pattern {self.pattern} with {self.num_hidden_layers} layers asks for others: weights serve their own "
                "layers alone; load the checkpoint as it is, or make a HybridConfig of that pattern for a new model"
            )

    def mixer_sizes(self, layer: int) -> MixerSizes:
        return MixerSizes(
            hidden_size=self.hidden_size,
            heads=self.linear_heads,
            key_dim=self.linear_key_dim,
            value_dim=self.linear_value_dim,
            conv_width=self.conv_width,
            layer=layer,
            layers=self.num_hidden_layers,
            norm_eps=self.rms_norm_eps,
            kernel=self.linear_kernel,
            gate_bias=self.linear_gate_bias,
            value_silu=self.linear_value_silu,
        )

    def _check(self, kinds: tuple[str, ...]) -> None:
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                "query heads share key/value heads evenly: num_attention_heads must be a multiple of "
                f"num_key_value_heads, got {self.num_attention_heads} and {self.num_key_value_heads}"
            )
        if self.head_dim < 2 or self.head_dim % 2:
            raise ValueError(f"RoPE turns pairs of channels: head_dim must be even and above 0, got {self.head_dim}")
        unknown = sorted(set(self.rope_layers) - {"full", "sliding"})
        if unknown:
            raise ValueError(
                f"rope_layers names full and sliding, of which queries and keys are rotated, got {unknown[0]!r}: a "
                "linear layer's positions are its mixer's own"
            )
        if "sliding" in kinds and (self.sliding_window is None or self.sliding_window < 1):
            raise ValueError(
                f"sliding layers need sliding_window, how many keys a token sees, got {self.sliding_window}: set it, "
                "or name these layers full"
            )
        self.mixer_sizes(0)
        check_route(self.state_route)
