"""How a landmark model reads beyond its window: which blocks it retrieves, by what, and where they wait. No torch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ringattn.settings.rules import positive
from ringattn.settings.typed import setting

# Blocks of a window, unless said.
_WINDOW = 8

# faiss's names of indexes that order keys by inner products alone, and take them one by one from the first.
_INDEX = re.compile(r"Flat|SQfp16|HNSW[1-9]\d*(,(Flat|SQfp16))?")


@dataclass(frozen=True, kw_only=True)
class RetrievalConfig:
    """Mohtashami and Jaggi, arXiv 2305.16300, sections 3.2 to 3.4."""

    k: int = setting(4, "blocks that are retrieved for a query; all where there are fewer")
    window: int | None = setting(
        None, "tokens read at a time and attended to exactly, a multiple of the model's block; null: 8 blocks"
    )
    kind: Literal["token_and_head", "head", "token"] = setting(
        "token_and_head", "who chooses: each token in each head; a head for all tokens; a token for all heads"
    )
    positions: Literal["stingy", "plain"] = setting(
        "stingy", "blocks are read just before the window (stingy), or where they stood in the text (plain)"
    )
    keep: Literal["device", "cpu", "file"] = setting("device", "where keys and values of past blocks wait")
    folder: str | None = setting(None, "of the files, with keep=file")
    recent: int = setting(0, "of the k blocks, how many are the last ones whatever the query; k: a sliding window")
    search: str = setting("exact", "exact; faiss, or faiss:FACTORY with an index of it that needs no training")


def check_retrieval(config: RetrievalConfig, *, name: str = "retrieval") -> None:
    """The rules that one field's type cannot state; ValueError where one is broken."""
    positive({f"{name}.k": config.k, f"{name}.window": config.window})
    for choice, known in (
        ("kind", ("token_and_head", "head", "token")),
        ("positions", ("stingy", "plain")),
        ("keep", ("device", "cpu", "file")),
    ):
        if getattr(config, choice) not in known:
            raise ValueError(
                f"{name}.{choice} is one of {', '.join(known)}, got {getattr(config, choice)!r}: write "
                f"{name}.{choice}={known[0]}."
            )
    if (config.keep == "file") != (config.folder is not None):
        raise ValueError(
            f"keep=file writes into {name}.folder, got {name}.keep={config.keep} and {name}.folder={config.folder}: "
            f"{'name a folder' if config.keep == 'file' else f'leave the folder out, or write {name}.keep=file'}."
        )
    if not 0 <= config.recent <= config.k:
        raise ValueError(
            f"of the k = {config.k} blocks, {name}.recent are the last ones, got {config.recent}: write a number from "
            f"0 to {config.k}."
        )
    kind, _, factory = config.search.partition(":")
    if kind not in ("exact", "faiss") or (kind == "exact" and config.search != kind):
        raise ValueError(
            f"{name}.search is exact, faiss or faiss:FACTORY, got {config.search!r}: write {name}.search=exact."
        )
    if ":" in config.search and not _INDEX.fullmatch(factory):
        raise ValueError(
            f"{name}.search=faiss:FACTORY is an index that needs no training, Flat, SQfp16 or HNSW with a number "
            f"(HNSW32, HNSW32,SQfp16), got {factory!r}: write {name}.search=faiss:HNSW32."
        )
    if kind == "faiss" and config.kind != "token_and_head":
        raise ValueError(
            f"an index answers each query by itself, so that {name}.search=faiss goes with {name}.kind=token_and_head, "
            f"got kind={config.kind}: write {name}.search=exact."
        )


def check_model_serves(values: Mapping[str, Any], config: RetrievalConfig, *, name: str) -> None:
    """ValueError where a model with such a `config.json` can't be read so. name: what the model is called."""
    block = values.get("landmark_block")
    if block is None:
        raise ValueError(
            f"blocks are retrieved by their landmarks, and {name} has none: make a landmark model of it (ringattn "
            "convert source=... out=... to=landmark) and train that, or leave the retrieval settings out."
        )
    window_blocks(config, int(block))


def window_blocks(config: RetrievalConfig, block: int) -> int:
    """How many blocks a window holds, of a model with `block` tokens to each. ValueError where that is no number."""
    if config.window is None:
        return _WINDOW
    if config.window % block:
        near = max(1, round(config.window / block)) * block
        raise ValueError(
            f"a window holds whole blocks, of {block} tokens in this model, got retrieval.window={config.window}: "
            f"write retrieval.window={near}."
        )
    return config.window // block


def positions_reached(config: RetrievalConfig, block: int, length: int) -> int:
    """How many positions a text of `length` tokens takes up, landmarks counted."""
    if config.positions == "plain":
        return length + length // block
    return (config.k + 1 + window_blocks(config, block)) * (block + 1)
