"""Text to tokens, a piece at a time, and how far it is."""

import io

import pytest

from ringattn.data import text, tokenize
from ringattn.data.corpus import open_corpus
from ringattn.data.progress import Progress, shortened
from ringattn.data.records import BadRecords
from ringattn.data.sources import find_source
from ringattn.data.tokenizer import load_tokenizer, save_tokenizer, train_bpe
from ringattn.settings.data import DataConfig


def test_bpe_encodes_any_text_and_decodes_it_back():
    made = train_bpe(["the cat sat on the mat\n" * 50], 270)
    words = "the dog, naïve ☃\n\n  two lines\n"
    (ids,) = made.encode([words])
    assert made.tokenizer.decode(ids.tolist(), skip_special_tokens=False) == words
    assert 257 <= made.vocabulary <= 270 and made.end_of_text == 0
    assert made.encode([""])[0].tolist() == []


def test_a_length_that_was_saved_with_a_tokenizer_cuts_nothing(tmp_path):
    made = train_bpe(["some words " * 9], 270)
    made.tokenizer.enable_truncation(4)
    made.tokenizer.enable_padding(length=50)
    save_tokenizer(made.tokenizer, tmp_path)
    loaded = load_tokenizer(tmp_path)
    (ids,) = loaded.encode(["some words and other words"])
    assert loaded.tokenizer.decode(ids.tolist(), skip_special_tokens=False) == "some words and other words"


def test_a_book_in_pieces_has_the_tokens_of_the_whole(tmp_path, monkeypatch):
    book = "".join(f"Line {i}, and words in it.\n{'' if i % 5 else chr(10)}" for i in range(400))
    (tmp_path / "book.txt").write_text(book)
    monkeypatch.setattr(text, "PIECE", 500)
    monkeypatch.setattr(tokenize, "BATCH", 2000)
    source = find_source(DataConfig(source="file", path=str(tmp_path / "book.txt")))
    tokenizer = train_bpe([book], 300)
    tokenize.tokenize(
        source, tmp_path / "out", tokenizer=tokenizer, vocabulary=0, held_out=0.0, bad=BadRecords(skip=False)
    )
    corpus = open_corpus(tmp_path / "out")
    assert corpus.tokens.tolist() == [*tokenizer.encode([book])[0].tolist(), 0]
    assert corpus.bounds.tolist() == [0, len(corpus.tokens)]


def test_the_tokenizer_of_a_new_model_never_sees_the_held_out_text(tmp_path):
    (tmp_path / "a.txt").write_text("common words here\n" * 100)
    (tmp_path / "b.txt").write_text("zyzzyva " * 20)
    source = find_source(DataConfig(source="file", path=str(tmp_path)))
    made = tokenize.tokenize(
        source, tmp_path / "out", tokenizer=None, vocabulary=300, held_out=0.08, bad=BadRecords(skip=False)
    )
    assert open_corpus(tmp_path / "out").bounds[1] == made.train_tokens
    merged = [token for token in made.tokenizer.tokenizer.get_vocab() if len(token) > 1]
    assert any("common" in token for token in merged) and not any("zy" in token for token in merged)


def test_nothing_to_read_is_an_error_that_says_why(tmp_path):
    (tmp_path / "a.jsonl").write_text("[]\n")
    source = find_source(DataConfig(source="file", path=str(tmp_path / "a.jsonl")))
    with pytest.raises(ValueError, match=r"a.jsonl has no text to train on \(left out 1 bad record: .* line 1 must be"):
        tokenize.scan(source, BadRecords(skip=True))


def test_plain_lines_show_rate_and_time_left():
    stream = io.StringIO()
    with Progress("tokenize", total=3_000_000, unit="characters", stream=stream, seconds=0.0) as progress:
        progress._started -= 10.0
        progress.add(1_000_000)
    line = stream.getvalue()
    assert line.startswith("tokenize  1 M characters  100 k/s  33% of 3 M  00:") and line.endswith(" left\n")
    assert [shortened(n) for n in (999, 12_345, 1.5e6, 2e9)] == ["999", "12.3 k", "1.5 M", "2 G"]
