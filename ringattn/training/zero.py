"""DeepSpeed's ZeRO stages behind the loop's engine (S. Rajbhandari et al., arXiv 1910.02054). Imported only where asked
for.

DeepSpeed is told nothing of sequence parallelism. Once it knows, stages 0 to 2 add gradients over the ranks of a
sequence and stage 3 averages them, so that one script trains differently at each stage; told nothing, it averages over
the whole world, which the scale of the loss accounts for.

State leaves and enters by the weight, whole and in fp32, not in DeepSpeed's partitions: a run goes on at any stage and
any number of ranks, with no conversion in between.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ringattn.settings.deepspeed import DeepSpeedConfig
from ringattn.settings.optimizer import OptimizerConfig
from ringattn.training.engine import WEIGHT, Update
from ringattn.training.gradients import clip_gradients
from ringattn.training.optimizer import learning_rate_factor, trained_parameters
from ringattn.training.reader import SequenceReader

MOMENTS = ("exp_avg", "exp_avg_sq")


def zero_settings(
    config: DeepSpeedConfig, *, accumulation: int, clip: float, bfloat16: bool, whole_below: int = 100_000
) -> dict[str, Any]:
    """DeepSpeed's own configuration. whole_below: at stage 3, weights with fewer elements stay whole on every rank."""
    stage = config.stage or 0
    zero: dict[str, Any] = {"stage": stage}
    if config.offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    if config.offload_parameters:
        zero["offload_param"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    if stage == 3:
        zero["stage3_param_persistence_threshold"] = whole_below
    settings: dict[str, Any] = {
        # Never train_batch_size: DeepSpeed would check it against a world in which each rank has sequences of its own.
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": accumulation,
        # Stage 0 is clipped by the engine below, which must see the norm before the update.
        "gradient_clipping": clip if stage > 0 else 0.0,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 2**31,
    }
    if bfloat16:
        settings["bf16"] = {"enabled": True, "check_grad_overflow": True}
        # An all-reduce in bf16 rounds at each hop: its error grows with the number of ranks.
        settings["communication_data_type"] = "fp32"
        settings["data_types"] = {"grad_accum_dtype": "fp32"}
    return settings


class ZeroEngine:
    """An engine whose gradients and optimizer (stage 1 on), and weights (stage 3), are spread over all ranks."""

    def __init__(
        self,
        reader: SequenceReader,
        config: OptimizerConfig,
        settings: dict[str, Any],
        *,
        steps: int,
    ) -> None:
        deepspeed = _import_deepspeed()
        self.reader = reader
        self._config, self._steps = config, steps
        self._stage: int = settings["zero_optimization"]["stage"]
        named = dict(reader.model.named_parameters())
        self._named = {name: p for name, p in named.items() if p.requires_grad}
        if self._stage == 3:
            # The loss multiplies by the head's weight outside of the head's own forward.
            deepspeed.zero.register_external_parameter(reader.module.head_loss, reader.module.head_loss.weight)
        optimizer = self._optimizer(deepspeed, trained_parameters(reader.model), settings)
        self._engine, *_ = deepspeed.initialize(
            model=reader.module, optimizer=optimizer, config=settings, dist_init_required=False
        )
        if self._stage > 0:
            # In fp32 DeepSpeed would apply a gradient that is not finite.
            self._engine.optimizer.check_grad_overflow = True
        reader.call = self._engine

    def _optimizer(self, deepspeed: Any, parameters: list[nn.Parameter], settings: dict[str, Any]) -> Any:
        numbers: dict[str, Any] = {
            "lr": self._config.learning_rate,
            "betas": (self._config.beta1, self._config.beta2),
            "weight_decay": self._config.weight_decay,
        }
        if "offload_optimizer" in settings["zero_optimization"]:
            return deepspeed.ops.adam.DeepSpeedCPUAdam(parameters, adamw_mode=True, **numbers)
        return torch.optim.AdamW(parameters, **numbers)

    def backward(self, loss: Tensor) -> None:
        self._engine.backward(loss)
        if not self._engine.is_gradient_accumulation_boundary():
            # Counts the part; weights move at the boundary only.
            self._engine.step()

    def step(self, step: int) -> Update:
        factor = learning_rate_factor(step, steps=self._steps, warmup=self._config.warmup, final=self._config.final)
        rate = self._config.learning_rate * factor
        for group in self._engine.optimizer.param_groups:
            group["lr"] = rate
        if self._stage == 0:
            return self._plain_step(rate)
        self._engine.step()
        applied = not self._engine.optimizer.overflow
        norm = self._engine.get_global_grad_norm()
        return Update(
            norm=float(norm) if applied and norm is not None else math.inf, learning_rate=rate, applied=applied
        )

    def _plain_step(self, rate: float) -> Update:
        norm = clip_gradients(self._named.values(), self._config.clip)
        if not math.isfinite(norm):
            for parameter in self._named.values():
                parameter.grad = None
        self._engine.step()
        return Update(norm=norm, learning_rate=rate, applied=math.isfinite(norm))

    def trained(self) -> list[str]:
        return list(self._named)

    def state(self, name: str) -> dict[str, Tensor]:
        from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

        parameter = self._named[name]
        if self._stage == 0:
            found = self._engine.optimizer.state.get(parameter, {})
            tensors = {key: found.get(key, torch.zeros_like(parameter)) for key in MOMENTS}
            tensors[WEIGHT] = parameter
        else:
            self._make_moments(updates=None)
            tensors = {key: safe_get_full_optimizer_state(parameter, key) for key in MOMENTS}
            tensors[WEIGHT] = safe_get_full_fp32_param(parameter)
        shape = getattr(parameter, "ds_shape", parameter.shape)
        return {key: t.detach().to("cpu", torch.float32).reshape(shape) for key, t in tensors.items()}

    def start_restore(self, updates: int) -> None:
        self._make_moments(updates=updates)

    def _make_moments(self, *, updates: int | None) -> None:
        """Moments of zero where there are none yet; DeepSpeed makes them in the first step. updates: their number."""
        inner = self._engine.optimizer if self._stage == 0 else self._engine.optimizer.optimizer
        for flat in self._updated():
            state = inner.state[flat]
            for key in MOMENTS:
                if key not in state:
                    state[key] = torch.zeros_like(flat)
            if updates is not None or "step" not in state:
                count = updates or 0
                # torch counts in a tensor, DeepSpeed's CPU Adam in an int.
                is_torch = isinstance(inner, torch.optim.AdamW)
                state["step"] = torch.tensor(float(count)) if is_torch else count
        if self._stage in (1, 2):
            self._engine.optimizer._lazy_init_hp_params_optimizer_state()

    def _updated(self) -> list[Tensor]:
        """The tensors that the optimizer inside updates: weights, or this rank's flat pieces of them."""
        if self._stage == 0:
            return list(self._named.values())
        pieces = "fp32_partitioned_groups_flat" if self._stage == 3 else "single_partition_of_fp32_groups"
        found: list[Tensor] = list(getattr(self._engine.optimizer, pieces))
        return found

    @torch.no_grad()
    def restore(self, name: str, tensors: dict[str, Tensor]) -> None:
        from deepspeed.utils import (
            safe_set_full_fp32_param,
            safe_set_full_optimizer_state,
            safe_set_local_fp32_param,
            safe_set_local_optimizer_state,
        )

        parameter = self._named[name]
        if self._stage == 0:
            state = self._engine.optimizer.state[parameter]
            for key in MOMENTS:
                state[key].copy_(tensors[key])
            parameter.copy_(tensors[WEIGHT])
        elif self._stage == 3:
            safe_set_local_fp32_param(parameter, _own_piece(parameter, tensors[WEIGHT]))
            for key in MOMENTS:
                safe_set_local_optimizer_state(parameter, _own_piece(parameter, tensors[key]), key)
        else:
            safe_set_full_fp32_param(parameter, tensors[WEIGHT].to(parameter.device))
            for key in MOMENTS:
                safe_set_full_optimizer_state(parameter, tensors[key].to(parameter.device), key)

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        import deepspeed
        from deepspeed.utils import safe_get_full_fp32_param

        parameters = dict(self.reader.model.named_parameters(remove_duplicate=False))
        for name, tensor in self.reader.model.state_dict().items():
            parameter = parameters.get(name)
            if parameter is None or self._stage == 0:
                yield name, tensor.detach().cpu()
                continue
            if parameter.requires_grad:
                found = safe_get_full_fp32_param(parameter)
            elif self._stage == 3:
                with deepspeed.zero.GatheredParameters([parameter]):
                    found = parameter.detach().clone()
            else:
                found = parameter.detach()
            yield name, found.cpu().reshape(getattr(parameter, "ds_shape", parameter.shape))


def _own_piece(parameter: Any, value: Tensor) -> Tensor:
    """This rank's piece of a whole tensor at stage 3: equal pieces, the last ones filled up with zeros."""
    size, rank = parameter.ds_tensor.numel(), dist.get_rank()
    piece = value.reshape(-1)[rank * size : (rank + 1) * size]
    return torch.nn.functional.pad(piece, (0, size - piece.numel())).to(parameter.ds_tensor.device)


def _import_deepspeed() -> Any:
    try:
        import deepspeed
    except ImportError:
        raise ValueError(
            "deepspeed.stage needs the package deepspeed, which is not installed: pip install 'ringattn[deepspeed]', "
            "or write deepspeed=none."
        ) from None
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    # On a CPU each start would compile an operator that only inference calls, and wait for ever where a compilation
    # was killed before.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed
