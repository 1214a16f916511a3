"""What rank 0 records and shows: `metrics.jsonl`, trackers where asked for, a progress bar or plain lines."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

import tqdm

from ringattn.training.trackers import Trackers

logger = logging.getLogger("ringattn")

PLAIN_LINES = 20  # Where the terminal is no terminal: about this many progress lines in all.
METRICS = "metrics.jsonl"
SLOW = 1.3  # A rank that computes so many times as long as rank 0 is named.


@dataclass(frozen=True, kw_only=True)
class StepMetrics:
    """One step. `loss` is the mean over all targets of the global batch, in nats; `gradient_norm` before clipping;
    `applied`: false where loss or gradient were not finite, and the weights stayed; `tokens_per_second` counts the
    whole world's; `parts`: seconds of rank 0 by part; `slowest_rank` computed longest, for `slowest_seconds`, its
    waiting for others left out; `peak_memory` in bytes, the largest of all ranks; `mfu`: the share of the devices' peak
    that the model's own work is, null where that peak is not known."""

    step: int
    loss: float
    learning_rate: float
    gradient_norm: float
    tokens_per_second: float
    seconds: float
    peak_memory: int
    applied: bool = True
    parts: dict[str, float] = field(default_factory=dict)
    slowest_rank: int = 0
    slowest_seconds: float = 0.0
    mfu: float | None = None


class Recorder:
    """Writes and shows the steps of a run on rank 0; on other ranks it does nothing.

    `done` steps are recorded already, of an
    earlier start of the run: what it recorded after them is dropped, for those steps are made again. `names`: of the
    ranks, to tell the slowest by; `flops_of_peak`: the model's FLOP of one token over the FLOP/s of all devices.
    """

    def __init__(
        self,
        folder: Path,
        *,
        steps: int,
        wandb: str,
        settings: dict[str, Any],
        enabled: bool,
        tensorboard: bool = False,
        done: int = 0,
        names: Sequence[str] = (),
        flops_of_peak: float | None = None,
        stream: TextIO | None = None,
    ) -> None:
        self.enabled = enabled
        if not enabled:
            return
        self.steps, self.stream = steps, stream or sys.stderr
        self._done, self._names, self._flops_of_peak = done, names, flops_of_peak
        self._started = time.perf_counter()
        self._told_slowest = -1
        _drop_steps(folder / METRICS, from_step=done)
        self._file = (folder / METRICS).open("a", encoding="utf-8")
        self._bar = (
            tqdm.tqdm(total=steps, initial=done, unit="step", dynamic_ncols=True, file=self.stream)
            if self.stream.isatty()
            else None
        )
        self._trackers = Trackers(folder, wandb=wandb, tensorboard=tensorboard, settings=settings, done=done)

    def step(self, metrics: StepMetrics) -> None:
        """Record one step, as soon as it is done."""
        if not self.enabled:
            return
        if self._flops_of_peak is not None:
            metrics = replace(metrics, mfu=self._flops_of_peak * metrics.tokens_per_second)
        self._file.write(json.dumps(asdict(metrics)) + "\n")
        self._file.flush()
        self._trackers.log(_flat(metrics), metrics.step)
        self._tell_faults(metrics)
        done = metrics.step + 1
        if self._bar is not None:
            rate = f"{metrics.tokens_per_second:,.0f}"
            self._bar.set_postfix({"loss": f"{metrics.loss:.3f}", "tokens/s": rate})
            self._bar.update()
        elif done % max(1, self.steps // PLAIN_LINES) == 0 or done in (self._done + 1, self.steps):
            left = (time.perf_counter() - self._started) / (done - self._done) * (self.steps - done)
            logger.info(
                "step %d/%d  loss %.3f  %s tokens/s  %s left",
                done,
                self.steps,
                metrics.loss,
                f"{metrics.tokens_per_second:,.0f}",
                tqdm.tqdm.format_interval(left),
            )

    def summary(self, values: dict[str, float]) -> None:
        """Figures of the whole run."""
        if self.enabled:
            self._trackers.log(values, self.steps)

    def _tell_faults(self, metrics: StepMetrics) -> None:
        if not metrics.applied:
            logger.warning(
                "step %d: loss %.4g, gradient norm %.4g: not finite, the weights stay as they are",
                metrics.step,
                metrics.loss,
                metrics.gradient_norm,
            )
        own = metrics.parts.get("forward", 0.0) + metrics.parts.get("backward", 0.0)
        own -= metrics.parts.get("waiting for attention", 0.0)
        slow = metrics.slowest_rank
        if own > 0 and metrics.slowest_seconds > SLOW * own and slow not in (0, self._told_slowest):
            self._told_slowest = slow
            name = self._names[slow] if slow < len(self._names) else ""
            logger.warning(
                "step %d: rank %d%s computed for %.1f s, rank 0 for %.1f s: the others wait for it",
                metrics.step,
                slow,
                f" ({name})" if name else "",
                metrics.slowest_seconds,
                own,
            )

    def __enter__(self) -> Recorder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self.enabled:
            return
        self._file.close()
        if self._bar is not None:
            self._bar.close()
        self._trackers.close(failed=kind is not None)


class BarHandler(logging.Handler):
    """Log lines that do not tear the progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.tqdm.write(self.format(record), file=sys.stderr)
        sys.stderr.flush()


def configure_logging(*, enabled: bool) -> None:
    """One logger, one handler, rank 0 only; other ranks show errors."""
    handler = BarHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger.handlers = [handler]
    logger.propagate = False
    logger.setLevel(logging.INFO if enabled else logging.ERROR)


def read_metrics(folder: Path) -> list[StepMetrics]:
    """The steps that a run recorded, in order."""
    lines = (folder / METRICS).read_text(encoding="utf-8").splitlines()
    return [StepMetrics(**json.loads(line)) for line in lines]


def _drop_steps(path: Path, *, from_step: int) -> None:
    """Steps that are made again must not be recorded twice; a line that a crash left half-written goes too."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] < from_step:
                kept.append(line + "\n")
        except (ValueError, KeyError):
            continue
    aside = path.with_name(f".{path.name}.partial")
    aside.write_text("".join(kept), encoding="utf-8")
    aside.replace(path)


def _flat(metrics: StepMetrics) -> dict[str, float]:
    """Numbers by name, for trackers."""
    values: dict[str, float] = {}
    for name, value in asdict(metrics).items():
        if isinstance(value, dict):
            values |= {f"seconds/{part}": seconds for part, seconds in value.items()}
        elif value is not None:
            values[name] = float(value)
    return values
