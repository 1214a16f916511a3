"""An attention call's tensors and options as the one problem that all ranks see."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from torch import Tensor

from ringattn.kernels.kernel import sum_dtype
from ringattn.runtime.arguments import Options, check_tensors
from ringattn.runtime.plan import Problem
from ringattn.schedule.traffic import Tensors

if TYPE_CHECKING:
    from ringattn.attention.parallel import SequenceParallel


def problem_of(
    sp: SequenceParallel, query: Tensor, key: Tensor, value: Tensor, options: Options, sinks: Tensor | None
) -> Problem:
    """ValueError where an argument of the call does not fit the others, or this rank's shards."""
    mask, layout, softcap = options.mask(), options.layout, options.softcap
    length, key_length = options.length, options.key_length
    check_tensors(query, key, value, sinks)
    sp.check_device("query", query.device)
    if softcap is not None and softcap <= 0:
        raise ValueError(f"softcap must be above 0, got {softcap}; pass softcap=None for none")
    if softcap is not None and mask.landmark_block is not None:
        raise ValueError(
            f"landmark attention has no softcap, got landmark_block {mask.landmark_block} with softcap {softcap}; "
            "leave one of them out"
        )
    rows, columns = query.shape[1], key.shape[1]
    if length is None:
        length = mask.documents[-1] if mask.documents else rows * sp.world
    if key_length is None and mask.key_documents:
        key_length = mask.key_documents[-1]
    if key_length is None:
        key_length = length if rows == columns else columns * sp.world
    mask.check(length, key_length)
    if layout is not None and layout.world != sp.world:
        raise ValueError(f"the layout is for {layout.world} ranks, but the group has {sp.world}")
    if layout is not None and layout.length == length:
        of_queries = layout.fit(mask.blocks)
    else:
        # A shard is made before the call, so of a call's mask the layout takes only what shards must know too.
        of_queries = sp.layout(length, mask if mask.landmark_block is not None else None)
    of_keys = of_queries
    if key_length != length:
        of_keys = layout if layout is not None and layout.length == key_length else sp.key_layout(key_length)
    sp.check_shard("query", rows, of_queries)
    sp.check_shard("key", columns, of_keys)
    return Problem(
        of_queries,
        of_keys,
        mask,
        Tensors(
            query.shape[0],
            query.shape[2],
            key.shape[2],
            query.shape[3],
            query.dtype.itemsize,
            sum_dtype(query.dtype).itemsize,
        ),
        query.dtype,
        1 / math.sqrt(query.shape[3]) if options.scale is None else float(options.scale),
        None if softcap is None else float(softcap),
    )
