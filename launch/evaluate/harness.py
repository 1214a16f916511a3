"""`ringattn eval tasks=harness`: lm-evaluation-harness's own tasks on the model of this evaluation."""

from __future__ import annotations

import contextlib
import io
import logging
from typing import TYPE_CHECKING

from ringattn.settings.evaluation import EvaluationConfig

if TYPE_CHECKING:
    from ringattn.training.reader import SequenceReader


def run(config: EvaluationConfig, reader: SequenceReader) -> dict[str, dict[str, float]]:
    """The harness's figures, metric by task, on the first rank of each host; nothing elsewhere. Collective.

    Raises:
        ValueError: the harness is not installed, has no such task, or a task asks for other than greedy decoding.
    """
    check_installed()
    import lm_eval
    from lm_eval.tasks import TaskManager

    from ringattn.evaluation.harness import HarnessModel

    names = [name.strip() for name in str(config.harness.tasks).split(",") if name.strip()]
    # Its own thousands of task files take a while to read: they are left out where a folder of one's own has all.
    own = config.harness.include_path
    manager = TaskManager(include_path=own, include_defaults=own is None)
    unknown = [name for name in names if not manager.match_tasks([name])]
    if unknown and own is not None:
        manager = TaskManager(include_path=own)
        unknown = [name for name in names if not manager.match_tasks([name])]
    if unknown:
        raise ValueError(
            f"lm-evaluation-harness has no task {unknown[0]!r}: `lm-eval ls tasks` lists its own, and "
            "harness.include_path=FOLDER adds others."
        )
    reach = getattr(reader.model.config.get_text_config(), "max_position_embeddings", None)
    model = HarnessModel(
        reader, config.folder, max_length=reach or max(config.token_lengths), batch_tokens=config.batch_tokens
    )
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    # Its bars would come from each rank.
    with contextlib.redirect_stderr(io.StringIO()):
        found = lm_eval.simple_evaluate(
            model=model,
            tasks=names,
            num_fewshot=config.harness.fewshot,
            limit=config.harness.limit,
            task_manager=manager,
            log_samples=False,
            random_seed=config.seed,
            numpy_random_seed=config.seed,
            torch_random_seed=config.seed,
            fewshot_random_seed=config.seed,
        )
    # The harness itself gives them to the process with LOCAL_RANK 0.
    return {
        task: {
            metric.removesuffix(",none"): float(value)
            for metric, value in metrics.items()
            if isinstance(value, int | float) and not isinstance(value, bool)
        }
        for task, metrics in (found["results"] if found is not None else {}).items()
    }


def check_installed() -> None:
    """ValueError where the harness can't be imported."""
    from importlib.util import find_spec

    if find_spec("lm_eval") is None:
        raise ValueError(
            "tasks=harness runs lm-evaluation-harness, which is not installed: pip install 'ringattn[harness]'."
        )
