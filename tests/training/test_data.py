"""Text, tokens and the order in which a run reads them."""

import numpy as np
import pytest
from tiny_run import ARCHITECTURE, tiny_mapping, write_text

from ringattn.models.load import new_llama
from ringattn.planner.architecture import Architecture
from ringattn.settings.run import from_mapping
from ringattn.training.data import prepare, read_window, window_start
from ringattn.training.text import read_file, split
from ringattn.training.tokenizer import encode, load_tokenizer, save_tokenizer, train_bpe

LENGTH, TOKENS = 10, 105


def starts(seed, indices):
    return [window_start(i, seed=seed, length=LENGTH, tokens=TOKENS) for i in indices]


def test_windows_of_an_epoch_do_not_overlap_and_stay_inside():
    epoch = sorted(starts(0, range(9)))
    assert np.diff(epoch).tolist() == [LENGTH] * 8
    assert epoch[0] >= 0 and epoch[-1] + LENGTH + 1 <= TOKENS


def test_the_order_depends_on_seed_and_index_alone():
    assert starts(3, [12, 4]) == [starts(3, range(20))[12], starts(3, range(20))[4]]
    assert starts(3, range(9)) != starts(4, range(9))
    assert starts(3, range(9)) != starts(3, range(9, 18))


def test_a_text_of_one_window_has_one_start():
    assert window_start(5, seed=0, length=10, tokens=11) == 0
    with pytest.raises(ValueError, match=r"a text of 10 tokens has no window of 10 \+ 1"):
        window_start(0, seed=0, length=10, tokens=10)


def test_targets_are_the_next_tokens():
    inputs, targets = read_window(np.arange(20, dtype=np.int32), 3, 4)
    assert inputs.tolist() == [[3, 4, 5, 6]] and targets.tolist() == [[4, 5, 6, 7]]
    assert inputs.dtype == targets.dtype == np.int64


def test_the_end_of_the_text_is_held_out_at_a_line():
    text = "".join(f"line {i}\n" for i in range(100))
    train, held_out = split(text, 0.1)
    assert train + held_out == text
    assert train.endswith("\n")
    assert 0.09 * len(text) <= len(held_out) <= 0.12 * len(text)


def test_bpe_encodes_any_text_and_decodes_it_back():
    tokenizer = train_bpe("the cat sat on the mat\n" * 50, 270)
    text = "the dog, naïve ☃\n\n  two lines\n"
    assert tokenizer.decode(encode(tokenizer, text).tolist(), skip_special_tokens=False) == text
    assert tokenizer.get_vocab_size() <= 270
    assert encode(tokenizer, "").tolist() == []


def test_prepare_writes_tokens_that_decode_to_the_text(tmp_path):
    text = write_text(tmp_path / "text.txt")
    config = from_mapping(tiny_mapping(tmp_path))
    tokens = prepare(config, tmp_path / "data")
    tokenizer = load_tokenizer(tmp_path / "data" / "tokenizer")
    assert tokenizer.decode(tokens.train.tolist()) + tokenizer.decode(tokens.held_out.tolist()) == text
    assert len(tokens.held_out) > config.trainer.sequence_length


def test_missing_empty_binary_and_short_texts_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"must be a text file, got .*none.txt, which is not there"):
        read_file(tmp_path / "none.txt")
    with pytest.raises(ValueError, match="which is a folder"):
        read_file(tmp_path)
    (tmp_path / "empty.txt").write_text(" \n")
    with pytest.raises(ValueError, match=r"which is empty: give a file with words in it"):
        read_file(tmp_path / "empty.txt")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    with pytest.raises(ValueError, match="whose byte 3 is not"):
        read_file(tmp_path / "latin.txt")
    (tmp_path / "text.txt").write_text("too short\n" * 3)
    with pytest.raises(ValueError, match=r"training text must be longer than one sequence .*=32 tokens"):
        prepare(from_mapping(tiny_mapping(tmp_path)), tmp_path / "data")


def test_a_tokenizer_that_the_model_does_not_embed_is_refused(tmp_path):
    text = write_text(tmp_path / "text.txt")
    model = tmp_path / "model"
    save_tokenizer(train_bpe(text, 300), model)
    new_llama(Architecture(**ARCHITECTURE | {"vocabulary": 260}), seed=0).config.save_pretrained(model)
    mapping = tiny_mapping(tmp_path)
    mapping["model"] = {"path": str(model)}
    with pytest.raises(ValueError, match=r"makes token \d+ of this text and embeds 260 tokens"):
        prepare(from_mapping(mapping), tmp_path / "data")


def test_a_model_folder_without_a_tokenizer_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"tokenizer.json is not there: save one"):
        load_tokenizer(tmp_path)
