"""Random access: with all blocks retrieved it is the model's full attention, exactly; with fewer, the paper's rule
written out; on any number of ranks the same; what stays on the device does not grow with the text."""

from __future__ import annotations

import copy
import functools
import importlib.util
import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from ranks import run_ranks
from tiny_models import make_model, make_tokens
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

import ringattn
from ringattn.models.decode import Decoder
from ringattn.models.landmark import to_landmark
from ringattn.models.landmark.read import RandomAccess
from ringattn.models.landmark.search import best_ranked
from ringattn.models.landmark.slots import Slots
from ringattn.settings.retrieval import RetrievalConfig

BLOCK, LENGTH, WINDOW = 4, 61, 12
STRIDE = BLOCK + 1


@functools.cache
def landmark_model(family: str = "llama") -> Any:
    changes = {} if family == "llama" else {"use_sliding_window": False, "layer_types": None}
    return to_landmark(make_model(family, attention="sdpa", **changes), BLOCK).eval()


@functools.cache
def full_logits(family: str = "llama") -> Tensor:
    with torch.no_grad():
        return landmark_model(family)(input_ids=make_tokens(2, LENGTH)).logits


def read(model: Any, parts: list[int], **settings: Any) -> Tensor:
    """Logits of all tokens, which are given in `parts`."""
    reading = RandomAccess(model, RetrievalConfig(**{"window": WINDOW, **settings}), quiet=True)
    bounds = [0, *torch.tensor(parts).cumsum(0).tolist()]
    tokens = make_tokens(2, bounds[-1])
    states = [part for a, b in pairwise(bounds) for part in reading.states(tokens[:, a:b])]
    with torch.no_grad():
        return model.lm_head(torch.cat(states, dim=1))


def error(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max() / other.abs().max())


@pytest.mark.parametrize("keep", ["device", "cpu", "file"])
@pytest.mark.parametrize("parts", [[LENGTH], [5, 1, 1, 1, 30, 1, 22]])
def test_with_all_blocks_it_is_full_attention(keep, parts, tmp_path):
    folder = str(tmp_path / "blocks") if keep == "file" else None
    found = read(landmark_model(), parts, k=100, positions="plain", keep=keep, folder=folder)
    assert error(found, full_logits()) < 1e-10


def test_so_it_is_for_norms_on_queries_and_keys():
    assert error(read(landmark_model("qwen3"), [LENGTH], k=100, positions="plain"), full_logits("qwen3")) < 1e-10


def test_stingy_positions_are_the_text_s_own_while_all_blocks_have_room():
    # Rotary angles are fp32: distances are the same, what they are counted from is not.
    assert error(read(landmark_model(), [LENGTH], k=15, positions="stingy"), full_logits()) < 1e-4


@pytest.mark.parametrize("settings", [{"k": 1}, {"k": 2, "positions": "plain"}, {"k": 3, "kind": "token"}])
def test_text_in_one_piece_or_token_by_token_is_the_same(settings):
    whole = read(landmark_model(), [LENGTH], **settings)
    assert error(read(landmark_model(), [1] * LENGTH, **settings), whole) < 1e-10


