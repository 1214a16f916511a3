"""Documents to fine-tune retrieval on."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "passkey_documents.py"


def documents(tmp_path, *words):
    out = tmp_path / "out.jsonl"
    subprocess.run([sys.executable, SCRIPT, out, "--documents", "60", *words], check=True, capture_output=True)
    return [json.loads(line)["text"] for line in out.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def book(tmp_path):
    path = tmp_path / "book.txt"
    path.write_text(" ".join(f"word{n}" for n in range(2000)), encoding="utf-8")
    return path


def test_the_key_that_is_asked_for_is_the_one_that_was_hidden(tmp_path, book):
    found = documents(tmp_path, "--text", str(book), "--characters", "600:900")
    asked = [text for text in found if "What is the pass key?" in text]
    assert 0.5 < len(asked) / len(found) < 0.85
    for text in asked:
        keys = re.findall(r"pass key is (\d{5})", text)
        assert len(keys) == 2
        assert len(set(keys)) == 1
    depths = [text.index("Remember it.") / len(text) for text in asked]
    assert min(depths) < 0.4 < 0.7 < max(depths)
    assert all(300 < len(text) < 1000 for text in found)


def test_a_seed_makes_the_same_file(tmp_path, book):
    words = ("--text", str(book), "--characters", "300:400", "--seed")
    assert documents(tmp_path, *words, "5") == documents(tmp_path, *words, "5")
    assert documents(tmp_path, *words, "5") != documents(tmp_path, *words, "6")


def test_a_text_shorter_than_a_document_is_refused(tmp_path, book):
    words = [sys.executable, SCRIPT, tmp_path / "out.jsonl", "--text", book, "--characters", "300:90000"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 1
    assert "give a longer text" in done.stderr


def test_interleaved_passages_go_on_behind_others(tmp_path, book):
    whole = book.read_text()
    found = documents(tmp_path, "--text", str(book), "--characters", "3000:3200", "--kinds", "0,1,0,0")
    returns = 0
    for text in found:
        pieces = text.split("\n\n")
        # Each piece is a stretch of the text, and begins a passage or goes on with one that stands before it.
        assert all(piece in whole for piece in pieces)
        for number, piece in enumerate(pieces[2:], 2):
            returns += any(f"{before} {piece}" in whole for before in pieces[: number - 1])
        assert 2500 < len(text) < 3400
    assert returns > 2 * len(found)


@pytest.mark.parametrize("shares", ["0,0,0,0", "1,1", "1,-1,1,1"])
def test_shares_that_are_none_are_refused(tmp_path, book, shares):
    words = [sys.executable, SCRIPT, tmp_path / "out.jsonl", "--text", book, "--kinds", shares]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 2
    assert "4 shares, not all of them 0" in done.stderr
