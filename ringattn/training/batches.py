"""Data loaders of Accelerate and transformers' Trainer, for ranks that share a sequence.

Both deal batches out to processes: each reads others. Ranks that share a sequence must read the same one, and only rows
of ranks different ones. `share_batches` deals a prepared loader out to rows instead; `SharedBatches` does so in a
Trainer.

What a Trainer does with the loss then is exact as it is. It counts targets over all processes, so each row's as often
as it has ranks; the parallelized model divides that by the ranks of a row; and DistributedDataParallel averages over
all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from ringattn.attention import SequenceParallel
from ringattn.models.attachment import attachment_of
from ringattn.models.support import text_model

if TYPE_CHECKING:
    from transformers import Trainer as _Trainer
else:
    _Trainer = object


def share_batches(loader: Any, sp: SequenceParallel) -> Any:
    """Deal the batches of `loader` out to rows of ranks instead of single ranks. Returns `loader` itself, changed.

    loader: what `Accelerator.prepare` made of a torch DataLoader, not iterated over yet; its order must be the same on
        all ranks, as Accelerate makes it.
    sp: the ranks that share a sequence; every other SequenceParallel of the world has as many.

    Collective: all ranks of the world call it. Raises ValueError where Accelerate cut the batches or the data
    themselves, so that they can't be dealt out anew.
    """
    from accelerate.data_loader import BatchSamplerShard, DataLoaderDispatcher, IterableDatasetShard

    if not dist.is_initialized() or dist.get_world_size() == 1:
        return loader
    dispatched = isinstance(loader, DataLoaderDispatcher)
    if dispatched or not isinstance(getattr(loader, "base_dataloader", None), torch.utils.data.DataLoader):
        found = "one process reads and sends those of this one" if dispatched else "this one is not prepared"
        raise ValueError(
            "a row of ranks shares the batches of a loader that Accelerate prepared with dispatch_batches=False, but "
            f"{found}: prepare it so first"
        )
    places = (getattr(loader, "batch_sampler", None), getattr(loader, "sampler", None), loader.dataset)
    dealer = next((place for place in places if isinstance(place, (BatchSamplerShard, IterableDatasetShard))), None)
    if dealer is None or dealer.split_batches:
        raise ValueError(
            "a row of ranks reads whole batches, but Accelerate "
            + ("split the data set" if dealer is None else "splits each batch")
            + " between processes here: leave split_batches out, and shards of a data set in one piece"
        )
    dealer.num_processes, dealer.process_index = rows_of(sp)
    if dealer.num_processes == 1 and isinstance(dealer, BatchSamplerShard):
        dealer.even_batches = False  # One row reads a short last batch as it is, like one process.
    return loader


def rows_of(sp: SequenceParallel) -> tuple[int, int]:
    """How many rows of ranks there are, and which of them, from 0, is this rank's. Collective over the world."""
    if not dist.is_initialized():
        return 1, 0
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    own = torch.tensor([dist.get_rank()], device=device)
    first = torch.cat(sp.gather(own)).min()[None]
    firsts = [torch.empty_like(first) for _ in range(dist.get_world_size())]
    dist.all_gather(firsts, first)
    rows = sorted({int(one) for one in firsts})
    return len(rows), rows.index(int(first))


class SharedBatches(_Trainer):
    """Before Trainer, or a class made from it, in the bases of a class of one's own: `class T(SharedBatches, Trainer)`.

    The model must have been parallelized; its ranks then read the same batches. Evaluation gives the loss of whole
    sequences. Raises ValueError, before the first step, for what would read logits of this rank's tokens as if they
    were all: label smoothing, `compute_loss_func`, `compute_metrics`.
    """

    def get_train_dataloader(self) -> Any:
        return share_batches(super().get_train_dataloader(), self._sp())

    def get_eval_dataloader(self, *args: Any, **kwargs: Any) -> Any:
        return share_batches(super().get_eval_dataloader(*args, **kwargs), self._sp())

    def get_test_dataloader(self, *args: Any, **kwargs: Any) -> Any:
        return share_batches(super().get_test_dataloader(*args, **kwargs), self._sp())

    def prediction_step(self, model: Any, inputs: Any, prediction_loss_only: bool, *args: Any, **kwargs: Any) -> Any:
        sp = self._sp()
        if not prediction_loss_only:
            raise ValueError(
                "a rank of a parallelized model has the logits of its own tokens alone, but predictions were asked "
                "for: set prediction_loss_only=True, or unshard the logits in a loop of your own"
            )
        loss, logits, labels = super().prediction_step(model, inputs, prediction_loss_only, *args, **kwargs)
        if loss is not None:
            # Trainer may drop what the last ranks give, as if it were of other sequences.
            loss = torch.stack(sp.gather(loss)).mean()
        return loss, logits, labels

    def _sp(self) -> SequenceParallel:
        model: Any = self.model
        attachment = attachment_of(text_model(model))
        if attachment is None:
            raise ValueError(
                "batches are shared by the ranks of a parallelized model, but this one is plain: call "
                "ringattn.parallelize(model, sp) before Trainer gets it"
            )
        for name, wanted in (
            ("label_smoothing_factor", self.args.label_smoothing_factor),
            ("compute_loss_func", self.compute_loss_func),
            ("compute_metrics", self.compute_metrics),
        ):
            if wanted:
                raise ValueError(
                    f"{name} reads the logits of whole sequences, and a rank of a parallelized model has those of its "
                    f"own tokens alone, got {wanted}: leave it out; the model computes the loss from the labels"
                )
        return attachment.sp
