"""Tokens as sequences: what is read, what is predicted, and in which order."""

import json

import numpy as np
import pytest
from tiny_run import tiny_mapping

from ringattn.data.corpus import CorpusWriter, open_corpus
from ringattn.data.prepare import prepare
from ringattn.data.token_data import TokenData, open_data
from ringattn.data.windows import View
from ringattn.settings.run import from_mapping

# Three documents for training, of 3, 8 and 4 tokens; then two held-out ones, of 2 and 3.
DOCUMENTS = [[1, 2, 3], [11, 12, 13, 14, 15, 16, 17, 18], [21, 22, 23, 24], [31, 32], [41, 42, 43]]


@pytest.fixture
def corpus(tmp_path):
    """A folder of tokens with `DOCUMENTS`."""
    with CorpusWriter(tmp_path / "tokens", vocabulary=50) as writer:
        for document in DOCUMENTS:
            writer.write(document)
            writer.end_document()
        writer.finish(end_of_text=None, tokenizer=None)
    return tmp_path / "tokens"


def make(corpus, *, length, name="data", seed=0, **data):
    mapping = tiny_mapping(corpus.parent)
    mapping["data"] = {"source": "file", "path": str(corpus), "held_out": 0.2} | data
    mapping["trainer"] |= {"sequence_length": length, "seed": seed}
    return prepare(from_mapping(mapping), corpus.parent / name)


def epoch(data, number=0):
    """The sequences of an epoch in the order of the text, as (inputs, targets, documents)."""
    found = [data.sequence(number * data.sequences + i) for i in range(data.sequences)]
    return sorted((s.inputs[0].tolist(), s.targets[0].tolist(), s.documents) for s in found)


def test_a_stream_joins_documents(corpus):
    data = make(corpus, length=4)
    text = [token for document in DOCUMENTS[:3] for token in document]
    (inputs, targets, documents), second = epoch(data)
    start = text.index(inputs[0])
    assert inputs == text[start : start + 4] and targets == text[start + 1 : start + 5] and documents is None
    assert second[0] == text[start + 4 : start + 8], "windows that do not overlap"
    assert [s.inputs.tolist() for s in data.held_out(9)] == [[[31, 32, 41, 42]]]


def test_packed_documents_stay_whole_and_apart(corpus):
    data = make(corpus, length=5, packing="documents")
    assert epoch(data) == [
        ([1, 2], [2, 3], None),
        ([11, 12, 13, 14, 15], [12, 13, 14, 15, 16], None),
        ([16, 17, 21, 22, 23], [17, 18, 22, 23, 24], (0, 2, 5)),
    ]
    (held_out,) = data.held_out(9)
    assert held_out.inputs.tolist() == [[31, 41, 42]] and held_out.targets.tolist() == [[32, 42, 43]]
    assert held_out.documents == (0, 1, 3) and held_out.positions().tolist() == [0, 0, 1]


def test_pieces_of_a_long_document_overlap_and_predict_each_token_once(corpus):
    data = make(corpus, length=4, packing="single", overlap=2)
    assert epoch(data) == [
        ([1, 2], [2, 3], None),
        ([11, 12, 13, 14], [12, 13, 14, 15], None),
        ([13, 14, 15, 16], [-100, -100, 16, 17], None),
        ([15, 16, 17], [-100, -100, 18], None),
        ([21, 22, 23], [22, 23, 24], None),
    ]


@pytest.mark.parametrize("packing", ["documents", "single"])
@pytest.mark.parametrize("overlap", [0, 1, 3])
def test_every_pair_counts_once_an_epoch(tmp_path, packing, overlap):
    lengths = np.random.default_rng(overlap).integers(1, 30, 60)
    with CorpusWriter(tmp_path / "tokens", vocabulary=1 << 20) as writer:
        for number, length in enumerate(lengths):
            writer.write(np.arange(length) + 100 * number)
            writer.end_document()
        writer.finish(end_of_text=None, tokenizer=None)
    mapping = tiny_mapping(tmp_path)
    mapping["model"]["architecture"]["vocabulary"] = 1 << 20
    mapping["data"] = {"source": "file", "path": str(tmp_path / "tokens"), "packing": packing, "overlap": overlap}
    mapping["trainer"]["sequence_length"] = 8
    data = prepare(from_mapping(mapping), tmp_path / "data")
    pairs = []
    for index in range(2 * data.sequences):
        read = data.sequence(index)
        counts = read.targets[0] != -100
        assert read.length <= 8 and data.num_targets(index) == read.num_targets == counts.sum() > 0
        pairs += zip(read.inputs[0][counts].tolist(), read.targets[0][counts].tolist())
    assert all(after - before == 1 for before, after in pairs)
    train = json.loads((tmp_path / "data" / "data.json").read_text())["train"]["documents"]
    expected = [100 * n + i + 1 for n, length in enumerate(lengths[:train]) for i in range(length - 1)]
    assert sorted(after for _, after in pairs) == sorted(2 * expected)


