"""What makes a decoder a landmark decoder: landmarks go in behind the embedding and come out before the head.

Data, labels, positions that a caller counts, and logits know nothing of them (arXiv 2305.16300, section 3.1; there the
data holds them, which is why a block may straddle a border there). The landmark is one embedding row of its own, beside
the vocabulary's. In the sequence with landmarks each token, landmarks too, takes the next position (section 3.1).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from ringattn.attention import SequenceParallel
from ringattn.models.attachment import attachment_of
from ringattn.models.attend import NAME, Retriever, of_autocast
from ringattn.models.inputs import check_ids, check_no_padding, check_positions, documents_of_positions
from ringattn.runtime.transport import Mailboxes, VirtualTransport
from ringattn.sequence.landmarks import Bounds, Ints, are_landmarks, block_numbers, with_landmarks
from ringattn.sequence.layout import Layout

# The attention of a landmark model that is on its own; once parallelized, that of every parallelized model.
ALONE = "ringattn_landmark"


def check_block(block: Any) -> int:
    """`block` where it is a number of ordinary tokens; ValueError elsewhere."""
    if isinstance(block, bool) or not isinstance(block, int) or block < 1:
        raise ValueError(f"a landmark block has at least 1 ordinary token, got landmark_block={block!r}: write 63.")
    return block


class LandmarkAttention:
    """Makes a transformers model use grouped softmax and nothing else. To be listed before the family's class."""

    def get_correct_attn_implementation(self, requested_attention: str | None, is_init_check: bool = False) -> str:
        if requested_attention in (None, ALONE):
            # Registered here, so that whatever makes a model finds it.
            AttentionInterface.register(ALONE, attend_alone)
            return ALONE
        if requested_attention == NAME:
            return NAME
        raise ValueError(
            f"a landmark model's softmax is grouped by blocks, which attn_implementation={requested_attention!r} does "
            "not know: leave it out."
        )

    @classmethod
    def _can_set_attn_implementation(cls) -> bool:
        return True


class LandmarkDecoder(LandmarkAttention):
    """The forward of a decoder with landmarks. To be listed before the family's decoder."""

    def __init__(self, config: Any) -> None:
        check_block(getattr(config, "landmark_block", None))
        super().__init__(config)  # type: ignore[call-arg]
        # The landmark's embedding [1, hidden size]; a module, so that engines which spread weights see it read.
        self.landmark = nn.Embedding(1, config.hidden_size)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        length: int | None = None,
        documents: Bounds = None,
        **options: Any,
    ) -> Any:
        """As the family's, over ordinary tokens.

        length, documents: of the whole sequence, without landmarks, where this call has a rank's shards; documents
        alone where it has whole sequences. Raises ValueError for padding, a cache, ids that are no token's, and
        positions other than each token's place in its document.
        """
        check_no_padding(attention_mask)
        if use_cache or past_key_values is not None:
            raise ValueError(
                "a landmark model keeps no key and value cache of transformers', but was called with "
                f"{'use_cache=True' if use_cache else 'past_key_values'}: generate with ringattn.generate."
            )
        states = self.embed(input_ids) if inputs_embeds is None else inputs_embeds
        whole = states.shape[1] if length is None else length
        if documents is None and length is None:
            documents = tuple(documents_of_positions(position_ids) or ()) or None
        block: int = self.config.landmark_block  # type: ignore[attr-defined]
        attachment = attachment_of(self)  # type: ignore[arg-type]
        spread, bounds = with_landmarks(whole, None if documents is None else tuple(map(int, documents)), block)
        layout, rank = None, 0
        if attachment is None:
            # Whatever process group there is, a model that is not parallelized works by itself.
            options["alone"] = SequenceParallel.over(VirtualTransport(0, Mailboxes(1)))
        else:
            layout, rank = attachment.cut.with_landmarks(spread, bounds), attachment.sp.rank
        parts = _parts(spread, bounds, block, layout, rank)
        check_positions(position_ids, torch.from_numpy(parts.token))
        if states.shape[1] != len(parts.ordinary):
            raise ValueError(
                f"{states.shape[1]} tokens were given where this rank's part of {whole} has {len(parts.ordinary)}: cut "
                "the sequence as the parallelized model does."
            )
        inside = self.insert(states, torch.from_numpy(parts.landmark).to(states.device))
        output = super().forward(  # type: ignore[misc]
            inputs_embeds=inside,
            position_ids=torch.from_numpy(parts.position).to(states.device)[None],
            use_cache=False,
            length=spread,
            documents=bounds,
            landmark_block=block,
            **options,
        )
        output.last_hidden_state = output.last_hidden_state[:, torch.from_numpy(parts.ordinary).to(states.device)]
        return output

    def embed(self, input_ids: Tensor | None) -> Tensor:
        """[B, n, hidden size] of int64 [B, n]."""
        if input_ids is None:
            raise ValueError("a model is called with either input_ids or inputs_embeds, got neither: give one of them.")
        vocabulary: int = self.config.vocab_size  # type: ignore[attr-defined]
        check_ids(input_ids, vocabulary)
        embedded: Tensor = self.embed_tokens(input_ids)  # type: ignore[attr-defined]
        return embedded

    def insert(self, states: Tensor, landmark: Tensor) -> Tensor:
        """states [B, n, hidden size] with the landmark's row put in where `landmark` (bool [n with landmarks]) says."""
        row = self.landmark(torch.zeros((), dtype=torch.int64, device=states.device)).to(states.dtype)
        # Each place reads one row of [the tokens..., the landmark].
        index = torch.where(landmark, states.shape[1], (~landmark).cumsum(0) - 1)
        rows = torch.cat((states, row.expand(states.shape[0], 1, -1)), dim=1)
        return rows.index_select(1, index)


