"""A teacher for a training run: another model, frozen, that says what this one should."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ringattn.planner.architecture import read_config
from ringattn.settings.rules import positive


@dataclass(frozen=True, kw_only=True)
class DistillConfig:
    """teacher: a Hugging Face folder or whatever `model.path` takes; null: no distillation.

    match: `logits`, the loss is (1 - weight) x cross-entropy + weight x temperature^2 x KL(teacher || student) at that
    temperature; `mixers`, each linear layer of a hybrid is fitted to the attention of the teacher's layer, on the
    teacher's own states, and nothing else is trained (`ringattn.training.distillation`).
    """

    teacher: str | None = None
    match: Literal["logits", "mixers"] = "logits"
    weight: float = 0.5
    temperature: float = 1.0


def check_distill(
    distill: DistillConfig, *, trained: str | None, adapter: str, stage: int | None, offloads: bool
) -> None:
    """The rules that one field's type cannot state; ValueError where one is broken.

    trained: the run's model.path; adapter: its kind; stage: of DeepSpeed; offloads: whether activations are moved.
    """
    if not 0 <= distill.weight <= 1:
        raise ValueError(
            f"distill.weight is the teacher's share of the loss, from 0 to 1, got {distill.weight}: write for example "
            "distill.weight=0.5."
        )
    positive({"distill.temperature": distill.temperature})
    plain = DistillConfig()
    if distill.teacher is None:
        for name in ("match", "weight", "temperature"):
            if getattr(distill, name) != getattr(plain, name):
                raise ValueError(
                    f"distill.{name} says how to learn from a teacher, got {getattr(distill, name)} without one: write "
                    "distill.teacher=FOLDER as well."
                )
        return
    if trained is None:
        raise ValueError(
            "a teacher's guesses are over its own vocabulary, and a new model makes its own from the text, got "
            f"distill.teacher={distill.teacher} without model.path: name a model with the teacher's tokenizer "
            "(`ringattn convert to=hybrid` makes one)."
        )
    if distill.match == "logits":
        return
    for name in ("weight", "temperature"):
        if getattr(distill, name) != getattr(plain, name):
            raise ValueError(
                f"distill.match=mixers compares outputs of layers and no guesses, got distill.{name}="
                f"{getattr(distill, name)}: leave it out, or write distill.match=logits."
            )
    if adapter != "none" or stage is not None or offloads:
        what = "adapter=lora" if adapter != "none" else "deepspeed" if stage is not None else "offloaded activations"
        raise ValueError(
            f"distill.match=mixers trains mixers one by one in plain torch, got {what}: leave that out "
            "(trainer.gradient_checkpointing=true saves memory)."
        )


def check_teacher(
    distill: DistillConfig, student: Path, teacher: Path, *, landmark_block: int | None = None, ranks: int = 1
) -> None:
    """From the two models' folders: they share a vocabulary and, where layers are compared, their sizes.

    landmark_block: that the student gets on loading. ranks: that share a sequence.

    Raises:
        ValueError: they do not; the student has no linear layers to fit, or the teacher no attention there.
    """
    own, other = read_config(student), read_config(teacher)
    if own.get("vocab_size") != other.get("vocab_size") or _words(student) != _words(teacher):
        raise ValueError(
            "teacher and model say what comes next in the same tokens, got vocabularies of "
            f"{other.get('vocab_size')} (distill.teacher={teacher}) and {own.get('vocab_size')} (model.path={student}) "
            "tokens, which are not the same: give a teacher with the model's tokenizer."
        )
    block, its = landmark_block or own.get("landmark_block"), other.get("landmark_block")
    if ranks > 1 and block != its:
        raise ValueError(
            "ranks that share a sequence cut a landmark model's between blocks, so that they hold other tokens of it "
            f"than without, got landmark_block {its or 'none'} in the teacher and {block or 'none'} in the model on "
            f"{ranks} ranks: write mesh.sequence_parallel=1."
        )
    if distill.match == "logits":
        return
    kinds = own.get("layer_types") or []
    if "linear_attention" not in kinds:
        raise ValueError(
            f"distill.match=mixers fits the linear layers of a hybrid, and model.path={student} has none: make one "
            "with `ringattn convert to=hybrid`, or write distill.match=logits."
        )
    for name in ("hidden_size", "num_hidden_layers"):
        if own.get(name) != other.get(name):
            raise ValueError(
                f"distill.match=mixers compares layer with layer, but {name} is {other.get(name)} in the teacher and "
                f"{own.get(name)} in the model: give the model that the hybrid was made from."
            )
    theirs = other.get("layer_types") or ["full_attention"] * len(kinds)
    for layer, (kind, its) in enumerate(zip(kinds, theirs, strict=True)):
        if kind == "linear_attention" and its == kind:
            raise ValueError(
                f"a mixer is fitted to an attention, but layer {layer} is linear in the teacher as well: give the "
                "model that the hybrid was made from."
            )


def _words(folder: Path) -> object:
    """Tokens and their numbers, from tokenizer.json; None where there is none, as with models of tokens alone."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8")).get("model", {}).get("vocab")
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise ValueError(f"{path} is no JSON: copy the folder whole.") from None
