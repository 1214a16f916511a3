"""lm-evaluation-harness over a model whose sequences are spread over ranks: its model interface, on our reader.

All ranks of the group hold the same requests and read each one together, so that to the harness they are one process:
call `lm_eval.simple_evaluate(model=HarnessModel(...), ...)` on every rank, with the same arguments. Written for lm-eval
0.4.9 and newer (the extra `harness`), which this module alone imports.

Sequences of other lengths are read together, filled up at their right, which a causal model does not see there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lm_eval.api.model import TemplateLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from ringattn.data.sequence import Sequence as TokenSequence
from ringattn.data.tokenizer import read_tokenizer
from ringattn.evaluation.greedy import decode
from ringattn.training.loss import IGNORE
from ringattn.training.reader import SequenceReader

# Lengths are rounded up to multiples of this: each other length makes a plan of its own.
_ROUND = 64

# Of an answer, where a task says nothing, as the harness's own models have it.
_MAX_NEW = 256


class HarnessModel(TemplateLM):
    """A model for `lm_eval.simple_evaluate`, on every rank of the reader's group.

    folder: of the checkpoint, for its tokenizer. max_length: tokens that the model can read; longer contexts lose
    their beginning, as with the harness's own models. batch_tokens: sequences are read together up to so many tokens.

    `generate_until` decodes greedily, and refuses sampling with a ValueError.
    """

    def __init__(self, reader: SequenceReader, folder: Path, *, max_length: int, batch_tokens: int = 16384) -> None:
        super().__init__()
        self._reader, self._tokenizer = reader, read_tokenizer(folder)
        self.max_length, self._batch_tokens = max_length, batch_tokens
        sizes = reader.model.config.get_text_config()
        end = sizes.eos_token_id
        self._ends = [e for e in (end if isinstance(end, list) else [end]) if e is not None]
        start = sizes.bos_token_id
        first = start if start is not None else next(iter(self._ends), None)
        if first is None:
            raise ValueError(
                "the harness scores texts behind a token that begins one, but the model's config.json names neither "
                "bos_token_id nor eos_token_id: write one of them there."
            )
        self._first: int = first

    @property
    def eot_token_id(self) -> int:
        """The end of a text, or its beginning where the model has no end."""
        return self._ends[0] if self._ends else self._first

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text without a context."""
        return self._first

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **unused: Any) -> list[int]:
        """Token ids; with what the tokenizer puts before a text where asked for alone."""
        ids: list[int] = self._tokenizer.encode(string, add_special_tokens=bool(add_special_tokens)).ids
        return ids

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """The log-likelihood of each text, in windows of `max_length` with each token predicted once."""
        windows: list[tuple[None, list[int], list[int]]] = []
        owners: list[int] = []
        for number, (text,) in enumerate(request.args for request in requests):
            pairs = get_rolling_token_windows(
                self.tok_encode(text), prefix_token=self._first, max_seq_len=self.max_length, context_len=1
            )
            for context, continuation in map(make_disjoint_window, pairs):
                windows.append((None, context, continuation))
                owners.append(number)
        totals = [0.0] * len(requests)
        for owner, (likelihood, _) in zip(owners, self._loglikelihood_tokens(windows)):
            totals[owner] += likelihood
        return totals

    def _loglikelihood_tokens(self, requests: Sequence[Any], **unused: Any) -> list[tuple[float, bool]]:
        """(log-likelihood, whether greedy decoding writes it) of each (_, context, continuation)."""
        found: list[tuple[float, bool]] = [(0.0, True)] * len(requests)
        # One token more than is read: the last one is only predicted.
        whole = [(context + continuation)[-(self.max_length + 1) :] for _, context, continuation in requests]
        for batch in self._batches([len(tokens) - 1 for tokens in whole]):
            inputs = self._filled([whole[number][:-1] for number in batch])
            targets = np.full_like(inputs, IGNORE)
            spans = []
            for row, number in enumerate(batch):
                stop = len(whole[number]) - 1
                start = max(0, stop - len(requests[number][2]))
                targets[row, start:stop] = whole[number][start + 1 : stop + 1]
                spans.append((start, stop))
            predicted, losses = (
                x.cpu().numpy() for x in self._reader.predictions(TokenSequence(inputs=inputs, targets=targets))
            )
            for row, (number, (start, stop)) in enumerate(zip(batch, spans)):
                greedy = bool((predicted[row, start:stop] == targets[row, start:stop]).all())
                found[number] = (-float(losses[row, start:stop].astype(np.float64).sum()), greedy)
        return found

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """Greedy continuations, without the first stop string of `until` and what follows it.

        Raises:
            ValueError: a task asks for sampling or beams.
        """
        asked = [_generation(dict(request.args[1])) for request in requests]
        longest = max((new for _, new in asked), default=0)
        if longest >= self.max_length:
            raise ValueError(
                f"an answer of up to {longest} tokens leaves no room for its question in the model's "
                f"{self.max_length}: lower max_gen_toks in the task's generation_kwargs."
            )
        prompts = [
            self.tok_encode(request.args[0])[-(self.max_length - new) :] or [self._first]
            for request, (_, new) in zip(requests, asked)
        ]
        written = [""] * len(requests)
        for batch in self._batches([len(prompts[number]) + asked[number][1] for number in range(len(requests))]):
            tokens = self._filled([prompts[number] + [self.eot_token_id] * asked[number][1] for number in batch])
            spans = [(len(prompts[number]), len(prompts[number]) + asked[number][1]) for number in batch]

            def done(row: int, certain: np.ndarray, batch: list[int] = batch) -> bool:
                return self._stopped(certain, asked[batch[row]][0])[1]

            after = decode(self._reader, tokens, spans, done=done)
            for row, (number, (start, stop)) in enumerate(zip(batch, spans)):
                written[number] = self._stopped(after[row, start:stop], asked[number][0])[0]
        return written

    def _stopped(self, tokens: np.ndarray, until: Sequence[str]) -> tuple[str, bool]:
        """The text before the end, and whether there is an end in it."""
        ends = np.flatnonzero(np.isin(tokens, self._ends))
        text: str = self._tokenizer.decode(tokens[: ends[0] if len(ends) else None].tolist())
        places = [text.index(word) for word in until if word in text]
        return (text[: min(places)], True) if places else (text, bool(len(ends)))

    def _batches(self, lengths: Sequence[int]) -> Iterator[list[int]]:
        """Numbers of requests, the longest first, together up to `batch_tokens` when filled up."""
        batch: list[int] = []
        for number in sorted(range(len(lengths)), key=lambda number: -lengths[number]):
            if batch and (len(batch) + 1) * lengths[batch[0]] > self._batch_tokens:
                yield batch
                batch = []
            batch.append(number)
        if batch:
            yield batch

    def _filled(self, rows: Sequence[Sequence[int]]) -> np.ndarray:
        """int64 [B, L]; each rank has a token of L."""
        longest = max(max(map(len, rows)), 2 * self._reader.sp.world)
        tokens = np.full((len(rows), -(-longest // _ROUND) * _ROUND), self.eot_token_id, dtype=np.int64)
        for row, ids in enumerate(rows):
            tokens[row, : len(ids)] = ids
        return tokens


def _generation(asked: dict[str, Any]) -> tuple[list[str], int]:
    """(stop strings, tokens at most) of a task's arguments. ValueError where they do not ask for greedy decoding."""
    sampled = asked.get("do_sample") or (asked.get("do_sample") is None and float(asked.get("temperature") or 0) > 0)
    if sampled or int(asked.get("num_beams", 1)) != 1:
        raise ValueError(
            f"answers are decoded greedily, and a task asks for {asked}: set do_sample: false and num_beams: 1 in its "
            "generation_kwargs."
        )
    until = asked.get("until") or []
    words = [until] if isinstance(until, str) else list(until)
    return [word for word in words if word], int(asked.get("max_gen_toks", _MAX_NEW))
