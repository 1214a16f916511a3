"""The data of a run, from what a user names to the sequences that are trained on."""

import json
from itertools import pairwise

import numpy as np
import pytest
from tiny_run import ARCHITECTURE, tiny_mapping, write_text

from ringattn.data.corpus import open_corpus
from ringattn.data.prepare import prepare
from ringattn.data.tokenize import held_out_cut
from ringattn.data.tokenizer import load_tokenizer, save_tokenizer, train_bpe
from ringattn.models.load import new_llama
from ringattn.planner.architecture import Architecture
from ringattn.settings.run import from_mapping


def config(folder, *, length=32, **data):
    mapping = tiny_mapping(folder)
    mapping["data"] |= data
    mapping["trainer"]["sequence_length"] = length
    return from_mapping(mapping)


def write_stories(path, number=40):
    """A jsonl file of documents of 1 to `number` sentences; returns the texts."""
    stories = ["".join(f"story {i} has line {j}.\n" for j in range(i + 1)) for i in range(number)]
    path.write_text("".join(json.dumps({"text": story}) + "\n" for story in stories), encoding="utf-8")
    return stories


def decoded(folder):
    """The text of each document of a corpus, its end-of-text token left out."""
    corpus, tokenizer = open_corpus(folder), load_tokenizer(folder / "tokenizer").tokenizer
    return [tokenizer.decode(corpus.tokens[a:b].tolist()) for a, b in pairwise(corpus.bounds.tolist())]


def test_one_book_is_cut_at_a_line_and_decodes_to_the_text(tmp_path):
    text = write_text(tmp_path / "text.txt")
    data = prepare(config(tmp_path), tmp_path / "data")
    first, second = decoded(tmp_path / "data")
    assert first + second == text and first.endswith("\n")
    assert 0.1 * len(text) <= len(second) <= 0.11 * len(text)
    corpus = open_corpus(tmp_path / "data")
    assert data.train_tokens == corpus.bounds[1]
    assert corpus.tokens[-1] == corpus.described.end_of_text == 0
    assert 0 not in corpus.tokens[:-1], "a half of a document has no end of text"


def test_of_many_documents_the_last_ones_are_held_out(tmp_path):
    stories = write_stories(tmp_path / "text.jsonl")
    data = prepare(config(tmp_path, path=str(tmp_path / "text.jsonl")), tmp_path / "data")
    assert decoded(tmp_path / "data") == stories
    summary = json.loads((tmp_path / "data" / "data.json").read_text())
    held = summary["held_out"]["documents"]
    assert summary["train"]["documents"] == 40 - held
    assert 0.05 <= sum(map(len, stories[-held:])) / sum(map(len, stories)) <= 0.15
    assert data.train_tokens == open_corpus(tmp_path / "data").bounds[40 - held]


@pytest.mark.parametrize(
    ("lengths", "fraction", "cut"),
    [
        ([10] * 10, 0.1, 90),
        ([10] * 10, 0.14, 90),
        ([10] * 10, 0.16, 80),
        ([100], 0.05, 95),  # One book.
        ([90, 10], 0.05, 95),  # The last document is twice what is wanted.
        ([10, 90], 0.5, 50),
        ([50, 50], 0.0, 100),
    ],
)
def test_where_the_held_out_part_begins(lengths, fraction, cut):
    assert held_out_cut(np.cumsum([0, *lengths]), fraction) == cut


def test_a_held_out_text_of_its_own(tmp_path):
    text = write_text(tmp_path / "text.txt")
    stories = write_stories(tmp_path / "other.jsonl", 20)
    made = config(tmp_path, held_out=None, held_out_path=str(tmp_path / "other.jsonl"))
    data = prepare(made, tmp_path / "data")
    assert decoded(tmp_path / "data") == [text]
    tokenizer = load_tokenizer(tmp_path / "data" / "tokenizer").tokenizer
    corpus = open_corpus(tmp_path / "data" / "held_out")
    assert tokenizer.decode(corpus.tokens[corpus.bounds[19] :].tolist()) == stories[19]
    assert data.held_out(1)[0].inputs.tolist() == [corpus.tokens[:32].tolist()]


