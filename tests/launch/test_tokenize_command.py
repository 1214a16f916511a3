"""`ringattn tokenize` as a person types it, and a run on what it wrote."""

import json

import pytest
from ringattn.launch.cli import main
from tiny_run import tiny_mapping, write_text

from ringattn.data.prepare import prepare
from ringattn.data.tokenizer import load_tokenizer
from ringattn.settings.run import from_mapping


@pytest.fixture
def folder(tmp_path):
    write_text(tmp_path / "text.txt")
    return tmp_path


def test_its_folder_is_what_a_run_reads(folder, capsys):
    out = folder / "tokens"
    assert main(["tokenize", f"path={folder / 'text.txt'}", "vocabulary=280", f"out={out}"]) == 0
    shown = capsys.readouterr()
    assert f"train on them with data.path={out}" in shown.out
    assert "characters, 1 document: " in shown.err
    assert sorted(path.name for path in folder.iterdir()) == ["text.txt", "tokens"]
    mapping = tiny_mapping(folder)
    mapping["data"] = {"source": "file", "path": str(out)}
    prepare(from_mapping(mapping), folder / "data")
    assert not (folder / "data" / "tokens.bin").exists()
    assert load_tokenizer(folder / "data" / "tokenizer").vocabulary <= 280
    # A second text with the same tokenizer.
    assert main(["tokenize", f"path={folder / 'text.txt'}", f"tokenizer={out}", f"out={folder / 'more'}"]) == 0
    assert (folder / "more" / "tokens.bin").read_bytes() == (out / "tokens.bin").read_bytes()


def test_bad_lines_are_counted(folder, capsys):
    (folder / "a.jsonl").write_text(json.dumps({"text": "words " * 50}) + "\n{\n")
    words = [f"path={folder / 'a.jsonl'}", "vocabulary=270", f"out={folder / 'tokens'}"]
    assert main(["tokenize", *words]) == 2
    assert "a.jsonl line 2 is not a whole JSON object" in capsys.readouterr().err
    assert not (folder / "tokens").exists()
    assert main(["tokenize", *words, "data.bad=skip"]) == 0
    assert "left out 1 bad record: " in capsys.readouterr().err


def test_tokens_of_another_tokenizer_than_the_model_s_are_refused(folder):
    text = f"path={folder / 'text.txt'}"
    for number, size in enumerate((270, 280)):
        assert main(["tokenize", text, f"vocabulary={size}", f"out={folder / str(number)}"]) == 0
    model = folder / "1" / "tokenizer"
    (model / "config.json").write_text("{}")
    mapping = tiny_mapping(folder)
    mapping["data"] = {"source": "file", "path": str(folder / "0")}
    mapping["model"] = {"path": str(model)}
    with pytest.raises(ValueError, match=r"must be those of the model's tokenizer, but .*0 was made with another"):
        prepare(from_mapping(mapping), folder / "data")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["out=x"], "the setting path is required and has no value: write path=..."),
        (["path=a.txt", "out=x"], "got neither: write tokenizer=FOLDER, or vocabulary=1024"),
        (["path=a.txt", "out=x", "vocabulary=100"], "256 bytes, the end-of-text token and merges, got 100"),
        (["path=a.txt", "out=/", "vocabulary=300"], "out must be a new folder, but / exists"),
        (["path=/none.txt", "out=x", "vocabulary=300"], "got /none.txt, which is not there"),
        (["pth=a.txt"], "there is no setting pth. Did you mean 'path'?"),
    ],
)
def test_a_mistake_gives_one_line(words, message, capsys):
    assert main(["tokenize", *words]) == 2
    shown = capsys.readouterr().err
    assert message in shown and shown.count("\n") == 1
