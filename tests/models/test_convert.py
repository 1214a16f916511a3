"""Conversions: the same bits or logits come out, what is there already stays, and each mistake is one sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf_file import write_gguf
from safetensors.torch import load_file
from tiny_models import make_config, make_tokens
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from ringattn.models.convert import Kind, convert, identify

TOKENIZER = b'{"version":   "1.0", "not as transformers would write it": true}\n'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save(tmp_path / "model")


def save(path: Path, dtype: torch.dtype = torch.float32, seed: int = 1) -> Path:
    torch.manual_seed(seed)
    model: Any = LlamaForCausalLM(make_config("llama", initializer_range=0.3))
    model.to(dtype).save_pretrained(path)
    (path / "tokenizer.json").write_bytes(TOKENIZER)
    (path / "chat_template.jinja").write_text("{{ messages }}")
    return path


def weights_of(path: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in path.glob("*.safetensors") for name, tensor in load_file(file).items()}


def assert_same_bits(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name in expected:
        assert found[name].dtype == expected[name].dtype and torch.equal(found[name], expected[name]), name


def logits(path: Path, tokens: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)(tokens).logits


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_folder_in_smaller_files_keeps_its_bits_and_its_tokenizer(tmp_path: Path, dtype: torch.dtype) -> None:
    folder, out = save(tmp_path / "model", dtype), tmp_path / "out"
    written = convert(identify(str(folder)), out, shard_size="10KB")
    assert written.files > 1 and written.dtype == dtype
    assert_same_bits(weights_of(out), weights_of(folder))
    assert (out / "tokenizer.json").read_bytes() == TOKENIZER
    assert torch.equal(logits(out, make_tokens(1, 9)), logits(folder, make_tokens(1, 9)))
    assert list(tmp_path.glob(".*")) == []


def test_another_dtype_rounds_each_weight_once(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert convert(identify(str(folder)), out, dtype=torch.bfloat16).dtype == torch.bfloat16
    assert_same_bits(weights_of(out), {name: x.bfloat16() for name, x in weights_of(folder).items()})
    assert json.loads((out / "config.json").read_text())["dtype"] == "bfloat16"


def test_a_gguf_file_keeps_its_logits(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    write_gguf(tmp_path / "tiny.gguf")
    source = identify(str(tmp_path / "tiny.gguf"))
    assert source.kind is Kind.GGUF
    convert(source, tmp_path / "out")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="tiny.gguf", dtype=torch.float32)
    with torch.no_grad():
        assert torch.equal(logits(tmp_path / "out", make_tokens(1, 9)), plain(make_tokens(1, 9)).logits)
    assert AutoTokenizer.from_pretrained(tmp_path / "out").decode([1, 2]) == '!"'


def adapted(folder: Path, out: Path, *, rank: int = 4) -> Any:
    peft = pytest.importorskip("peft")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    settings = peft.LoraConfig(r=rank, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    torch.manual_seed(3)
    tuned = peft.get_peft_model(model, settings)
    tuned.save_pretrained(out)
    return tuned.eval()


def test_an_adapter_is_merged_into_its_base(folder: Path, tmp_path: Path) -> None:
    tuned, tokens = adapted(folder, tmp_path / "adapter"), make_tokens(1, 9)
    source = identify(str(tmp_path / "adapter"))
    assert source.kind is Kind.ADAPTER
    convert(source, tmp_path / "out")
    with torch.no_grad():
        torch.testing.assert_close(logits(tmp_path / "out", tokens), tuned(tokens).logits)
    assert not torch.allclose(logits(tmp_path / "out", tokens), logits(folder, tokens))
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == TOKENIZER


def test_an_adapter_without_its_base_or_on_another_one(folder: Path, tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    adapted(folder, adapter)
    settings = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(settings | {"base_model_name_or_path": "some/model"}))
    source = identify(str(adapter))
    with pytest.raises(
        ValueError, match=r"that of .* is some/model, which is no folder here: give it with base=FOLDER"
    ):
        convert(source, tmp_path / "out")
    wider = tmp_path / "wider"
    LlamaForCausalLM(make_config("llama", hidden_size=48)).save_pretrained(wider)
    with pytest.raises(ValueError, match=r"the adapter .* does not fit the base .*wider .*: give the model that"):
        convert(source, tmp_path / "out", base=str(wider))
    convert(source, tmp_path / "out", base=str(folder))
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    with pytest.raises(ValueError, match=r"has no adapter_model\.safetensors: save it again"):
        convert(source, tmp_path / "other", base=str(folder))


def test_a_run_gives_its_newest_checkpoint(tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.sha256").write_text("0")
    with pytest.raises(ValueError, match="has no checkpoint yet"):
        identify(str(run))
    newest = save(run / "checkpoints" / "step-000002")
    (run / "checkpoints" / "latest").symlink_to("step-000002")
    source = identify(str(run))
    assert source.describe() == f"{newest} is a Hugging Face folder, the newest of the run {run}"


def test_nothing_is_overwritten(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(ValueError, match=r"convert never overwrites, but .*out exists: name another folder"):
        convert(identify(str(folder)), tmp_path / "out")


def test_a_weight_that_does_not_fit_is_refused_and_nothing_is_left(folder: Path, tmp_path: Path) -> None:
    model = LlamaForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        model.lm_head.weight[0, 0] = 1e6
    model.save_pretrained(folder)
    with pytest.raises(ValueError, match=r"lm_head\.weight has others in torch\.float16: choose dtype=bfloat16"):
        convert(identify(str(folder)), tmp_path / "out", dtype=torch.float16)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


def test_what_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"is no checkpoint: it has neither config\.json"):
        identify(str(tmp_path))
    (tmp_path / "x.bin").write_bytes(b"")
    with pytest.raises(ValueError, match=r"a file to convert is a \.gguf"):
        identify(str(tmp_path / "x.bin"))


class _RunsCode:
    def __reduce__(self) -> Any:
        return print, ("this ran",)


def test_a_deepspeed_checkpoint_that_could_run_code_is_refused(folder: Path, tmp_path: Path, capsys: Any) -> None:
    pytest.importorskip("deepspeed")
    place = tmp_path / "zero" / "global_step1"
    place.mkdir(parents=True)
    (place.parent / "latest").write_text("global_step1")
    for name in ("mp_rank_00_model_states.pt", "zero_pp_rank_0_mp_rank_00_optim_states.pt"):
        torch.save({"module": _RunsCode()}, place / name)
    source = identify(str(place.parent))
    assert source.kind is Kind.ZERO
    with pytest.raises(ValueError, match=r"no config\.json lies beside .*: give the model that was trained with base="):
        convert(source, tmp_path / "out")
    with pytest.raises(ValueError, match="hold objects that could run code"):
        convert(source, tmp_path / "out", base=str(folder))
    assert "this ran" not in capsys.readouterr().out
