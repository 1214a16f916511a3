"""RoPE scaling by one key: `model.rope_scaling=KIND[:TARGET]`, the positions a model is stretched to. No torch.

The kinds, with s = target / trained positions, D the channels that turn, and theta the base of the frequencies:

- linear: all frequencies / s (S. Chen et al., arXiv 2306.15595, equation 4).
- ntk: theta * s^(D / (D - 2)) (NTK-aware interpolation, bloc97, 2023; arXiv 2309.00071, section 3.1, equation 16).
- dynamic: ntk with theta * (s * length / trained - (s - 1))^(D / (D - 2)) for each sequence longer than trained
  (emozilla, 2023; as transformers computes it).
- yarn: by the wavelength of each frequency, and sharper scores (B. Peng et al., arXiv 2309.00071, section 3.4).
- llama3: by the wavelength, as Llama 3.1 (arXiv 2407.21783; 1 and 4 turns in the trained positions are its borders).
- theta: another theta as it is, `theta:VALUE`; the target is the sequence's length.

All are written in transformers' own terms, so that a saved model means the same to plain transformers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ringattn.settings.lengths import length_of
from ringattn.settings.typed import suggest

KINDS = ("linear", "ntk", "dynamic", "yarn", "llama3", "theta")
_EXAMPLE = "write for example model.rope_scaling=yarn:16384"


@dataclass(frozen=True, kw_only=True)
class RopeScaling:
    """What one `model.rope_scaling` says. target: positions, or None for the run's sequence length."""

    kind: str
    target: int | None = None
    theta: float | None = None


def parse_rope_scaling(text: str) -> RopeScaling:
    """`yarn:16384`, `yarn:16k`, `yarn` or `theta:1e6` as a value.

    Raises:
        ValueError: an unknown kind, with a suggestion; a target that is no number of positions.
    """
    kind, colon, number = str(text).partition(":")
    if kind not in KINDS:
        raise ValueError(
            f"model.rope_scaling is one of {', '.join(KINDS)}, got {kind!r}.{suggest(kind, KINDS)} "
            f"{_EXAMPLE.capitalize()}."
        )
    if kind == "theta":
        try:
            theta = float(number)
        except ValueError:
            theta = 0.0
        if not 1 < theta < float("inf"):
            raise ValueError(
                f"model.rope_scaling=theta takes the new base of the frequencies, above 1, got {number!r}: write for "
                "example model.rope_scaling=theta:1000000."
            )
        return RopeScaling(kind=kind, theta=theta)
    if not colon:
        return RopeScaling(kind=kind)
    try:
        return RopeScaling(kind=kind, target=length_of(number))
    except ValueError:
        raise ValueError(
            f"model.rope_scaling takes a kind and the positions to reach, got {number!r} after {kind}: {_EXAMPLE}."
        ) from None


def scaled_positions(values: Mapping[str, Any], scaling: RopeScaling, *, length: int | None) -> dict[str, Any]:
    """What `scaling` changes in a configuration: `rope_parameters`, and `max_position_embeddings` but for dynamic.

    values: a `config.json` as a mapping. length: the run's sequence length, the target where none is named.
    Raises:
        ValueError: a model scaled already, or with rotary positions by layer, or none; a target that is no stretch.
    """
    rope = _one_setting(values)
    trained = values.get("max_position_embeddings")
    if not trained:
        raise ValueError(
            "model.rope_scaling stretches the positions that a model was trained on, but its config.json has no "
            "max_position_embeddings: add it."
        )
    target = scaling.target or length
    if target is None:
        raise ValueError(
            f"model.rope_scaling={scaling.kind} needs the positions to reach: write model.rope_scaling={scaling.kind}:"
            f"{2 * trained}."
        )
    theta: float = rope["rope_theta"]
    if scaling.kind == "theta":
        return {
            "rope_parameters": {**rope, "rope_type": "default", "rope_theta": scaling.theta},
            "max_position_embeddings": max(trained, target),
        }
    if target <= trained:
        raise ValueError(
            f"model.rope_scaling stretches beyond the {trained} positions that the model was trained on, got a target "
            f"of {target}: drop model.rope_scaling, or name a longer one."
        )
    if length is not None and length > target:
        raise ValueError(
            f"model.rope_scaling={scaling.kind}:{target} must reach the run's {length} tokens a sequence: write "
            f"model.rope_scaling={scaling.kind}:{length}, or lower trainer.sequence_length."
        )
    factor = target / trained
    if scaling.kind == "ntk":
        dim = int(_head_dim(values) * rope.get("partial_rotary_factor", 1.0))
        changed = {**rope, "rope_type": "default", "rope_theta": theta * factor ** (dim / (dim - 2))}
    else:
        changed = {**rope, "rope_type": scaling.kind, "factor": factor}
    if scaling.kind in ("yarn", "llama3"):
        changed["original_max_position_embeddings"] = trained
    if scaling.kind == "llama3":
        changed |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
    # `dynamic` measures each sequence by the trained positions, which transformers reads off this number.
    reach = trained if scaling.kind == "dynamic" else target
    return {"rope_parameters": changed, "max_position_embeddings": reach}


def _one_setting(values: Mapping[str, Any]) -> dict[str, Any]:
    """The rotary parameters of all layers, with `rope_theta`, unscaled. ValueError where there are other ones."""
    rope = dict(values.get("rope_parameters") or values.get("rope_scaling") or {})
    kind = values.get("model_type", "this model")
    if rope and all(isinstance(one, Mapping) for one in rope.values()):
        raise ValueError(
            f"model.rope_scaling stretches models with one rotary setting for all layers, but {kind} has one for "
            f"each of {', '.join(sorted(rope))}: drop model.rope_scaling, or edit rope_parameters in its config.json."
        )
    present = rope.pop("type", None) or rope.get("rope_type") or "default"
    if present != "default":
        reach = values.get("max_position_embeddings")
        raise ValueError(
            f"model.rope_scaling stretches models that are not scaled yet, but {kind} is ({present}, {reach} "
            "positions): drop model.rope_scaling, or start from the model as it was before."
        )
    rope.setdefault("rope_theta", values.get("rope_theta"))
    if values.get("partial_rotary_factor") is not None:
        rope.setdefault("partial_rotary_factor", values["partial_rotary_factor"])
    if rope["rope_theta"] is None:
        raise ValueError(
            f"model.rope_scaling stretches rotary positions, but the config.json of {kind} has no rope_theta: drop "
            "model.rope_scaling."
        )
    return rope


def _head_dim(values: Mapping[str, Any]) -> int:
    found: int = values.get("head_dim") or values["hidden_size"] // values["num_attention_heads"]
    return found
