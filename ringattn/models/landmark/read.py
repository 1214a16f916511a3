"""A landmark model that reads any length in windows, with random access to all that it has read (arXiv 2305.16300,
section 3.2): states for a loss, logits for generation."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ringattn.attention import SequenceParallel
from ringattn.models.attachment import attachment_of
from ringattn.models.inputs import describe_value
from ringattn.models.landmark.memory import LandmarkMemory
from ringattn.models.rotary import depends_on_length
from ringattn.models.support import text_model
from ringattn.runtime.transport import Mailboxes, VirtualTransport
from ringattn.settings.retrieval import RetrievalConfig, check_model_serves, check_retrieval

_logger = logging.getLogger("ringattn")


class RandomAccess:
    """A text that is being read: what comes next is appended to it.

    model: a landmark model, of which `ringattn.parallelize` may have made one over ranks: they then share the memory,
        and each reads all tokens. reserve: how many tokens will be read, if known. quiet: do not say where there are
        fewer past blocks than are to be retrieved.

    Raises ValueError for a model without landmarks, and for settings that do not serve it.
    """

    def __init__(
        self, model: nn.Module, config: RetrievalConfig | None = None, *, reserve: int = 0, quiet: bool = False
    ) -> None:
        config = RetrievalConfig() if config is None else config
        check_retrieval(config)
        inner: Any = text_model(model)
        check_serves(inner, config)
        attachment = attachment_of(inner)
        self.model: Any = model
        # A model that is not spread over ranks reads by itself, whatever process group there is.
        self.sp = SequenceParallel.over(VirtualTransport(0, Mailboxes(1))) if attachment is None else attachment.sp
        self._inner, self._decoder = inner, inner.model
        self.memory = LandmarkMemory(inner, config, self.sp, reserve=reserve)
        self.quiet = quiet

    @torch.no_grad()
    def states(self, input_ids: Tensor) -> Iterator[Tensor]:
        """The last states of int64 [B, L] tokens, the same on every rank, as they are read: [B, n, hidden size] with n
        summing up to L. Collective."""
        if input_ids.dim() != 2 or input_ids.shape[1] == 0:
            raise ValueError(
                f"a text is [batch, tokens] with a token at least, got the shape {tuple(input_ids.shape)}."
            )
        self.sp.agree({"the text, which every rank gets whole and alike,": describe_value(input_ids)})
        done, length = 0, input_ids.shape[1]
        while done < length:
            count, flags = self.memory.next_piece(length - done)
            states = self._piece(input_ids[:, done : done + count], flags)
            done += count
            if count:
                yield states
        self._say_where_short()

    @torch.no_grad()
    def read(self, input_ids: Tensor) -> Tensor:
        """Read int64 [B, L] tokens; the logits [B, vocabulary] after the last one. Collective."""
        last = input_ids.new_empty(0)
        for states in self.states(input_ids):
            last = states[:, -1]
        found: Tensor = self._inner.lm_head(last)
        return found

    def rewind(self, tokens: int) -> int:
        """Forget all but the first `tokens` of the text, to go on otherwise; every rank of several alike.

        Whole windows that are no longer the newest are kept: returns how many tokens are left, `tokens` or up to a
        window less, from where the text is to be read again. Raises ValueError for a negative number.
        """
        return self.memory.rewind(tokens)

    def step(self, tokens: Tensor) -> Tensor:
        """Read one more token of each row, int64 [B]; the logits [B, vocabulary] after it. Collective."""
        return self.read(tokens[:, None])

    @property
    def cache(self) -> LandmarkMemory:
        """What it remembers, by the name that other decoders have for it."""
        return self.memory

    def _piece(self, input_ids: Tensor, flags: list[bool]) -> Tensor:
        """States of the tokens among the next places, of which `flags` says whether a landmark stands there."""
        decoder, memory = self._decoder, self.memory
        device = next(decoder.parameters()).device
        landmark = torch.tensor(flags, device=device)
        hidden = decoder.insert(decoder.embed(input_ids.to(device)), landmark)
        # Positions depend on who reads: the layers hand their queries and keys over as if all stood at 0.
        turn = decoder.rotary_emb(hidden, torch.zeros((1, 1), dtype=torch.int64, device=hidden.device))[0]
        still = torch.ones_like(turn), torch.zeros_like(turn)
        for layer in decoder.layers:
            hidden = layer(
                hidden, attention_mask=None, position_embeddings=still, past_key_values=None, use_cache=False,
                retrieval=memory,
            )  # fmt: skip
        memory.advance(len(flags))
        states: Tensor = decoder.norm(hidden[:, ~landmark])
        return states

    def _say_where_short(self) -> None:
        """A text of fewer blocks than are to be retrieved is read by full attention: once, and worth a word."""
        memory = self.memory
        if self.quiet or self.sp.rank or not 0 < memory.blocks < memory.config.k:
            return
        self.quiet = True
        _logger.warning(
            "%d blocks are retrieved, but only %d lie before the window so far: all of them are used",
            memory.config.k,
            memory.blocks,
        )


def check_serves(model: Any, config: RetrievalConfig) -> None:
    """ValueError where `model` can't be read so."""
    check_model_serves(model.config.to_dict(), config, name=type(model).__name__)
    if depends_on_length(model.model.rotary_emb):
        raise ValueError(
            "blocks are kept without positions and read at several, which must not turn by other angles as the text "
            "grows, but the model's rotary positions depend on the length (dynamic, longrope): scale them by yarn."
        )
