"""What rank 0 records and shows: `metrics.jsonl`, wandb where asked for, a progress bar or plain lines."""

from __future__ import annotations

import json
import logging
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

import tqdm

logger = logging.getLogger("ringattn")

PLAIN_LINES = 20  # Where the terminal is no terminal: about this many progress lines in all.
WANDB_START_SECONDS = 30


@dataclass(frozen=True, kw_only=True)
class StepMetrics:
    """One step. `loss` is the mean over all tokens of the global batch, in nats; `peak_memory` in bytes, the
    largest of all ranks; `tokens_per_second` counts the whole world's."""

    step: int
    loss: float
    learning_rate: float
    gradient_norm: float
    tokens_per_second: float
    seconds: float
    peak_memory: int


class Recorder:
    """Writes and shows the steps of a run on rank 0; on other ranks it does nothing.

    A failure of wandb is reported once and never stops a run.
    """

    def __init__(
        self,
        folder: Path,
        *,
        steps: int,
        wandb: str,
        settings: dict[str, Any],
        enabled: bool,
        stream: TextIO | None = None,
    ) -> None:
        self.enabled = enabled
        if not enabled:
            return
        self.steps, self.stream = steps, stream or sys.stderr
        self._started = time.perf_counter()
        self._file = (folder / "metrics.jsonl").open("a", encoding="utf-8")
        self._bar = (
            tqdm.tqdm(total=steps, unit="step", dynamic_ncols=True, file=self.stream) if self.stream.isatty() else None
        )
        self._wandb = _start_wandb(wandb, folder, settings)

    def step(self, metrics: StepMetrics) -> None:
        """Record one step, as soon as it is done."""
        if not self.enabled:
            return
        self._file.write(json.dumps(asdict(metrics)) + "\n")
        self._file.flush()
        self._log_wandb(asdict(metrics))
        done = metrics.step + 1
        if self._bar is not None:
            rate = f"{metrics.tokens_per_second:,.0f}"
            self._bar.set_postfix({"loss": f"{metrics.loss:.3f}", "tokens/s": rate})
            self._bar.update()
        elif done % max(1, self.steps // PLAIN_LINES) == 0 or done in (1, self.steps):
            left = (time.perf_counter() - self._started) / done * (self.steps - done)
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
            self._log_wandb(values)

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
        if self._wandb is not None:
            _forgiving(self._wandb.finish, exit_code=0 if kind is None else 1)

    def _log_wandb(self, values: dict[str, Any]) -> None:
        if self._wandb is not None and not _forgiving(self._wandb.log, values):
            self._wandb = None


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
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [StepMetrics(**json.loads(line)) for line in lines]


def _start_wandb(mode: str, folder: Path, settings: dict[str, Any]) -> Any:
    if mode == "off":
        return None
    try:
        import wandb

        return wandb.init(
            project="ringattn",
            name=folder.name,
            dir=str(folder),
            mode="online" if mode == "online" else "offline",
            config=settings,
            settings=wandb.Settings(init_timeout=WANDB_START_SECONDS, silent=True),
        )
    except Exception as error:  # A tracker's failure, of whatever kind, must not cost the run.
        logger.warning("wandb did not start (%s): the run goes on, metrics.jsonl has every step", error)
        return None


def _forgiving(call: Any, *arguments: Any, **named: Any) -> bool:
    try:
        call(*arguments, **named)
    except Exception as error:  # As above.
        logger.warning("wandb failed (%s): the run goes on without it, metrics.jsonl has every step", error)
        return False
    return True
