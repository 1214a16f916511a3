"""Learning from a teacher: its guesses, or layer by layer its attention.

The teacher is frozen, whole on every rank, and reads the same tokens over the same ranks as the model that is trained.

- `Guesses`: the loss is a mixture of the text's and of the distance to what the teacher says comes next, token chunk by
  token chunk, so that neither model's logits are ever whole (`ringattn.training.loss.chunked_distillation`).
- `Mixers`: each linear layer of a hybrid is fitted to the attention of the teacher's layer, on what enters that
  attention in the teacher (hidden-state alignment of MOHAWK, arXiv 2408.10189, section 3.2; attention transfer of
  LoLCATs, 2410.10254, section 3.1). No mixer sees another's output, so each has a problem of its own: one pass of the
  teacher serves all of them at the same time, and AdamW, which knows each weight alone, makes the same steps as if they
  were fitted one after the other (where gradients are not clipped: their norm is over all).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ringattn.attention import SequenceParallel
from ringattn.data.sequence import IGNORE
from ringattn.layers.linear.mixers.mixer import Mixer
from ringattn.models.hybrid import HybridForCausalLM
from ringattn.models.parallelize import parallelize
from ringattn.models.support import text_model
from ringattn.training.loss import Guide


class Teacher:
    """A frozen causal LM, spread over the ranks of `sp`. No module, so that no engine takes its weights.

    Raises ValueError where the model can't be parallelized.
    """

    def __init__(self, model: nn.Module, sp: SequenceParallel, *, softcap: float | None = None) -> None:
        self.sp, self.softcap = sp, softcap
        self.model: Any = parallelize(model.requires_grad_(False).eval(), sp)
        self.inner: Any = text_model(self.model)

    @torch.no_grad()
    def states(self, inputs: Tensor, *, length: int, documents: tuple[int, ...] | None) -> Tensor:
        """inputs: int64 [B, n], this rank's. Returns what the head reads, [B, n, hidden size]. Collective."""
        found: Tensor = self.inner.model(
            input_ids=inputs, length=length, documents=documents, use_cache=False
        ).last_hidden_state
        return found

    @property
    def head(self) -> Tensor:
        """[vocabulary, hidden size]."""
        weight: Tensor = self.inner.get_output_embeddings().weight
        return weight

    @contextmanager
    def watching(self, layers: list[int]) -> Iterator[dict[int, tuple[Tensor, Tensor]]]:
        """Inside the `with`, what enters and what leaves the attention of these layers, each [B, n, hidden size]."""
        seen: dict[int, tuple[Tensor, Tensor]] = {}

        def hook(layer: int) -> Any:
            def record(_: nn.Module, args: tuple[Any, ...], given: dict[str, Any], output: Any) -> None:
                entering = args[0] if args else given["hidden_states" if "hidden_states" in given else "hidden"]
                seen[layer] = (entering, output[0] if isinstance(output, tuple) else output)

            return record

        handles = [
            self.inner.model.layers[layer].self_attn.register_forward_hook(hook(layer), with_kwargs=True)
            for layer in layers
        ]
        try:
            yield seen
        finally:
            for handle in handles:
                handle.remove()


@dataclass(frozen=True)
class Guesses:
    """share: of the loss that is the teacher's, 0 to 1. temperature: above 0."""

    teacher: Teacher
    share: float
    temperature: float

    def guide(self, inputs: Tensor, *, length: int, documents: tuple[int, ...] | None) -> Guide:
        """What the teacher says of this rank's tokens. Collective."""
        states = self.teacher.states(inputs, length=length, documents=documents).flatten(0, 1)
        head = self.teacher.head
        return Guide(states.to(head.dtype), head, self.share, self.temperature, self.teacher.softcap)


class Mixers:
    """Fits the mixers of `student`, a parallelized hybrid, to the attentions of `teacher`.

    recompute: keep no activations of mixers for the backward.

    Raises ValueError where the two models' layers do not correspond.
    """

    def __init__(self, student: HybridForCausalLM, teacher: Teacher, *, recompute: bool = False) -> None:
        self.student, self.teacher, self.recompute = student, teacher, recompute
        self.layers = [number for number, layer in enumerate(student.model.layers) if layer.linear]
        theirs = teacher.inner.model.layers
        if len(theirs) != len(student.model.layers) or not all(hasattr(theirs[i], "self_attn") for i in self.layers):
            raise ValueError(
                f"each of a hybrid's {len(student.model.layers)} layers learns from an attention of the teacher's, "
                f"which has {len(theirs)} layers: give the model that the hybrid was made from"
            )

    def loss_sum(
        self, inputs: Tensor, labels: Tensor, *, length: int, documents: tuple[int, ...] | None = None
    ) -> Tensor:
        """Targets of the whole sequence times the mean over linear layers of this rank's part of
        |mixer - attention|^2 / |attention|^2, both summed over the sequence's tokens that have a target.

        inputs, labels: int64 [B, n], this rank's. Over the ranks it adds up as the sums of token losses do; over
        targets it is 1 where mixers say nothing and 0 where they do what attention did. Collective.
        """
        with self.teacher.watching(self.layers) as seen:
            self.teacher.states(inputs, length=length, documents=documents)
        counted = (labels != IGNORE)[..., None]
        sizes = torch.stack(
            [counted.sum().double(), *((seen[i][1].double().square() * counted).sum() for i in self.layers)]
        )
        everyone = torch.stack(self.teacher.sp.gather(sizes)).sum(0)
        targets, norms = everyone[0], everyone[1:]
        contexts = self.student.model.contexts_of(length, documents)
        total = torch.zeros((), dtype=_wide(seen[self.layers[0]][1]).dtype, device=inputs.device)
        for layer, norm in zip(self.layers, norms, strict=True):
            entering, wanted = seen.pop(layer)
            mixer = self.student.model.layers[layer].mixer
            if self.recompute:
                found: Any = checkpoint(mixer, entering, context=contexts[layer], use_reentrant=False)
            else:
                found = mixer(entering, context=contexts[layer])
            apart = ((_wide(found) - _wide(wanted)).square() * counted).sum()
            total = total + apart * (targets / norm.clamp(min=torch.finfo(torch.float32).tiny)).to(apart.dtype)
        return total / len(self.layers)


def train_mixers_alone(model: nn.Module) -> None:
    """Freeze whatever is no mixer's, nor the lower bounds of forget gates."""
    model.requires_grad_(False)
    for module in model.modules():
        if isinstance(module, Mixer):
            module.requires_grad_(True)
    for name, parameter in model.named_parameters():
        if name.endswith("lower_bounds"):
            parameter.requires_grad_(True)


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()
