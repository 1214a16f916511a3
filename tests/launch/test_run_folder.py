"""The run folder is made once, whole or not at all, and `--dry-run` makes nothing."""

import re

import pytest
from ringattn.launch.cli import main
from ringattn.launch.run_folder import freeze
from tiny_run import tiny_mapping, tiny_overrides, write_text

from ringattn.settings.run import from_mapping, load


def config(folder, **run):
    mapping = tiny_mapping(folder)
    mapping["run"] |= run
    return from_mapping(mapping)


def test_freezing_writes_what_a_worker_reads(tmp_path):
    write_text(tmp_path / "text.txt")
    folder, digest = freeze(config(tmp_path))
    assert load(folder / "config.yaml") == (config(tmp_path), digest)
    assert (folder / "config.sha256").read_text().strip() == digest
    assert {p.name for p in (folder / "data").iterdir()} == {
        "corpus.json",
        "data.json",
        "documents.bin",
        "tokenizer",
        "tokens.bin",
    }


def test_a_folder_that_exists_is_refused_unless_it_is_a_run_to_overwrite(tmp_path):
    write_text(tmp_path / "text.txt")
    freeze(config(tmp_path))
    (tmp_path / "run" / "metrics.jsonl").write_text("old")
    with pytest.raises(ValueError, match=r"run exists: choose another with run.folder=..., go on in it with"):
        freeze(config(tmp_path))
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == "old"
    freeze(config(tmp_path, overwrite=True))
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_a_folder_with_other_things_is_never_emptied(tmp_path):
    write_text(tmp_path / "text.txt")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("years")
    with pytest.raises(ValueError, match=r"has no config\.sha256"):
        freeze(config(tmp_path, overwrite=True))
    assert (tmp_path / "run" / "thesis.tex").read_text() == "years"


def test_a_text_that_does_not_serve_leaves_nothing_behind(tmp_path):
    write_text(tmp_path / "text.txt", lines=2)
    with pytest.raises(ValueError, match="longer than one sequence"):
        freeze(config(tmp_path))
    assert [p.name for p in tmp_path.iterdir()] == ["text.txt"]


def test_a_dry_run_counts_a_hybrids_own_layers(tmp_path, capsys):
    write_text(tmp_path / "text.txt")
    words = ["model=hybrid_demo", f"data.path={tmp_path / 'text.txt'}", f"run.folder={tmp_path / 'run'}", "--dry-run"]

    def shown(*more):
        assert main(["train", *words, "trainer.sequence_length=1024", *more]) == 0
        out = capsys.readouterr().out
        figures = dict(re.findall(r"^ *([a-z ]+?) +([\d,.]+)$", out, flags=re.MULTILINE))
        return out, {name: float(figures[name].replace(",", "")) for name in ("weights", "activations", "total")}

    out, linear = shown("model.hybrid.state_route=auto")
    assert "layers: 3 linear (gated_deltanet, 2 heads of 32 and 64 channels), 1 full; states take the route " in out
    assert "route auto" not in out
    assert linear["weights"] == pytest.approx(4 * 1_924_236 / 2**20, abs=0.06)
    full, plain = shown("model.hybrid.pattern=full")
    assert "layers: 4 full\n" in full
    assert plain["weights"] < linear["weights"] and plain["activations"] < linear["activations"]


def test_a_dry_run_shows_everything_and_writes_nothing(tmp_path, capsys):
    write_text(tmp_path / "text.txt")
    words = [*tiny_overrides(tmp_path), "launcher.processes=4", "mesh.sequence_parallel=2", "--dry-run"]
    assert main(["train", *words]) == 0
    shown = capsys.readouterr().out
    assert "sequence_length: 32" in shown
    assert "mesh: 2 data-parallel x 2 sequence-parallel = 4 ranks, about 16 tokens a rank" in shown
    for part in (
        "weights",
        "gradients",
        "optimizer",
        "activations",
        "attention buffers",
        "loss",
        "temporaries",
        "total",
    ):
        assert f"{part}  " in shown
    assert "-m torch.distributed.run --standalone --nproc-per-node=4 -m ringattn.launch.worker" in shown
    assert [p.name for p in tmp_path.iterdir()] == ["text.txt"]
