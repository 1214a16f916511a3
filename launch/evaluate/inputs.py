"""What an evaluation asks, made before the model is loaded, so that mistakes are said at once. No torch."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from ringattn.evaluation.passkey import passkey_cases
from ringattn.evaluation.recall import recall_cases
from ringattn.evaluation.ruler import ruler_cases
from ringattn.evaluation.samples import Case
from ringattn.evaluation.text import Pieces, read_tokens
from ringattn.evaluation.window_starts import window_starts
from ringattn.planner.architecture import read_config
from ringattn.settings.evaluation import EvaluationConfig

# Tokens left behind the answers for greedy decoding, which may write them with other words between.
SPARE = 24

_NO_TOKENS = np.zeros(0, dtype=np.int64)


def _numbers(tokens: np.ndarray) -> str:
    return " ".join(map(str, tokens))


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """tokens: of the text, int [n], where perplexity is asked for. begin: what the tokenizer puts before a text.
    text: tokens as text. name: of the text."""

    cases: tuple[Case, ...] = ()
    tokens: np.ndarray | None = None
    begin: np.ndarray = field(default_factory=lambda: _NO_TOKENS)
    name: str | None = None
    text: Callable[[np.ndarray], str] = _numbers

    def digest(self) -> str:
        """The same on ranks that ask the same. Of the text and of one sample a task."""
        found = hashlib.sha256(b"" if self.tokens is None else np.ascontiguousarray(self.tokens).tobytes())
        for case in {case.task: case for case in self.cases}.values():
            found.update(case.make(0).tokens.tobytes())
        return found.hexdigest()[:12]


def make_inputs(config: EvaluationConfig) -> Inputs:
    """Read the text, plan the windows, and make the first sample of each case at its shortest length.

    Raises:
        ValueError: a text, tokenizer, length or vocabulary that does not serve.
    """
    lengths, asked = config.token_lengths, config.task_names
    tokens, name, begin = None, None, _NO_TOKENS
    if "perplexity" in asked:
        tokens, begin, name = read_tokens(config.data, config.folder)
        window_starts(len(tokens), lengths, windows=config.windows)
    has_text = (config.folder / "tokenizer.json").is_file() or {"passkey", "ruler"} & set(asked)
    pieces = Pieces(config.folder) if has_text else None
    cases: list[Case] = []
    if pieces is not None and "passkey" in asked:
        cases += passkey_cases(pieces, lengths, depths=config.depths, seed=config.seed)
    if pieces is not None and "ruler" in asked:
        spare = SPARE if config.scoring == "greedy" else 0
        cases += ruler_cases(pieces, config.ruler_names, lengths, ruler=config.ruler, seed=config.seed, spare=spare)
    if "recall" in asked:
        sizes = read_config(config.folder)
        special = set(pieces.special if pieces else ()) | _special_of(sizes)
        cases += recall_cases(
            lengths,
            config.pair_numbers,
            vocabulary=min(sizes["vocab_size"], pieces.vocabulary) if pieces else sizes["vocab_size"],
            special=special,
            power=config.recall.power,
            seed=config.seed,
            start=pieces.start if pieces else _NO_TOKENS,
        )
    for case in cases:
        if case.length == lengths[0]:
            try:
                case.make(0)
            except ValueError as error:
                raise ValueError(f"{case.task}, {case.name}: {error}") from error
    text = pieces.text if pieces is not None else _numbers
    return Inputs(cases=tuple(cases), tokens=tokens, begin=begin, name=name, text=text)


def _special_of(sizes: dict[str, object]) -> set[int]:
    """The beginning, end and padding that a `config.json` names."""
    found: set[int] = set()
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        value = sizes.get(name)
        found |= {v for v in (value if isinstance(value, list) else [value]) if isinstance(v, int)}
    return found
