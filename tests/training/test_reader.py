"""Sequences that several ranks read together give what one process computes from the documents, each by itself."""

import copy

import numpy as np
import pytest
import torch
import torch.distributed as dist
from models.tiny_models import gradients_of, make_model
from ranks import run_ranks
from tiny_run import tiny_mapping

import ringattn
from ringattn.data.corpus import CorpusWriter
from ringattn.data.prepare import prepare
from ringattn.models.landmark import to_landmark
from ringattn.settings.run import from_mapping
from ringattn.training.reader import SequenceReader

LENGTH = 12
# The last document is held out.
SIZES = (5, 4, 30, 2, 2, 7, 9, 13, 3, 8)


def documents():
    random = np.random.default_rng(0)
    return [random.integers(3, 61, size) for size in SIZES]


def data_of(folder, packing):
    with CorpusWriter(folder / "tokens", vocabulary=61) as writer:
        for document in documents():
            writer.write(document)
            writer.end_document()
        writer.finish(end_of_text=None, tokenizer=None)
    mapping = tiny_mapping(folder)
    mapping["data"] = {"source": "file", "path": str(folder / "tokens"), "packing": packing, "held_out": 0.1}
    mapping["trainer"]["sequence_length"] = LENGTH
    return prepare(from_mapping(mapping), folder / "data")


def alone(model):
    """The loss summed over all training documents, read by themselves, and its gradients."""
    total = torch.zeros((), dtype=torch.float64)
    for document in documents()[:-1]:
        for start in range(0, len(document) - 1, LENGTH):
            piece = torch.from_numpy(document[start : start + LENGTH + 1])
            logits = model(input_ids=piece[None, :-1], use_cache=False).logits[0]
            total = total + torch.nn.functional.cross_entropy(logits, piece[1:], reduction="sum")
    total.backward()
    return total.detach(), gradients_of(model)


def together(rank, models, sequences):
    """The same on this rank of several, over sequences; and the losses of each token of the last one."""
    sp = ringattn.SequenceParallel(schedule="tokenring", layout="zigzag")
    model = ringattn.parallelize(models[rank], sp)
    reader = SequenceReader(model, sp, device=torch.device("cpu"), chunk=5)
    total = torch.zeros((), dtype=torch.float64)
    for sequence in sequences:
        loss = reader.loss_sum(sequence)
        loss.backward()
        total += loss.detach()
    gradients = gradients_of(model)
    for tensor in (total, *gradients.values()):
        dist.all_reduce(tensor)
    return total, gradients, [reader.sequence_losses(sequence)[0] for sequence in sequences]


@pytest.mark.parametrize(
    ("packing", "world", "block"), [("documents", 2, None), ("single", 3, None), ("documents", 2, 2), ("single", 2, 3)]
)
def test_an_epoch_over_ranks_is_the_documents_by_themselves(tmp_path, packing, world, block):
    data = data_of(tmp_path, packing)
    sequences = [data.sequence(index) for index in range(data.sequences)]
    packed = [sequence.documents is not None for sequence in sequences]
    assert any(packed) == (packing == "documents")
    # With a block, a landmark model.
    model = make_model("llama") if block is None else to_landmark(make_model("llama", attention="sdpa"), block)
    found = run_ranks(world, together, [copy.deepcopy(model) for _ in range(world)], sequences, threads=True)
    loss, gradients = alone(model)
    for total, summed, each in found:
        torch.testing.assert_close(total, loss, rtol=1e-10, atol=0)
        assert summed.keys() == gradients.keys()
        for name, expected in gradients.items():
            error = float((summed[name] - expected).abs().max() / expected.abs().max())
            assert error <= 1e-9, f"{name} is off by {error:.1e}"
        # Evaluation reports single losses in fp32; sequences shorter than the ranks need were filled up.
        assert [len(losses) for losses in each] == [sequence.length for sequence in sequences]
        assert float(sum(losses.double().sum() for losses in each)) == pytest.approx(float(loss), rel=1e-6)


@pytest.mark.parametrize("offload", [False, True])
def test_what_checkpointing_keeps_may_wait_on_the_host(tmp_path, offload, monkeypatch):
    """The same loss and gradients, and everything that autograd saves goes through the host's memory."""
    sequences = [data_of(tmp_path, "documents").sequence(0)]
    moved = []
    keep = torch.autograd.graph.save_on_cpu
    monkeypatch.setattr(torch.autograd.graph, "save_on_cpu", lambda **how: moved.append(how) or keep(**how))
    plain, kept = make_model("llama"), make_model("llama")
    found = []
    for model, options in ((plain, {}), (kept, {"offload": offload})):
        sp = ringattn.SequenceParallel()
        own = ringattn.parallelize(model, sp, gradient_checkpointing=True)
        loss = SequenceReader(own, sp, device=torch.device("cpu"), chunk=5, **options).loss_sum(sequences[0])
        loss.backward()
        found.append((loss.detach(), gradients_of(own)))
    assert len(moved) == offload
    torch.testing.assert_close(found[1], found[0], rtol=1e-12, atol=1e-14)