def test_the_order_is_a_function_of_seed_and_index(corpus):
    data = make(corpus, length=4, packing="single", overlap=2)
    again = open_data(corpus.parent / "data", seed=0, length=4)
    run = [data.sequence(i).inputs.tolist() for i in range(50)]
    assert [again.sequence(i).inputs.tolist() for i in reversed(range(50))] == run[::-1]
    assert len({str(run[start : start + 5]) for start in range(0, 50, 5)}) > 5, "each epoch has an order of its own"
    other = open_data(corpus.parent / "data", seed=1, length=4)
    assert [other.sequence(i).inputs.tolist() for i in range(50)] != run


def test_a_stream_is_cut_at_other_places_in_other_epochs():
    tokens = np.arange(105)
    data = TokenData.of_tokens(tokens, seed=0, length=10)
    starts = set()
    for number in range(20):
        first = [inputs[0] for inputs, _, _ in epoch(data, number)]
        assert np.diff(first).tolist() == [10] * 8 and first[0] >= 0 and first[-1] + 10 < 105
        starts.add(first[0])
    assert len(starts) > 5
    alone = TokenData.of_tokens(np.arange(11), seed=0, length=10)
    assert alone.sequences == 1 and alone.sequence(5).inputs.tolist() == [list(range(10))]


def test_held_out_sequences_are_spread_and_share_no_target():
    data = TokenData.of_tokens(np.arange(101), seed=0, length=10)
    assert [s.inputs[0, 0] for s in data.held_out(3)] == [0, 40, 90]
    assert [s.inputs[0, 0] for s in data.held_out(99)] == list(range(0, 100, 10))


def test_the_fingerprint_tells_other_data_and_other_orders(corpus):
    made = make(corpus, length=4).fingerprint()
    assert made == make(corpus, length=4, name="same").fingerprint()
    for number, changes in enumerate(
        ({"seed": 1}, {"length": 3}, {"packing": "single"}, {"held_out": 0.5}, {"packing": "single", "overlap": 1})
    ):
        assert made != make(corpus, **({"length": 4, "name": f"other{number}"} | changes)).fingerprint()
    with (corpus / "tokens.bin").open("r+b") as file:
        file.write(b"\x09")
    assert json.loads(json.dumps(made)) == made


def test_a_cut_off_or_changed_corpus_is_refused(corpus):
    make(corpus, length=4)
    content = (corpus / "tokens.bin").read_bytes()
    (corpus / "tokens.bin").write_bytes(content[:-3])
    with pytest.raises(ValueError, match=r"must have 40 bytes \(20 numbers of uint16\), but has 37: it is cut"):
        open_data(corpus.parent / "data", seed=0, length=4)
    (corpus / "tokens.bin").write_bytes(content)
    described = json.loads((corpus / "corpus.json").read_text())
    (corpus / "corpus.json").write_text(json.dumps(described | {"digest": "0" * 64}))
    with pytest.raises(ValueError, match=r"holds other tokens than this run was prepared with"):
        open_data(corpus.parent / "data", seed=0, length=4)
    (corpus / "tokens.bin").unlink()
    with pytest.raises(ValueError, match=r"tokens.bin is not there"):
        open_corpus(corpus)


def test_documents_are_cut_for_one_length(corpus):
    make(corpus, length=4, packing="documents")
    with pytest.raises(ValueError, match=r"documents were cut for trainer.sequence_length=4, got 5: use the same"):
        open_data(corpus.parent / "data", seed=0, length=5)
    with pytest.raises(ValueError, match=r"data.json is not there on this host: put run.folder on a file system"):
        open_data(corpus.parent / "none", seed=0, length=5)


def test_a_document_at_a_border_counts_as_far_as_it_is_inside(corpus):
    view = View(open_corpus(corpus), 2, 13)
    assert view.bounds().tolist() == [0, 1, 9, 11]
    assert View(open_corpus(corpus), 3, 11).bounds().tolist() == [0, 8]
    assert View(open_corpus(corpus), 5, 5).bounds().tolist() == [0]
