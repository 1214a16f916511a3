"""The recurrence by eye, and beside an implementation that is not ours."""

import pytest
import torch
from torch.nn.functional import normalize

from ringattn.layers.linear.recurrence import recurrence


def of(*numbers: float) -> torch.Tensor:
    """One row, one head."""
    return torch.tensor(numbers, dtype=torch.float64).view(1, -1, 1, 1)


def test_two_tokens_by_eye():
    """S = 1 * 2 = 2; then half of it, and 3 * (5 - 1 * 3) / 4 = 1.5 more where the delta rule reads 3 * 1 first."""
    half = torch.tensor([1.0, 0.5], dtype=torch.float64).log().view(1, 2, 1)
    out, state = recurrence(of(1, 10), of(1, 3), of(2, 5), log_decay=half, scale=1.0)
    assert (out.flatten().tolist(), state.item()) == ([2.0, 160.0], 16.0)
    quarter = torch.tensor([1.0, 0.25], dtype=torch.float64).view(1, 2, 1)
    out, state = recurrence(of(1, 10), of(1, 3), of(2, 5), log_decay=half, beta=quarter, scale=1.0)
    assert (out.flatten().tolist(), state.item()) == ([2.0, 25.0], 2.5)


def test_a_document_forgets_the_one_before():
    out, state = recurrence(of(1, 1), of(1, 1), of(2, 5), scale=1.0, starts=(1,))
    assert (out.flatten().tolist(), state.item()) == ([2.0, 5.0], 5.0)


def test_the_gated_delta_rule_of_transformers():
    qwen = pytest.importorskip("transformers.models.qwen3_next.modeling_qwen3_next")
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 2, 17, 2, 4).unbind(0)
    key, log_decay, beta = normalize(key, dim=-1), -torch.rand(2, 17, 2), torch.rand(2, 17, 2)
    theirs, last = qwen.torch_recurrent_gated_delta_rule(
        query, key, value, g=log_decay, beta=beta, initial_state=None, output_final_state=True
    )
    out, state = recurrence(query, key, value, log_decay=log_decay, beta=beta)
    torch.testing.assert_close(out, theirs)
    torch.testing.assert_close(state, last)
