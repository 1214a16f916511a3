"""The Triton programs of landmark attention, in triton's interpreter, and whom they serve."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ringattn.kernels.kernel import Request
from ringattn.kernels.landmark_triton import LandmarkTriton

HERE = Path(__file__).parent


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="the package triton is not installed")
def test_the_programs_give_what_the_formula_gives():
    # The interpreter is chosen when triton is imported, so it runs in a process of its own.
    command = [sys.executable, str(HERE / "interpreted_landmarks.py")]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    found = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert found.returncode == 0 and "interpreted" in found.stdout, found.stdout + found.stderr


@pytest.mark.parametrize(
    ("device", "dtype", "head_dim", "block", "text"),
    [
        ("cpu", torch.float32, 64, 63, "runs on a CUDA device, and the tensors are on cpu"),
        ("cuda", torch.float64, 64, 63, "takes float16, bfloat16, float32, and the tensors are float64"),
        ("cuda", torch.bfloat16, 256, 63, "takes head sizes up to 128, got 256"),
        ("cuda", torch.bfloat16, 128, 128, "takes landmark blocks of up to 127 tokens, got 128"),
        ("cuda", torch.bfloat16, 128, 63, None),
    ],
)
def test_whom_it_serves(monkeypatch, device, dtype, head_dim, block, text):
    monkeypatch.setattr("ringattn.kernels.landmark_triton.find_spec", lambda name: name)
    assert LandmarkTriton().refusal(Request(torch.device(device), dtype, head_dim, landmark_block=block)) == text


def test_without_triton(monkeypatch):
    monkeypatch.setattr("ringattn.kernels.landmark_triton.find_spec", lambda name: None)
    request = Request(torch.device("cuda"), torch.bfloat16, 64, landmark_block=63)
    assert LandmarkTriton().refusal(request) == "the package triton is not installed"
