"""Batches dealt out to rows of ranks: the ranks of a row read the same ones, and rows different ones."""

import copy
from types import SimpleNamespace

import pytest
import torch.distributed as dist
from ranks import refusals, run_ranks
from torch.utils.data import DataLoader

import ringattn
from ringattn.training.batches import SharedBatches, rows_of, share_batches

shards = pytest.importorskip("accelerate.data_loader")


def prepared(numbers, *, split=False, batch=2):
    """What Accelerate makes of a loader of `numbers` for this rank."""
    sampler = DataLoader(range(numbers), batch_size=batch).batch_sampler
    dealt = shards.BatchSamplerShard(sampler, dist.get_world_size(), dist.get_rank(), split_batches=split)
    return shards.DataLoaderShard(range(numbers), batch_sampler=dealt)


def sequence_parallel(groups):
    made = [dist.new_group(ranks) for ranks in groups]
    return ringattn.SequenceParallel(next(g for g, ranks in zip(made, groups, strict=True) if dist.get_rank() in ranks))


def dealt(rank, groups, numbers):
    sp = sequence_parallel(groups)
    loader = share_batches(prepared(numbers), sp)
    return rows_of(sp), list(loader.batch_sampler), len(loader.batch_sampler)


def test_rows_read_different_batches_and_their_ranks_the_same():
    first, second = [[0, 1], [4, 5]], [[2, 3], [6, 7]]
    assert run_ranks(4, dealt, [[0, 1], [2, 3]], 8, threads=True) == [
        ((2, 0), first, 2),
        ((2, 0), first, 2),
        ((2, 1), second, 2),
        ((2, 1), second, 2),
    ]
    apart = run_ranks(4, dealt, [[0, 2], [1, 3]], 8, threads=True)
    assert [read for _, read, _ in apart] == [first, second, first, second]


def test_one_row_reads_all_batches_and_a_short_last_one_as_it_is():
    assert run_ranks(2, dealt, [[0, 1]], 5, threads=True) == [((1, 0), [[0, 1], [2, 3], [4]], 3)] * 2


def share(rank, kind):
    sp = ringattn.SequenceParallel()
    if kind == "plain":
        share_batches(DataLoader(range(8)), sp)
    share_batches(prepared(8, split=True), sp)


def test_what_cannot_be_dealt_out_anew_is_refused():
    plain, split = (refusals(2, share, kind, threads=True) for kind in ("plain", "split"))
    assert all("prepared with dispatch_batches=False, but this one is not prepared" in text for text in plain)
    assert all("reads whole batches, but Accelerate splits each batch" in text for text in split)


class Bare:
    """What `SharedBatches` asks of a Trainer."""

    def __init__(self, model, **given):
        self.model = model
        self.args = SimpleNamespace(label_smoothing_factor=given.pop("label_smoothing_factor", 0.0))
        self.compute_loss_func = given.pop("compute_loss_func", None)
        self.compute_metrics = given.pop("compute_metrics", None)

    def get_train_dataloader(self):
        return DataLoader(range(2))


class Sharing(SharedBatches, Bare):
    pass


@pytest.fixture(scope="module")
def model():
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    return LlamaForCausalLM(LlamaConfig(vocab_size=8, **sizes))


def test_a_trainer_shares_batches_of_a_parallelized_model_alone(model):
    with pytest.raises(ValueError, match=r"but this one is plain: call ringattn.parallelize\(model, sp\)"):
        Sharing(model).get_train_dataloader()


@pytest.mark.parametrize(
    ("name", "value"), [("label_smoothing_factor", 0.1), ("compute_loss_func", max), ("compute_metrics", max)]
)
def test_what_reads_logits_of_whole_sequences_is_refused(model, name, value):
    parallel = ringattn.parallelize(copy.deepcopy(model), ringattn.SequenceParallel())
    with pytest.raises(ValueError, match=f"{name} reads the logits of whole sequences"):
        Sharing(parallel, **{name: value}).get_train_dataloader()
    with pytest.raises(ValueError, match="set prediction_loss_only=True"):
        Sharing(parallel).prediction_step(parallel, {}, False)