def of_the_paper(query: Tensor, key: Tensor, value: Tensor, *, k: int, recent: int) -> Tensor:
    """Sections 3.2 and 3.4 for each head of the first layer, written out: key and value before positions, [S, D]. With
    recent > 0 so many of the k are the last blocks."""
    half = query.shape[-1] // 2
    theta = 1.0 / 10000.0 ** (torch.arange(half).float() / half)

    def turned(x: Tensor, place: int) -> Tensor:
        angle = place * theta
        cos, sin = angle.cos().double().repeat(2), angle.sin().double().repeat(2)
        return x * cos + torch.cat((-x[half:], x[:half])) * sin

    scale, out, per_window = 1 / math.sqrt(2 * half), [], WINDOW // BLOCK
    for i in range(len(query)):
        own = i // STRIDE
        past = own // per_window * per_window  # Blocks before the window.
        origin = (k + 1) * STRIDE
        at = origin + i - past * STRIDE
        q = turned(query[i], at)
        scores = {}
        for t in range(past):
            slot = max(0, t - past + k + 1)
            scores[t] = float(q @ turned(key[t * STRIDE + BLOCK], slot * STRIDE + BLOCK)), t
        last = range(max(0, past - recent), past)
        best = sorted((round(score, 4), t) for score, t in scores.values() if t not in last)
        chosen = [*sorted(t for _, t in best[max(0, len(best) - (k - len(last))) :]), *last]
        logits, values = [], []
        for j in range(own * STRIDE, i + 1):
            if j % STRIDE != BLOCK:
                logits.append(q @ turned(key[j], origin + j - past * STRIDE))
                values.append(value[j])
        for t in [*chosen, *range(past, own)]:
            if t >= past:
                start = origin + (t - past) * STRIDE
            else:
                order = chosen.index(t) + k - len(chosen)
                start = (order + 1 if t >= past - k else order) * STRIDE
            inner = torch.stack([q @ turned(key[t * STRIDE + o], start + o) for o in range(BLOCK)])
            logits.append(q @ turned(key[t * STRIDE + BLOCK], start + BLOCK))
            values.append((inner * scale).softmax(0) @ value[t * STRIDE : t * STRIDE + BLOCK])
        out.append((torch.stack(logits) * scale).softmax(0) @ torch.stack(values))
    return torch.stack(out)


