"""One point: a model trained on recall and tested, another of the same layers trained on text and tested.

    python -m study.train FOLDER NAME        # from scripts/; the command runs it, one process after another

A line `step` on stdout for each step.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ringattn.evaluation.samples import Sample
from ringattn.models.hybrid import HybridConfig, HybridForCausalLM
from ringattn.settings.optimizer import OptimizerConfig
from ringattn.training.optimizer import Optimizer
from study.effort import Effort, Point
from study.figures import Figure, Found
from study.record import Run, read_run
from study.tasks import DEPTHS, HELD_OUT, Text, as_batch, needle, recall, training_batch

# Little: short runs see nothing twice.
WEIGHT_DECAY = 0.01
# Recall comes late and at once, after which little is left to refine: a rate that falls would only put it off.
FINAL_RATE = 1.0
# At most so many tokens at once in a test: of long contexts a row at a time.
TOKENS = 1 << 13


def train_point(run: Run, point: Point) -> Found:
    """Train and test it. The same numbers whenever it is run with one thread."""
    effort, started = run.effort, time.monotonic()
    model = make_model(effort, point, effort.vocabulary)
    cases = recall(effort, [effort.length], effort.seed)

    def answers(step: int) -> tuple[Tensor, Tensor]:
        return training_batch(effort, cases, step)

    fit(model, answers, effort, steps=effort.steps)
    figures = test(model, effort)
    text_loss = text_error = None
    if effort.text != "none":
        text_loss, text_error = _of_text(effort, point)
    return Found(
        point=point,
        kinds=point.kinds(effort.layers),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        figures=tuple(figures),
        text_loss=text_loss,
        text_error=text_error,
        seconds=time.monotonic() - started,
    )


def make_model(effort: Effort, point: Point, vocabulary: int) -> HybridForCausalLM:
    torch.manual_seed(effort.seed)
    mixer = point.mixer or "gated_deltanet"  # Of no layer, where all are full.
    sizes = (1, 1, effort.hidden) if mixer == "hgrn" else (effort.linear_heads, effort.key_dim, effort.value_dim)
    config = HybridConfig(
        vocab_size=vocabulary,
        hidden_size=effort.hidden,
        intermediate_size=2 * effort.hidden,
        num_hidden_layers=effort.layers,
        num_attention_heads=effort.heads,
        mixer=mixer,
        pattern=point.ratio,
        linear_heads=sizes[0],
        linear_key_dim=sizes[1],
        linear_value_dim=sizes[2],
        max_position_embeddings=max(effort.length, effort.text_length, *effort.lengths),
        # 0.02 is for widths of a thousand: narrower layers would start with next to nothing.
        initializer_range=0.4 / math.sqrt(effort.hidden),
        use_cache=False,
    )
    return HybridForCausalLM(config)


def fit(model: Any, batch: Callable[[int], tuple[Tensor, Tensor]], effort: Effort, *, steps: int) -> None:
    """As the trainer updates weights: a warm-up, then a constant rate."""
    model.train()
    config = OptimizerConfig(
        name=effort.optimizer, learning_rate=effort.learning_rate, weight_decay=WEIGHT_DECAY, final=FINAL_RATE
    )
    optimizer = Optimizer(model, config, steps=steps)
    for step in range(steps):
        tokens, labels = batch(step)
        loss = model(tokens, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip)
        optimizer.step(step)
        print("step", flush=True)


def test(model: Any, effort: Effort) -> list[Figure]:
    """Recall of every number of pairs and needles at every depth, at every length, of samples not trained on."""
    seed = effort.seed + HELD_OUT
    figures = []
    for case in recall(effort, effort.lengths, seed):
        samples = [case.make(number) for number in range(effort.samples)]
        figures.append(_figure(model, "recall", case.place, samples))
    for length in effort.lengths if effort.needles else ():
        for depth in DEPTHS:
            samples = [needle(effort, length, depth, seed, number) for number in range(effort.samples)]
            figures.append(_figure(model, "needle", depth, samples))
    return figures


@torch.no_grad()
def _figure(model: Any, task: str, place: float, samples: list[Sample]) -> Figure:
    model.eval()
    length = len(samples[0].tokens)
    rows = max(1, TOKENS // length)
    shares, losses = [], []
    for first in range(0, len(samples), rows):
        tokens, labels = as_batch(samples[first : first + rows])
        # Only what is asked is read: logits of a long context are larger than the model.
        for hidden, wanted in zip(model.model(tokens).last_hidden_state[:, :-1], labels[:, 1:], strict=True):
            asked = wanted != -100
            logits = model.lm_head(hidden[asked]).float()
            shares.append((logits.argmax(-1) == wanted[asked]).double().mean())
            losses.append(torch.nn.functional.cross_entropy(logits, wanted[asked]).double())
    score, error = _mean(torch.stack(shares))
    return Figure(
        task=task,
        place=place,
        length=length,
        samples=len(samples),
        score=score,
        standard_error=error,
        loss=float(torch.stack(losses).mean()),
    )


def _of_text(effort: Effort, point: Point) -> tuple[float, float | None]:
    """(nats a byte of held-out text, standard error) of a model trained on the rest of it."""
    text = Text.read(effort)
    model = make_model(effort, point, 256)

    def windows(step: int) -> tuple[Tensor, Tensor]:
        tokens = text.batch(effort, step)
        return tokens, tokens

    fit(model, windows, effort, steps=effort.text_steps)
    model.eval()
    with torch.no_grad():
        return _mean(torch.stack([model(row[None], labels=row[None]).loss.double() for row in text.tests(effort)]))


def _mean(values: Tensor) -> tuple[float, float | None]:
    return float(values.mean()), float(values.std() / len(values) ** 0.5) if len(values) > 1 else None


def main(folder: str, name: str) -> None:
    torch.set_num_threads(1)
    run = read_run(Path(folder))
    point = next(point for point in run.points if point.name == name)
    found = train_point(run, point)
    path = run.file(point)
    # A process that is stopped while it writes leaves no half of a file under the name.
    partly = path.with_suffix(".part")
    partly.write_text(json.dumps(found.plain(), indent=1) + "\n", encoding="utf-8")
    partly.replace(path)


if __name__ == "__main__":
    main(*sys.argv[1:])
