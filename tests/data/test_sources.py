"""What a path means, what is read from it, and what is said where it does not serve."""

import gzip
import json

import pytest

from ringattn.data import text
from ringattn.data.compressed import lines
from ringattn.data.records import BadRecords
from ringattn.data.sources import find_source
from ringattn.settings.data import DataConfig

DOCUMENTS = ["The first.\n\nIt has two lines.\n", "naïve ☃ text", "a third\r\n"]


def source(path, **settings):
    return find_source(DataConfig(**{"source": "file", "path": str(path)} | settings))


def documents(path, bad=None, **settings):
    """The whole documents that a path means."""
    found, held = [], ""
    for piece in source(path, **settings).pieces(bad or BadRecords(skip=False)):
        held += piece.text
        if piece.last:
            found.append(held)
            held = ""
    assert held == ""
    return found


def jsonl(records):
    return "".join(json.dumps(record) + "\n" for record in records)


def write_all_kinds(folder):
    """The same documents in every kind; returns the paths."""
    datasets, pyarrow = pytest.importorskip("datasets"), pytest.importorskip("pyarrow")
    parquet, zstandard = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("zstandard")
    records = [{"id": i, "text": document} for i, document in enumerate(DOCUMENTS)]
    (folder / "a.jsonl").write_text(jsonl(records), encoding="utf-8")
    (folder / "b.jsonl.gz").write_bytes(gzip.compress(jsonl(records).encode()))
    packer = zstandard.ZstdCompressor()
    halves = [packer.compress(jsonl(part).encode()) for part in (records[:1], records[1:])]
    (folder / "c.jsonl.zst").write_bytes(b"".join(halves))
    table = pyarrow.table({"id": range(3), "text": DOCUMENTS})
    parquet.write_table(table, folder / "d.parquet", row_group_size=2)
    datasets.disable_progress_bars()
    saved = datasets.Dataset.from_list(records)
    saved.save_to_disk(folder / "one")
    datasets.DatasetDict({"train": saved, "test": saved.select([1])}).save_to_disk(folder / "parts")
    return [folder / name for name in ("a.jsonl", "b.jsonl.gz", "c.jsonl.zst", "d.parquet", "one", "parts")]


def test_every_kind_gives_the_same_documents(tmp_path):
    for path in write_all_kinds(tmp_path):
        assert documents(path) == DOCUMENTS, path
    assert documents(tmp_path / "parts", split="test") == DOCUMENTS[1:2]
    with pytest.raises(ValueError, match=r"parts has no part 'tests' among train, test: write data.split=NAME"):
        documents(tmp_path / "parts", split="tests")
    with pytest.raises(ValueError, match=r"one has no key 'body' among id, text \(did you mean 'text'\?\): name the"):
        documents(tmp_path / "one", text_key="body")


def test_files_folders_and_globs_of_text(tmp_path):
    (tmp_path / "more" / ".git").mkdir(parents=True)
    (tmp_path / "b.txt").write_bytes("\ufeffsecond\r\nline".encode())
    (tmp_path / "more" / "a.md").write_text("third")
    (tmp_path / "README.md").write_text("about")
    (tmp_path / "more" / ".git" / "x.txt").write_text("hidden")
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"first"))
    assert documents(tmp_path) == ["first", "second\nline", "third"]
    assert documents(tmp_path / "b.txt") == ["second\nline"]
    assert documents(f"{tmp_path}/**/*.md") == ["about", "third"]
    (tmp_path / "code.py").write_text("x = 1\n")
    assert documents(tmp_path / "*.py") == ["x = 1\n"]
    assert documents(tmp_path, source="text")[2] == "x = 1\n"


def test_a_book_comes_in_pieces_that_end_with_a_line(monkeypatch):
    monkeypatch.setattr(text, "PIECE", 100)
    book = "".join(f"line {i} of it\n{'' if i % 3 else chr(10)}" for i in range(60))
    whole = list(text.pieces([book]))
    assert "".join(piece.text for piece in whole) == book
    assert [piece.last for piece in whole] == [False] * (len(whole) - 1) + [True] and len(whole) > 3
    assert all(100 <= len(piece.text) <= 200 and piece.text[-2:] == "t\n" for piece in whole[:-1])
    assert list(text.pieces(book[i : i + 7] for i in range(0, len(book), 7))) == whole
    assert [len(piece.text) for piece in text.pieces(["x" * 350])] == [200, 150]


def test_lines_do_not_depend_on_blocks(monkeypatch, tmp_path):
    (tmp_path / "a").write_bytes(b"one\n\ntwo and more\nthree")
    for size in (1, 3, 100):
        monkeypatch.setattr("ringattn.data.compressed.BLOCK", size)
        assert list(lines(tmp_path / "a")) == [b"one", b"", b"two and more", b"three"]


GOOD = '{"text": "good"}\n'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            GOOD + '{"text": "cut',
            r"line 2 is not a whole JSON object \(Unterminated string starting at column 10",
        ),
        (
            GOOD + "\n" + '{"body": "x", "id": 3}\n',
            r"line 3 has no key 'text' among body, id \(did you mean 'body'\?\)",
        ),
        (GOOD + '{"txt": "x", "title": ""}\n', r"line 2 has no key 'text' among txt, title \(did you mean 'txt'\?\)"),
        (GOOD + '{"text": "  "}\n', r"line 2 has an empty text under 'text'"),
        (GOOD + '{"text": null}\n', r"line 2 must have text under 'text', got nothing"),
        (GOOD + '{"text": 3}\n', r"line 2 must have text under 'text', got a number"),
        (GOOD + '["text"]\n', r"line 2 must be an object with the key 'text', got a list"),
        (GOOD + '{"text": "\\ud800"}\n', r"line 2 has half a surrogate pair"),
        (GOOD.encode() + b'{"text": "\xe9"}\n', r"line 2 must be UTF-8 text, and its byte 10 is not"),
    ],
)
def test_a_bad_line_is_named_or_left_out(tmp_path, content, message):
    path = tmp_path / "a.jsonl"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message + r".*, or leave such records out with data.bad=skip\.$"):
        documents(path)
    bad = BadRecords(skip=True)
    path.write_bytes(path.read_bytes().rstrip(b"\n") + b"\n" + GOOD.encode())
    assert documents(path, bad) == ["good", "good"]
    assert bad.count == 1 and bad.report().startswith("left out 1 bad record: ")