class _Parts:
    """Of one rank's tokens in a sequence with landmarks: landmark, bool [n]; ordinary, where the others are, int64;
    position, int64 [n], each token's place in its document; token: that of the ordinary ones without landmarks."""

    def __init__(self, length: int, documents: Bounds, block: int, places: Ints) -> None:
        self.landmark = are_landmarks(places, length, documents, block)
        self.ordinary = (~self.landmark).nonzero()[0]
        document, number = block_numbers(places, length, documents, block)
        starts = 0 if documents is None else np.asarray(documents, dtype=np.int64)[document]
        self.position = places - starts
        self.token = (self.position - number)[self.ordinary]


@lru_cache(maxsize=64)
def _parts(length: int, documents: Bounds, block: int, layout: Layout | None, rank: int) -> _Parts:
    places = np.arange(length, dtype=np.int64) if layout is None else layout.positions(rank)
    return _Parts(length, documents, block, places)


def attend_alone(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    length: int | None = None,
    documents: Bounds = None,
    landmark_block: int | None = None,
    alone: SequenceParallel | None = None,
    retrieval: Retriever | None = None,
    **rest: Any,
) -> tuple[Tensor, None]:
    """Grouped softmax of whole sequences with landmarks on one process, in the form that transformers expects.

    query: [B, Hq, n, D]; key, value: [B, Hkv, n, D]. Returns ([B, n, Hq, D], None). alone: computes it.
    """
    if retrieval is not None:
        return retrieval.attend(module, query, key, value, scale=scaling), None
    assert alone is not None and landmark_block is not None
    if dropout > 0:
        raise ValueError(
            f"dropout inside attention is not supported, got {dropout} in {type(module).__name__}: set "
            "model.config.attention_dropout to 0 before the model is made"
        )
    query, key, value = (x.transpose(1, 2) for x in of_autocast(query, key, value))
    out = alone.attention(
        query, key, value, documents=documents, scale=scaling, length=length, landmark_block=landmark_block
    )
    return out, None
