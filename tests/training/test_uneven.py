"""A step over sequences of unequal lengths is the same however they are spread over ranks."""

import copy

import numpy as np
import pytest
import torch
from models.tiny_models import make_model
from ranks import run_ranks
from tiny_run import tiny_mapping

import ringattn
from ringattn.data.corpus import CorpusWriter
from ringattn.data.prepare import prepare
from ringattn.data.token_data import open_data
from ringattn.runtime.rows import Rows
from ringattn.settings.optimizer import OptimizerConfig
from ringattn.settings.run import from_mapping
from ringattn.settings.trainer import TrainerConfig
from ringattn.training.engine import TorchEngine
from ringattn.training.loop import train
from ringattn.training.reader import SequenceReader
from ringattn.training.watchdog import Watchdog

LENGTH = 16


class Losses:
    """Keeps what the loop records."""

    def __init__(self):
        self.found = []

    def step(self, metrics):
        self.found.append(metrics.loss)


def losses(rank, models, folder, degree):
    """Three steps of two sequences each; `degree` ranks share one."""
    world = len(models)
    number, accumulation = world // degree, 2 // (world // degree)
    groups = [torch.distributed.new_group([r * degree + i for i in range(degree)]) for r in range(number)]
    sp = ringattn.SequenceParallel(group=groups[rank // degree])
    model = ringattn.parallelize(models[rank], sp)
    reader = SequenceReader(model, sp, device=torch.device("cpu"), chunk=5)
    optimizer = OptimizerConfig(name="adamw", learning_rate=0.01)
    recorder = Losses()
    with Watchdog(rank, sp.counter, seconds=0) as watchdog:
        train(
            TorchEngine(reader, optimizer, steps=3, accumulation=accumulation),
            open_data(folder, seed=0, length=LENGTH),
            trainer=TrainerConfig(steps=3, sequence_length=LENGTH, accumulation=accumulation),
            rows=Rows(number=number, index=rank // degree),
            recorder=recorder,
            save=lambda position: None,
            watchdog=watchdog,
        )
    return recorder.found


def test_rows_ranks_and_accumulation_give_the_same_losses(tmp_path):
    random = np.random.default_rng(0)
    with CorpusWriter(tmp_path / "tokens", vocabulary=61) as writer:
        for length in (3, 14, 40, 5, 9, 16, 2, 25):
            writer.write(random.integers(3, 61, length))
            writer.end_document()
        writer.finish(end_of_text=None, tokenizer=None)
    mapping = tiny_mapping(tmp_path)
    mapping["data"] = {"source": "file", "path": str(tmp_path / "tokens"), "packing": "single", "overlap": 4}
    mapping["trainer"]["sequence_length"] = LENGTH
    data = prepare(from_mapping(mapping), tmp_path / "data")
    assert len({data.num_targets(index) for index in range(6)}) > 2, "the sequences differ"
    model = make_model("llama").float()
    (one,) = run_ranks(1, losses, [copy.deepcopy(model)], tmp_path / "data", 1, threads=True)
    for world, degree in ((2, 1), (2, 2), (4, 2)):
        models = [copy.deepcopy(model) for _ in range(world)]
        for found in run_ranks(world, losses, models, tmp_path / "data", degree, threads=True):
            assert found == pytest.approx(one, rel=1e-5)