def test_the_report_counts_all_and_quotes_a_few(tmp_path):
    (tmp_path / "a.jsonl").write_text("[]\n" * 5 + GOOD)
    bad = BadRecords(skip=True)
    assert documents(tmp_path / "a.jsonl", bad) == ["good"]
    assert bad.report().startswith("left out 5 bad records: ") and bad.report().endswith(", and 2 more")


def test_cut_off_shards_are_named(tmp_path):
    paths = {path.name: path for path in write_all_kinds(tmp_path)}
    many = jsonl([{"text": "".join(map(chr, range(i + 100, i + 300)))} for i in range(300)]).encode()
    paths["b.jsonl.gz"].write_bytes(gzip.compress(many)[:-40])
    paths["c.jsonl.zst"].write_bytes(paths["c.jsonl.zst"].read_bytes()[:-5])
    paths["d.parquet"].write_bytes(paths["d.parquet"].read_bytes()[:-5])
    (tmp_path / "e.txt.gz").write_bytes(gzip.compress(b"words")[:-3])
    for name, message in (
        ("b.jsonl.gz", r"b.jsonl.gz is cut off or damaged after line \d+ \("),
        ("c.jsonl.zst", r"c.jsonl.zst is cut off or damaged after line 1 \(it ends in the middle of a frame\)"),
        ("d.parquet", r"d.parquet is cut off or no parquet file \("),
        ("e.txt.gz", r"e.txt.gz is not a whole compressed file \("),
    ):
        with pytest.raises(ValueError, match=message):
            documents(tmp_path / name)
    bad = BadRecords(skip=True)
    assert documents(tmp_path / "c.jsonl.zst", bad) == DOCUMENTS[:1] and bad.count == 1
    for file in (tmp_path / "one").glob("*.arrow"):
        file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"one is not a whole data set \("):
        documents(tmp_path / "one")


def test_a_damaged_row_group_is_named_by_its_rows(tmp_path):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    table = pyarrow.table({"text": [f"document {i}" for i in range(6)]})
    parquet.write_table(table, path, row_group_size=2, use_dictionary=False, write_page_checksum=True)
    column = parquet.ParquetFile(path).metadata.row_group(1).column(0)
    content = bytearray(path.read_bytes())
    for byte in range(column.data_page_offset, column.data_page_offset + 12):
        content[byte] ^= 255
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"a.parquet rows 3 to 4 cannot be read \("):
        documents(path)
    assert documents(path, BadRecords(skip=True)) == [f"document {i}" for i in (0, 1, 4, 5)]
    with pytest.raises(ValueError, match=r"a.parquet has no key 'body' among text \(did you mean 'text'\?\)"):
        documents(path, text_key="body")
    parquet.write_table(pyarrow.table({"text": ["x", None]}), path)
    with pytest.raises(ValueError, match=r"a.parquet row 2 must have text under 'text', got nothing"):
        documents(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"caf\xe9 au lait", r"a.txt must be UTF-8 text, and its byte 3 is not: convert it, for example with iconv"),
        (b"caf\xc3", r"a.txt must be UTF-8 text, and its byte 3 is not"),
        (b" \n", r"a.txt has no text in it: give a file with words in it"),
        (b"", r"a.txt has no text in it"),
    ],
)
@pytest.mark.parametrize("block", [1, 2, 1 << 20])
def test_a_text_that_cannot_be_read_is_named(tmp_path, monkeypatch, content, message, block):
    monkeypatch.setattr("ringattn.data.compressed.BLOCK", block)
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        documents(tmp_path / "a.txt")
    (tmp_path / "b.txt").write_text("good")
    assert documents(tmp_path, BadRecords(skip=True)) == ["good"]


@pytest.mark.parametrize(
    ("made", "path", "settings", "message"),
    [
        ([], "none.txt", {}, r"data.path must name a file, a folder or a glob, got .*none.txt, which is not there"),
        ([], "*.txt", {}, r"data.path must name files, got .*, which matches none: check the pattern"),
        (["a.zip"], ".", {}, r"data.path must hold something to read, got the folder .*name other files with a glob"),
        (["a.csv"], "a.csv", {}, r"got .*a.csv: convert it, or force a kind, for example data=jsonl"),
        (
            ["a.txt", "b.jsonl", "c.jsonl"],
            ".",
            {},
            r"must be of one kind, got 2 jsonl and 1 text in .*: name some",
        ),
        (["a.npy", "b.npy"], "*.npy", {}, r"data.path takes one file of tokens, got 2"),
        (
            ["a.txt"],
            "a.txt",
            {"split": "train"},
            r"data.split is for datasets folders, got data.split=train with",
        ),
        (["a.txt"], "a.txt", {"source": "datasets"}, r"must be the folder of a data set, got the file"),
        (["a.txt"], ".", {"source": "tokens"}, r"must be a folder of tokens, got .*, which holds no corpus.json"),
    ],
)
def test_a_path_that_does_not_serve_is_refused(tmp_path, made, path, settings, message):
    for name in made:
        (tmp_path / name).write_text("x")
    with pytest.raises(ValueError, match=message):
        source(tmp_path / path, **settings)
