"""wandb and TensorBoard beside `metrics.jsonl`. A failure of one is said once and never stops a run."""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

logger = logging.getLogger("ringattn")

WANDB_START_SECONDS = 30


class Tracker(Protocol):
    """One of them. Any call may raise whatever its library raises."""

    name: str

    def log(self, values: Mapping[str, float], step: int) -> None: ...

    def close(self, *, failed: bool) -> None: ...


class Trackers:
    """Those that were asked for and started. done: steps that an earlier start of the run recorded."""

    def __init__(
        self, folder: Path, *, wandb: str = "off", tensorboard: bool = False, settings: Mapping[str, Any], done: int = 0
    ) -> None:
        wanted: dict[str, Callable[[], Tracker]] = {}
        if wandb != "off":
            wanted["wandb"] = lambda: Wandb(folder, online=wandb == "online", settings=settings)
        if tensorboard:
            wanted["TensorBoard"] = lambda: TensorBoard(folder, done)
        self._started: list[Tracker] = []
        for name, start in wanted.items():
            try:
                self._started.append(start())
            except Exception as error:  # A tracker's failure, of whatever kind, must not cost the run.
                logger.warning("%s did not start (%s): the run goes on, metrics.jsonl has every step", name, error)

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._each(lambda tracker: tracker.log(values, step))

    def close(self, *, failed: bool) -> None:
        self._each(lambda tracker: tracker.close(failed=failed))

    def _each(self, call: Callable[[Tracker], None]) -> None:
        for tracker in list(self._started):
            try:
                call(tracker)
            except Exception as error:  # As above.
                self._started.remove(tracker)
                logger.warning(
                    "%s failed (%s): the run goes on without it, metrics.jsonl has every step", tracker.name, error
                )


class Wandb:
    """One wandb run for one run folder: a start that goes on with the folder goes on with the run, where it is online.

    Project "ringattn" and the folder's name, unless WANDB_PROJECT and WANDB_NAME say others; WANDB_ENTITY, WANDB_TAGS
    and the rest are wandb's own to read. Charts are over `step`, so that steps made again after a restart lie where
    they belong.
    """

    name = "wandb"

    def __init__(self, folder: Path, *, online: bool, settings: Mapping[str, Any]) -> None:
        import wandb

        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "ringattn"),
            name=os.environ.get("WANDB_NAME", folder.name),
            id=_run_id(folder),
            # Offline there is nothing to ask what the run has: parts with one id are joined when they are synced.
            resume="allow" if online else None,
            dir=str(folder),
            mode="online" if online else "offline",
            config=dict(settings),
            settings=wandb.Settings(init_timeout=WANDB_START_SECONDS, silent=True),
        )
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._run.log({**values, "step": step})

    def close(self, *, failed: bool) -> None:
        self._run.finish(exit_code=int(failed))


class TensorBoard:
    """Event files in the run folder's `tensorboard/`. Steps from `done` on are made again: what an earlier start wrote
    of them is hidden."""

    name = "TensorBoard"

    def __init__(self, folder: Path, done: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=done)

    def log(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self, *, failed: bool) -> None:
        self._writer.close()


def _run_id(folder: Path) -> str:
    """Of a folder's wandb run: made once and kept in the folder."""
    path = folder / "wandb" / "run_id"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(uuid.uuid4().hex[:12] + "\n", encoding="utf-8")
    return path.read_text(encoding="utf-8").strip()
