"""The data of a run, made once before any worker starts: read, tokenized, split and indexed into a folder.

    data.json         which tokens are for training and which are held out, how they are packed, digests
    corpus.json, tokens.bin, documents.bin      the tokens of a text (`ringattn.data.corpus`)
    held_out/         the same, of a text of its own for evaluation
    tokenizer/        trained on the text, for a new model
    train_index/, held_out_index/               where documents are packed or alone

Tokens that are there already, of `ringattn tokenize` or of another program, are not copied: the run reads them where
they are.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ringattn.data.corpus import TOKENIZER, describe_plain, open_corpus
from ringattn.data.progress import shortened
from ringattn.data.records import BadRecords
from ringattn.data.sources import Source, find_held_out, find_source
from ringattn.data.token_data import DATA_FILE, TokenData, open_data
from ringattn.data.tokenize import held_out_cut, tokenize
from ringattn.data.tokenizer import FILE, TextTokenizer, copy_tokenizer, load_tokenizer
from ringattn.data.windows import View, write_index
from ringattn.planner.architecture import architecture_of, read_config
from ringattn.settings.run import RunConfig


@dataclass(frozen=True)
class Side:
    """The training or the held-out text: where it comes from, the folder of its corpus, and which tokens it is."""

    name: str
    source: Source
    place: Path
    view: View


def prepare(config: RunConfig, folder: Path) -> TokenData:
    """Make the data of a run in `folder`, and open it.

    Raises:
        ValueError: the text is missing, cannot be read, does not fit the model, or is shorter than one sequence.
    """
    data, length = config.data, config.trainer.sequence_length
    source, aside = find_source(data), find_held_out(data)
    tokenizer = None if config.model.path is None else _model_tokenizer(Path(config.model.path), (source, aside))
    bad = BadRecords(skip=data.bad == "skip")
    folder.mkdir(parents=True, exist_ok=True)
    train, tokenizer = _read(config, source, folder, tokenizer, bad)
    if config.model.path is None and train.place != folder:
        copy_tokenizer(train.place / TOKENIZER, folder / TOKENIZER)
    if aside is None:
        rest = View(train.view.corpus, train.view.stop, len(train.view.corpus.tokens))
        held_out = Side("held_out", source, train.place, rest)
    else:
        if tokenizer is None and aside.kind != "tokens":
            raise ValueError(
                f"a held-out text is read with the tokenizer of the training text, and {source.place} has none: give "
                "tokens as data.held_out_path, or the text as data.path."
            )
        held_out, _ = _read(config, aside, folder / "held_out", tokenizer, bad)
    summary: dict[str, Any] = {
        "source": source.place,
        "packing": data.packing,
        "overlap": data.overlap,
        "sequence_length": length,
        "seed": config.trainer.seed,
        "bad_records": {"left_out": bad.count, "first": bad.first},
    }
    for side in (train, held_out):
        _check_vocabulary(config, side)
        _check_length(config, side)
        summary[side.name] = {
            # Beside this file where it was made for this run, else where it is.
            "corpus": str(
                side.place.relative_to(folder) if side.place.is_relative_to(folder) else side.place.absolute()
            ),
            "start": side.view.start,
            "stop": side.view.stop,
            "documents": len(side.view.documents()),
            "digest": side.view.corpus.described.digest,
        }
        if data.packing != "stream":
            packed = data.packing == "documents"
            write_index(side.view, folder / f"{side.name}_index", length=length, overlap=data.overlap, packed=packed)
    (folder / DATA_FILE).write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    opened = open_data(folder, seed=config.trainer.seed, length=length)
    _report(opened, train.view, held_out.view, config, bad)
    return opened


def _read(
    config: RunConfig, source: Source, folder: Path, tokenizer: TextTokenizer | None, bad: BadRecords
) -> tuple[Side, TextTokenizer | None]:
    """A source as tokens, and the tokenizer that is known then: of the training text the part that is not held out."""
    name = "held_out" if source.held_out else "train"
    fraction = 0.0 if source.held_out else config.data.held_out_fraction
    if source.kind != "tokens":
        sizes = config.model.architecture
        made = tokenize(
            source,
            folder,
            tokenizer=tokenizer,
            vocabulary=0 if sizes is None else sizes.vocabulary,
            held_out=fraction,
            bad=bad,
        )
        return Side(name, source, folder, View(open_corpus(folder), 0, made.train_tokens)), made.tokenizer
    place = source.files[0]
    if place.is_dir():
        corpus = open_corpus(place)
        tokenizer = _same_tokenizer(tokenizer, place, corpus.described.tokenizer)
    else:
        documents = None if source.documents is None else Path(source.documents)
        describe_plain(place, folder, dtype=source.dtype, documents=documents)
        place, corpus = folder, open_corpus(folder)
    stop = held_out_cut(corpus.bounds, fraction) if fraction else len(corpus.tokens)
    return Side(name, source, place, View(corpus, 0, stop)), tokenizer


def _model_tokenizer(model: Path, sources: tuple[Source | None, ...]) -> TextTokenizer | None:
    """The tokenizer of a model folder, which may have none where nothing is left to tokenize."""
    needed = any(source is not None and source.kind != "tokens" for source in sources)
    return load_tokenizer(model) if needed or (model / FILE).is_file() else None


def _same_tokenizer(known: TextTokenizer | None, folder: Path, digest: str | None) -> TextTokenizer | None:
    """The tokenizer of token data, which must be the known one where both are known."""
    if digest is None or not (folder / TOKENIZER / FILE).is_file():
        return known
    found = load_tokenizer(folder / TOKENIZER)
    if known is not None and known.digest() != digest and known.tokenizer.get_vocab() != found.tokenizer.get_vocab():
        raise ValueError(
            f"tokens must be those of the model's tokenizer, but {folder} was made with another (of {found.vocabulary} "
            f"tokens, the model's has {known.vocabulary}): run `ringattn tokenize` with tokenizer=MODEL_FOLDER."
        )
    return found if known is None else known


def _check_vocabulary(config: RunConfig, side: Side) -> None:
    largest = side.view.corpus.described.largest
    if config.model.architecture is not None:
        size, model = config.model.architecture.vocabulary, "the new model"
        remedy = f"write model.architecture.vocabulary={largest + 1} or more."
    else:
        size, model = architecture_of(read_config(Path(str(config.model.path)))).vocabulary, str(config.model.path)
        remedy = "tokenize with the tokenizer that the model was trained with."
    if largest >= size:
        raise ValueError(
            f"a model embeds every token of its data, but {model} embeds {size} tokens, and {side.source.place} has "
            f"token {largest}: {remedy}"
        )


def _check_length(config: RunConfig, side: Side) -> None:
    length, view = config.trainer.sequence_length, side.view
    name = "training" if side.name == "train" else "held-out"
    if config.data.packing != "stream":
        # Where documents stay apart, sequences may be shorter.
        if not (np.diff(view.bounds()) > 1).any():
            raise ValueError(
                f"the {name} text needs a document of two tokens, but {side.source.place} has {len(view)} {name} "
                f"tokens in {len(view.documents())} documents: give a longer text."
            )
    # One token more than the sequence: each position predicts the next one.
    elif len(view) <= length:
        remedy = "give a longer text" if side.name == "train" else "raise data.held_out or give a longer text"
        raise ValueError(
            f"the {name} text must be longer than one sequence (trainer.sequence_length={length} "
            f"tokens), but {side.source.place} has {len(view)} {name} tokens: lower trainer.sequence_length, {remedy}."
        )


def _report(opened: TokenData, train: View, held_out: View, config: RunConfig, bad: BadRecords) -> None:
    """One line of what there is to train on, and one of what was left out."""
    line = f"{shortened(len(train))} tokens to train on, {shortened(len(held_out))} held out"
    if config.data.packing != "stream":
        mean = (len(train) - len(train.documents())) / opened.sequences
        line += f"; {opened.sequences:,} sequences of {mean:,.0f} new tokens each on the average"
    for text in (line, bad.report()):
        if text:
            print(text, file=sys.stderr, flush=True)
