"""Text from a parallelized model: greedy, or sampled by temperature and nucleus."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from ringattn.models.decode import Decoder
from ringattn.models.landmark import is_landmark
from ringattn.models.landmark.read import RandomAccess
from ringattn.models.support import text_model
from ringattn.settings.retrieval import RetrievalConfig
from ringattn.settings.sampling import check_sampling


def generate(
    model: nn.Module,
    input_ids: Tensor,
    *,
    max_new_tokens: int,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    stop: Sequence[int] = (),
    retrieval: RetrievalConfig | None = None,
) -> Tensor:
    """Continue each row of `input_ids`, int64 [B, L], the same on every rank. Collective.

    temperature: 0 takes the likeliest token. top_p: sample among the likeliest tokens that together have this
    probability (nucleus sampling; A. Holtzman et al., arXiv 1904.09751). stop: tokens that end a row.
    retrieval: how a landmark model, parallelized or not, reads beyond its window; for it alone.
    Returns int64 [B, L + n], the same on every rank, n at most `max_new_tokens`; a row that has ended repeats its end.

    Raises:
        ValueError: a number outside of its range; a prompt without a token, or not the same on every rank; a model that
        is not parallelized and has no landmarks; `retrieval` for one without landmarks, or that does not fit it.
    """
    steps = stream(
        make_decoder(
            model, reserve=input_ids.shape[-1] + max_new_tokens, prompt=input_ids.shape[-1], retrieval=retrieval
        ),
        input_ids,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
        stop=stop,
    )
    return torch.cat((input_ids, *(tokens[:, None] for tokens in steps)), dim=1)


def make_decoder(
    model: nn.Module, *, reserve: int, prompt: int, retrieval: RetrievalConfig | None = None
) -> Decoder | RandomAccess:
    """What reads for `stream`: with random access where the model has landmarks. reserve: tokens that will be read, of
    which `prompt` at once.

    Raises:
        ValueError: `retrieval` for a model without landmarks, or that does not fit it; a model that is not parallelized
        and has none.
    """
    if is_landmark(text_model(model).config) or retrieval is not None:
        return RandomAccess(model, retrieval, reserve=reserve)
    return Decoder(model, reserve=reserve - prompt)


def stream(
    decoder: Decoder | RandomAccess,
    input_ids: Tensor,
    *,
    max_new_tokens: int,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    stop: Sequence[int] = (),
) -> Iterator[Tensor]:
    """The new tokens as they come, int64 [B] each, from a decoder that may have read already; the other arguments are
    those of `generate`. Collective: every rank goes through to the end.

    Raises:
        ValueError: a number outside of its range; a prompt without a token.
    """
    check_sampling(max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p)
    model = decoder.model
    random = torch.Generator().manual_seed(seed)
    ends = torch.tensor(list(stop), dtype=torch.int64, device=input_ids.device)
    training = model.training
    model.eval()
    try:
        logits = decoder.read(input_ids)
        ended = torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)
        tokens = input_ids[:, -1]
        for number in range(max_new_tokens):
            chosen = choose(logits, temperature=temperature, top_p=top_p, random=random)
            # One rank decides for all: they would part for ever where two of them rounded to different tokens.
            tokens = torch.where(ended, tokens, decoder.sp.gather(chosen)[0])
            ended |= torch.isin(tokens, ends)
            yield tokens
            if bool(ended.all()) or number == max_new_tokens - 1:
                return
            logits = decoder.step(tokens)
    finally:
        model.train(training)


def choose(logits: Tensor, *, temperature: float, top_p: float, random: torch.Generator) -> Tensor:
    """int64 [B]: a token a row of logits [B, vocabulary]. Drawn on the CPU, so that a seed means the same anywhere."""
    if temperature == 0:
        return logits.argmax(dim=-1)
    probability = (logits.double().cpu() / temperature).softmax(dim=-1)
    ordered, order = probability.sort(dim=-1, descending=True)
    before = ordered.cumsum(dim=-1) - ordered
    ordered = ordered.masked_fill(before >= top_p, 0.0)
    place = torch.multinomial(ordered, 1, generator=random)
    return order.gather(-1, place)[:, 0].to(logits.device)