def test_a_text_that_is_shorter_than_a_sequence_is_refused(tmp_path):
    (tmp_path / "text.txt").write_text("too short\n" * 3)
    with pytest.raises(ValueError, match=r"training text must be longer than one sequence .*=32 tokens"):
        prepare(config(tmp_path), tmp_path / "data")
    assert prepare(config(tmp_path, packing="single"), tmp_path / "data").sequence(0).length < 32


def model_folder(tmp_path, *, embeds):
    text = write_text(tmp_path / "text.txt")
    model = tmp_path / "model"
    save_tokenizer(train_bpe([text], 300).tokenizer, model)
    new_llama(Architecture(**ARCHITECTURE | {"vocabulary": embeds}), seed=0).config.save_pretrained(model)
    mapping = tiny_mapping(tmp_path)
    mapping["model"] = {"path": str(model)}
    return model, mapping


def test_a_tokenizer_that_the_model_does_not_embed_is_refused(tmp_path):
    _, mapping = model_folder(tmp_path, embeds=260)
    with pytest.raises(ValueError, match=r"model embeds 260 tokens, and .*text.txt has token \d+: tokenize with"):
        prepare(from_mapping(mapping), tmp_path / "data")


def test_a_model_folder_without_a_tokenizer_or_an_end_of_text_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"tokenizer.json is not there: save one"):
        load_tokenizer(tmp_path)
    model, _ = model_folder(tmp_path, embeds=300)
    (model / "tokenizer_config.json").write_text('{"eos_token": {"content": "</s>"}}')
    with pytest.raises(ValueError, match=r"names '</s>', which tokenizer.json does not have"):
        load_tokenizer(model)
    (model / "tokenizer_config.json").write_text("{}")
    (model / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"model names none: write one into tokenizer_config.json"):
        load_tokenizer(model)


def test_plain_tokens_of_another_program_are_read_where_they_are(tmp_path):
    tokens = np.random.default_rng(0).integers(0, 290, 500).astype(np.uint16)
    tokens.tofile(tmp_path / "plain.bin")
    np.save(tmp_path / "bounds.npy", np.array([0, 100, 450, 500]))
    words = {"path": str(tmp_path / "plain.bin"), "documents": str(tmp_path / "bounds.npy"), "packing": "single"}
    data = prepare(config(tmp_path, **words, length=400), tmp_path / "data")
    assert not (tmp_path / "data" / "tokens.bin").exists()
    read = {data.sequence(i).length: data.sequence(i) for i in range(2)}
    assert sorted(read) == [99, 349]
    assert read[99].inputs.tolist() == [tokens[:99].tolist()] and read[99].targets.tolist() == [tokens[1:100].tolist()]
    assert data.held_out(4)[0].inputs.tolist() == [tokens[450:499].tolist()]
    np.save(tmp_path / "plain.npy", tokens)
    other = prepare(config(tmp_path, path=str(tmp_path / "plain.npy")), tmp_path / "other")
    assert other.held_out(1)[0].inputs[0, 0] == tokens[450]


@pytest.mark.parametrize(
    ("name", "content", "settings", "message"),
    [
        ("a.bin", b"abc", {}, r"a.bin has 3 bytes, which is no whole number of uint16 tokens: it is cut off, or has"),
        (
            "a.bin",
            b"\x01\x00" * 9,
            {"documents": "bounds.npy"},
            r"rise from 0 to the number of tokens, 9 in .*got \[0, 5",
        ),
        ("a.bin", b"\xff\xff" * 99, {}, r"the new model embeds 290 tokens, and .*a.bin has token 65535"),
        ("a.npy", b"\x93NUMPY", {}, r"a.npy is no .npy file"),
        (
            "a.txt",
            b"words",
            {"documents": "bounds.npy"},
            r"data.documents is for plain .npy and .bin files of tokens, got",
        ),
        (
            "a.txt",
            b"words",
            {"text_key": "text"},
            r"data.text_key is for jsonl, parquet and datasets, got .*which is text",
        ),
    ],
)
def test_token_files_and_settings_that_do_not_fit_are_refused(tmp_path, name, content, settings, message):
    (tmp_path / name).write_bytes(content)
    np.save(tmp_path / "bounds.npy", np.array([0, 5, 8]))
    if "documents" in settings:
        settings = {"documents": str(tmp_path / settings["documents"])}
    with pytest.raises(ValueError, match=message):
        prepare(config(tmp_path, path=str(tmp_path / name), **settings), tmp_path / "data")