@pytest.mark.parametrize(("k", "recent"), [(1, 0), (3, 0), (1, 1), (3, 1), (3, 3)])
def test_retrieval_is_the_paper_s(k, recent):
    model = landmark_model()
    layer, seen = model.model.layers[0].self_attn, {}

    def keep(module: Any, given: Any, kwargs: Any, output: Any) -> None:
        seen.setdefault("in", []).append(kwargs["hidden_states"])

    def keep_out(module: Any, given: Any) -> None:
        seen.setdefault("out", []).append(given[0])

    hooks = [layer.register_forward_hook(keep, with_kwargs=True), layer.o_proj.register_forward_pre_hook(keep_out)]
    try:
        read(model, [LENGTH], k=k, recent=recent)
    finally:
        for hook in hooks:
            hook.remove()
    states, out = torch.cat(seen["in"], dim=1)[0], torch.cat(seen["out"], dim=1)[0]
    with torch.no_grad():
        query, key, value = (f(states).view(len(states), -1, 8) for f in (layer.q_proj, layer.k_proj, layer.v_proj))
    for head in range(4):
        expected = of_the_paper(query[:, head], key[:, head // 2], value[:, head // 2], k=k, recent=recent)
        assert error(out.view(len(states), 4, 8)[:, head], expected) < 1e-5, head


def test_stingy_slots_keep_the_order_and_the_distance_of_the_last_k():
    slots = Slots(RetrievalConfig(k=3), BLOCK)
    assert slots.window_start(9) == 4 * STRIDE
    assert slots.of_searched(torch.arange(9), 9).tolist() == [0, 0, 0, 0, 0, 0, 1, 2, 3]
    assert slots.of_retrieved(torch.tensor([[0, 4, 5], [2, 6, 8], [6, 7, 8]]), 9).tolist() == [
        [0, 1, 2],
        [0, 2, 3],
        [1, 2, 3],
    ]
    # Fewer blocks than k: each where it stands in the text, as seen from the window.
    assert slots.of_retrieved(torch.tensor([0, 1]), 2).tolist() == [2, 3]


def parallel_read(rank: int, settings: dict[str, Any], folder: str | None) -> tuple[Tensor, int]:
    model = to_landmark(make_model("llama", attention="sdpa"), BLOCK).eval()
    ringattn.parallelize(model, ringattn.SequenceParallel())
    reading = RandomAccess(model, RetrievalConfig(window=WINDOW, folder=folder, **settings), quiet=True)
    tokens = make_tokens(2, LENGTH)
    states = [*reading.states(tokens[:, :40]), *reading.states(tokens[:, 40:41]), *reading.states(tokens[:, 41:])]
    with torch.no_grad():
        return model.lm_head(torch.cat(states, dim=1)), reading.memory.bytes


@pytest.mark.parametrize(
    "world, settings",
    [
        (2, {"k": 2}),
        (3, {"k": 1, "positions": "plain", "keep": "file"}),
        (2, {"k": 3, "kind": "head", "keep": "cpu"}),
        (3, {"k": 3, "recent": 1}),
        (2, {"k": 3, "recent": 2, "kind": "token"}),
        (2, {"k": 100, "kind": "token"}),
    ],
)
def test_ranks_that_share_the_blocks_read_as_one(world, settings, tmp_path):
    folder = str(tmp_path) if settings.get("keep") == "file" else None
    parts = [40, 1, LENGTH - 41]
    expected = read(landmark_model(), parts, **settings, folder=folder)
    found = run_ranks(world, parallel_read, settings, folder, threads=True)
    alone = RandomAccess(landmark_model(), RetrievalConfig(window=WINDOW, **{**settings, "keep": "cpu"}), quiet=True)
    list(alone.states(make_tokens(2, LENGTH)))
    for logits, held in found:
        assert error(logits, expected) < 1e-10
        assert held < 0.75 * alone.memory.bytes


def test_generation_goes_on_as_full_attention_would():
    model, tokens = landmark_model(), make_tokens(2, 30)
    everything = RetrievalConfig(k=100, window=WINDOW, positions="plain")
    found = ringattn.generate(model, tokens, max_new_tokens=12, retrieval=everything)
    for _ in range(12):
        with torch.no_grad():
            best = model(input_ids=tokens).logits[:, -1].argmax(-1)
        tokens = torch.cat((tokens, best[:, None]), dim=1)
    assert torch.equal(found, tokens)


def test_zeros_are_alike_whatever_their_sign():
    score = torch.zeros(40).copysign(torch.tensor([1.0, -1.0] * 20))
    assert (best_ranked(score, torch.arange(40), 3) & 0xFFFFFFFF).tolist() == [39, 38, 37]


@pytest.mark.parametrize("alike", [1, 3, 40])
@pytest.mark.parametrize(("count", "k"), [(3, 4), (8, 4), (40, 4), (40, 1)])
def test_the_best_of_scores_that_are_alike_are_the_later_ones(count, k, alike):
    random = torch.Generator().manual_seed(count)
    numbers = torch.arange(count) * 3 + 1
    # As many of each score as `alike`, but for rounding.
    score = torch.randint(-5, 5, (2, 50, -(-count // alike)), generator=random).float().repeat_interleave(alike, dim=-1)
    score = score[..., :count] * (1 + 1e-8)
    expected = [
        [sorted((float(value), number) for value, number in zip(row, numbers.tolist()))[::-1][:k] for row in rows]
        for rows in score
    ]
    found = best_ranked(score, numbers, k)
    assert [[[n for _, n in row] for row in rows] for rows in expected] == (found & 0xFFFFFFFF).tolist()


@pytest.mark.parametrize(
    "settings", [{"k": 2}, {"k": 3, "kind": "token"}, {"k": 2, "search": "faiss"}, {"keep": "file"}]
)
def test_what_was_read_before_a_rewind_is_as_if_it_never_had_been(settings, tmp_path):
    if settings.get("search") == "faiss":
        pytest.importorskip("faiss")
    folder = str(tmp_path / "blocks") if settings.get("keep") == "file" else None
    config = RetrievalConfig(**{"window": WINDOW, "folder": folder, **settings})
    tokens, other = make_tokens(2, LENGTH), make_tokens(2, LENGTH).flip(1)
    whole = torch.cat(list(RandomAccess(landmark_model(), config, quiet=True).states(tokens)), dim=1)
    reading = RandomAccess(landmark_model(), config, quiet=True)
    list(reading.states(torch.cat((tokens[:, :40], other), dim=1)))
    for asked, left in ((40, 36), (36, 36), (35, 24), (60, 60), (5, 0)):
        assert reading.rewind(asked) == left
        again = torch.cat(list(reading.states(tokens[:, left:])), dim=1)
        assert error(again, whole[:, left:]) < 1e-12
    with pytest.raises(ValueError, match="from 0 on, got -1"):
        reading.rewind(-1)


def test_under_autocast_sums_stay_wide():
    model = copy.deepcopy(landmark_model()).float()
    expected = read(model, [LENGTH], k=100, positions="plain")
    with torch.autocast("cpu", torch.bfloat16):
        found = read(model, [LENGTH], k=100, positions="plain")
    assert found.dtype == torch.bfloat16
    assert error(found.float(), expected) < 3e-2


@pytest.mark.parametrize("factory", ["faiss", "faiss:HNSW32"])
@pytest.mark.skipif(importlib.util.find_spec("faiss") is None, reason="faiss is not installed: ringattn[faiss]")
def test_faiss_finds_what_the_matrix_product_finds(factory):
    plain = {"k": 2, "positions": "plain"}
    expected = read(landmark_model(), [LENGTH], **plain)
    assert error(read(landmark_model(), [LENGTH], **plain, search=factory), expected) < 1e-5


@pytest.mark.skipif(importlib.util.find_spec("faiss") is None, reason="faiss is not installed: ringattn[faiss]")
@pytest.mark.parametrize("recent", [0, 1])
def test_faiss_searches_older_blocks_in_one_place(recent):
    model, random = landmark_model(), torch.Generator().manual_seed(3)
    found = []
    for search in ("exact", "faiss"):
        memory = RandomAccess(model, RetrievalConfig(k=2, window=WINDOW, search=search, recent=recent)).memory
        module = model.model.layers[1].self_attn
        random.manual_seed(3)
        for _ in range(5):
            key = torch.randn(2, 2, 15, 8, generator=random, dtype=torch.float64)
            query = torch.randn(2, 4, 15, 8, generator=random, dtype=torch.float64)
            memory.next_piece(WINDOW)
            out = memory.attend(module, query, key, key, scale=None)
            memory.advance(15)
        found.append(out)
    assert error(found[1], found[0]) < 1e-5


def test_fewer_blocks_than_are_retrieved_are_all_used_and_said(caplog):
    reading = RandomAccess(landmark_model(), RetrievalConfig(k=7, window=WINDOW))
    reading.read(make_tokens(1, 30))
    assert "7 blocks are retrieved, but only 6 lie before the window so far: all of them are used" in caplog.text


def test_a_file_of_blocks_that_was_cut_is_refused_and_goes_with_its_memory(tmp_path):
    reading = RandomAccess(landmark_model(), RetrievalConfig(k=1, window=WINDOW, keep="file", folder=str(tmp_path)))
    reading.read(make_tokens(1, 40))
    path = next(tmp_path.glob("rank0-layer0-blocks-*.bin"))
    path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"were cut to 0 of [\d,]+ bytes by somebody else: read the text again"):
        reading.read(make_tokens(1, 1))
    del reading
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(importlib.util.find_spec("faiss") is None, reason="faiss is not installed: ringattn[faiss]")
def test_an_index_does_not_hold_the_memory_that_it_serves(tmp_path):
    config = RetrievalConfig(k=1, window=WINDOW, keep="file", folder=str(tmp_path), search="faiss")
    reading = RandomAccess(landmark_model(), config)
    reading.read(make_tokens(1, 40))
    assert list(tmp_path.iterdir())
    del reading
    assert not list(tmp_path.iterdir())


def test_a_folder_that_can_t_be_written_is_said_before_anything_is_read(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        config = RetrievalConfig(k=1, window=WINDOW, keep="file", folder=str(folder))
        with pytest.raises(ValueError, match=r"folder for past blocks, .*, can't be made .*retrieval.folder"):
            RandomAccess(landmark_model(), config)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"k": 0}, "retrieval.k must be above 0, got 0"),
        ({"window": 0}, "retrieval.window must be above 0, got 0"),
        ({"window": 13}, "whole blocks, of 4 tokens in this model, got retrieval.window=13: write retrieval.window=12"),
        ({"kind": "heads"}, "retrieval.kind is one of token_and_head, head, token, got 'heads'"),
        ({"keep": "disk"}, "retrieval.keep is one of device, cpu, file, got 'disk'"),
        ({"keep": "file"}, "keep=file writes into retrieval.folder, .*: name a folder"),
        ({"folder": "x"}, "write retrieval.keep=file"),
        ({"search": "annoy"}, "exact, faiss or faiss:FACTORY, got 'annoy'"),
        ({"search": "exact:3"}, "exact, faiss or faiss:FACTORY, got 'exact:3'"),
        ({"k": 2, "recent": 3}, r"of the k = 2 blocks, .*recent are the last ones, got 3: write a number from 0 to 2"),
        ({"recent": -1}, "got -1: write a number from 0 to 4"),
        (
            {"search": "faiss:IVF100,Flat"},
            "needs no training, .*, got 'IVF100,Flat': write retrieval.search=faiss:HNSW32",
        ),
        ({"search": "faiss:"}, "needs no training, .*, got ''"),
        ({"search": "faiss", "kind": "head"}, "goes with retrieval.kind=token_and_head, got kind=head"),
    ],
)
def test_settings_that_do_not_serve_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        RandomAccess(landmark_model(), RetrievalConfig(**{"window": WINDOW, **settings}))


def test_what_would_be_read_wrongly_is_refused():
    model = to_landmark(make_model("llama", attention="sdpa"), BLOCK)
    with pytest.raises(ValueError, match=r"attends by landmarks, .*ringattn.generate"):
        Decoder(ringattn.parallelize(model, ringattn.SequenceParallel()))
    dynamic = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
    model = to_landmark(make_model("llama", attention="sdpa", rope_parameters=dynamic), BLOCK)
    with pytest.raises(ValueError, match=r"depend on the length .*: scale them by yarn"):
        RandomAccess(model, RetrievalConfig(window=WINDOW))


def test_a_model_without_landmarks_has_none_to_retrieve_by():
    with pytest.raises(ValueError, match=r"LlamaForCausalLM has none.*to=landmark"):
        ringattn.generate(make_model("llama"), make_tokens(1, 5), max_new_tokens=1, retrieval=RetrievalConfig())


class Held(TorchDispatchMode):
    """Bytes of all tensors that operations make, while they are alive; but for mapped files, which are no tensors of
    the device, and `text`, which is the reader's."""

    def __init__(self, text: Tensor) -> None:
        super().__init__()
        self.peak, self._seen = 0, 0
        storage = text.untyped_storage()
        self._alive = {storage._cdata: (StorageWeakRef(storage), 0)}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function(*args, **(kwargs or {}))
        if function is torch.ops.aten.from_file.default:
            self._alive[made.untyped_storage()._cdata] = (StorageWeakRef(made.untyped_storage()), 0)
        for tensor in made if isinstance(made, tuple | list) else (made,):
            if isinstance(tensor, Tensor) and tensor.untyped_storage()._cdata not in self._alive:
                storage = tensor.untyped_storage()
                self._alive[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
                self._seen += storage.nbytes()
        if self._seen > self.peak:
            # What is gone by now is counted out where that matters: to look each time would take most of the time.
            self._alive = {name: held for name, held in self._alive.items() if not held[0].expired()}
            self._seen = sum(size for _, size in self._alive.values())
            self.peak = max(self.peak, self._seen)
        return made


def device_peak(length: int, folder: str, block: int) -> tuple[int, int]:
    """The most bytes of tensors at any time while a text is read, and those of its past blocks, which are in a file."""
    model = to_landmark(make_model("llama", attention="sdpa"), block).eval()
    config = RetrievalConfig(k=4, window=20 * block, keep="file", folder=folder)
    tokens = make_tokens(1, length)
    with Held(tokens) as held:
        reading = RandomAccess(model, config, reserve=length)
        for states in reading.states(tokens):
            assert states.shape[1] <= 20 * block
    return held.peak, reading.memory.bytes - reading.memory.device_bytes


def check_flat(lengths: tuple[int, int], folder: str, block: int) -> None:
    peaks = [device_peak(length, folder, block) for length in lengths]
    assert abs(peaks[1][0] / peaks[0][0] - 1) < 0.05, peaks
    assert peaks[1][1] / peaks[0][1] > 0.9 * lengths[1] / lengths[0]


def test_what_is_held_on_the_device_does_not_grow_with_the_text(tmp_path):
    check_flat((1400, 4200), str(tmp_path), 7)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("length", [32768, 262144, 1048576])
def test_nor_does_it_for_texts_of_any_length(length, tmp_path):
    check_flat((4096, length), str(tmp_path), 31)
