"""What one rank of `ringattn generate` does, from the model's folder to the last token."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from ringattn.launch.device import choose_device, worker_threads
from ringattn.launch.generate import GenerateConfig, check, prompt_text, read_words
from ringattn.launch.rank import be_rank, together
from transformers import AutoTokenizer
from transformers.utils import logging as transformers_logging

import ringattn
from ringattn.models.decode import Decoder
from ringattn.models.generate import make_decoder, stream
from ringattn.models.landmark.read import RandomAccess
from ringattn.models.load import load_model

# A rank may wait while others read a large model from a slow disk.
_PATIENCE = timedelta(minutes=30)


def take_part(words: Sequence[str]) -> int:
    """Be the rank that the environment names; the exit code."""
    return be_rank(lambda world: work(together(lambda: read_words(words, world=world))), timeout=_PATIENCE)


def work(config: GenerateConfig) -> None:
    """Continue the prompt; rank 0 prints the text as it comes, and figures on stderr. Collective over torch's default
    group, a gloo one.

    Raises:
        Refused: on every rank, where the settings, the tokenizer, the model or a device do not serve on one, or the
        prompt has no token.
    """
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    folder = together(lambda: check(config))
    device = together(lambda: choose_device(config.device))
    if device.type == "cpu":
        torch.set_num_threads(worker_threads(config.threads))
    tokenizer = together(lambda: read_tokenizer(folder))
    ids = together(lambda: encode(tokenizer, prompt_text(config), chat=config.chat))
    group = None
    if device.type == "cuda":
        group = dist.new_group(backend="nccl", timeout=timedelta(seconds=config.timeout))
    sp = together(lambda: ringattn.SequenceParallel(group, config.schedule, config.layout, timeout=config.timeout))
    whole = len(ids) + config.max_new_tokens
    model: Any = together(
        lambda: load_model(folder, rope_scaling=config.rope_scaling, length=whole, dtype=getattr(torch, config.dtype))
    )
    together(lambda: ringattn.parallelize(model.to(device), sp))
    decoder = together(lambda: make_decoder(model, reserve=whole, prompt=len(ids), retrieval=config.retrieval))
    _speak(config, decoder, tokenizer, torch.tensor([ids], device=device))


def _speak(config: GenerateConfig, decoder: Decoder | RandomAccess, tokenizer: Any, ids: torch.Tensor) -> None:
    first = dist.get_rank() == 0
    stop = ends_of(decoder.model, tokenizer)
    started = time.perf_counter()
    read = 0.0
    out = Spoken(tokenizer.decode)
    count = 0
    for tokens in stream(
        decoder,
        ids,
        max_new_tokens=config.max_new_tokens,
        temperature=config.temperature,
        top_p=config.top_p,
        seed=config.seed,
        stop=stop,
    ):
        read = read or time.perf_counter() - started
        token, count = int(tokens[0]), count + 1
        if first and token not in stop:
            sys.stdout.write(out.next(token))
            sys.stdout.flush()
    if first:
        sys.stdout.write(out.rest() + "\n")
        sys.stdout.flush()
        later = time.perf_counter() - started - read
        rate = f", then {(count - 1) / later:.1f} tokens/s" if count > 1 else ""
        print(
            f"{ids.shape[1]:,} tokens read in {read:.1f} s{rate}; {count} made; "
            f"{decoder.cache.bytes / 2**20:.1f} MiB of keys and values on each of {decoder.sp.world} ranks",
            file=sys.stderr,
            flush=True,
        )


class Spoken:
    """Text out of tokens as they come: a token may hold a part of a letter, and a decoder looks at neighbours."""

    def __init__(self, decode: Callable[[list[int]], str]) -> None:
        self._decode = decode
        self._ids: list[int] = []
        # [shown, read) are the tokens whose text is out already and that still lend context to the next ones.
        self._shown, self._read = 0, 0

    def next(self, token: int) -> str:
        """The text that is certain with one more token; empty in the middle of a letter."""
        self._ids.append(token)
        return self._take(whole=False)

    def rest(self) -> str:
        """What is left when no token follows."""
        return self._take(whole=True)

    def _take(self, *, whole: bool) -> str:
        before = self._decode(self._ids[self._shown : self._read])
        after = self._decode(self._ids[self._shown :])
        if after.endswith("\N{REPLACEMENT CHARACTER}") and not whole:
            return ""
        self._shown, self._read = self._read, len(self._ids)
        return after[len(before) :]


def read_tokenizer(folder: Path) -> Any:
    """The tokenizer of a model folder. ValueError where there is none."""
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"a prompt needs the model's tokenizer, but {folder} has none that transformers reads "
            f"({str(error).splitlines()[0]}): copy its tokenizer.json there."
        ) from error


def encode(tokenizer: Any, prompt: str, *, chat: bool) -> list[int]:
    """The prompt's token ids. ValueError where it has none, or a chat template is missing."""
    if chat:
        if not tokenizer.chat_template:
            raise ValueError("chat=true needs a chat template, but this model's tokenizer has none: drop chat=true.")
        message = [{"role": "user", "content": prompt}]
        text = tokenizer.apply_chat_template(message, add_generation_prompt=True, tokenize=False)
        ids: list[int] = tokenizer(text, add_special_tokens=False).input_ids
    else:
        ids = tokenizer(prompt).input_ids
    if not ids:
        raise ValueError("a prompt needs a token at least, but the tokenizer makes none of this one: write another.")
    return ids


def ends_of(model: Any, tokenizer: Any) -> tuple[int, ...]:
    """The tokens that end a text, by the model's generation settings and its tokenizer."""
    named = getattr(model.generation_config, "eos_token_id", None)
    ends = [named] if isinstance(named, int) else list(named or [])
    if tokenizer.eos_token_id is not None:
        ends.append(tokenizer.eos_token_id)
    return tuple(sorted(set(ends)))
