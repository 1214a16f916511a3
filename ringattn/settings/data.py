"""Which text a run reads, how it is packed into sequences, and what happens to records that cannot be read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ringattn.settings.rules import fractions, not_negative

# Where neither a fraction nor a text of its own is given for evaluation.
HELD_OUT = 0.05


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The text. `source` is `file` where `path` says by itself what it is; the other kinds force one.

    held_out: the fraction at the end that is never trained on (null: 0.05, or nothing beside `held_out_path`).
    text_key: the field of a record that holds its text (null: `text`); for jsonl, parquet and datasets.
    split: the part of a datasets folder that has parts (null: `train`).
    documents: a file of cumulative document lengths, for plain token files (null: one document).
    dtype: of the tokens of a `.bin` file (null: uint16).
    packing: `stream` joins documents, `documents` packs them with masks, `single` gives each a sequence of its own.
    overlap: tokens that the pieces of a long document share; they are predicted once.
    bad: what a record that cannot be read does.
    """

    source: Literal["kjv", "file", "text", "jsonl", "parquet", "datasets", "tokens"]
    path: str | None = None
    held_out: float | None = None
    held_out_path: str | None = None
    text_key: str | None = None
    split: str | None = None
    documents: str | None = None
    dtype: Literal["uint16", "uint32"] | None = None
    packing: Literal["stream", "documents", "single"] = "stream"
    overlap: int = 0
    bad: Literal["stop", "skip"] = "stop"

    @property
    def held_out_fraction(self) -> float:
        """The fraction of the training text that is held out: 0 where another text is."""
        if self.held_out_path is not None:
            return 0.0
        return HELD_OUT if self.held_out is None else self.held_out


def check_data(data: DataConfig, sequence_length: int) -> None:
    """The rules that one field's type cannot state; ValueError where one is broken."""
    if (data.source != "kjv") != (data.path is not None):
        raise ValueError(
            f"data.path goes with data.source=file, got data.source={data.source} and data.path={data.path}: "
            "write data=file data.path=/path/to/text.txt, or data=kjv."
        )
    if data.held_out is not None and data.held_out_path is not None:
        raise ValueError(
            "the held-out text is either a fraction of the text or a text of its own, got "
            f"data.held_out={data.held_out} and data.held_out_path={data.held_out_path}: give one of them."
        )
    if data.held_out is not None:
        fractions({"data.held_out": data.held_out})
    if data.held_out == 0:
        raise ValueError(
            "data.held_out is the fraction of the text kept for evaluation and must be above 0, got 0.0: "
            "write data.held_out=0.05."
        )
    not_negative({"data.overlap": data.overlap})
    if data.overlap and data.packing == "stream":
        raise ValueError(
            "data.overlap is shared by the pieces of a long document, and data.packing=stream joins documents, got "
            f"data.overlap={data.overlap}: write data.packing=documents or data.packing=single."
        )
    if data.overlap >= sequence_length:
        raise ValueError(
            f"pieces overlap by less than their length: data.overlap must be below trainer.sequence_length="
            f"{sequence_length}, got {data.overlap}: write for example data.overlap={sequence_length // 8}."
        )
