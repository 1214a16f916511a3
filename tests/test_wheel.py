"""An installed wheel: one top-level package with everything in it, and a command that works outside the checkout."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy, so that the checkout gets no build folder."""
    source = tmp_path_factory.mktemp("source")
    for name in ("ringattn", "launch", "conf"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    built = tmp_path_factory.mktemp("wheel")
    words = [
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        "--wheel-dir",
        str(built),
        str(source),
    ]
    subprocess.run([sys.executable, "-m", "pip", *words], check=True)
    (path,) = built.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def site_packages(wheel, tmp_path_factory):
    target = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target)
    return target


def test_one_top_level_package(site_packages):
    tops = {path.name for path in site_packages.iterdir() if not path.name.endswith(".dist-info")}
    assert tops == {"ringattn"}


def test_every_module_and_every_setting_is_in_it(site_packages):
    for folder, place in (("ringattn", ""), ("launch", "launch"), ("conf", "conf")):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in (".py", ".yaml", ".typed", ".html", ".css", ".js"):
                assert (site_packages / "ringattn" / place / path.relative_to(ROOT / folder)).is_file(), path


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["-c", "import ringattn; print(ringattn.__file__)"], "{site_packages}"),
        (["-m", "ringattn", "schedules"], "tokenring"),
        (["-m", "ringattn", "train", "--dry-run", "schedule=ring"], "name: ring"),
    ],
    ids=["where", "schedules", "train"],
)
def test_it_works_outside_the_checkout(site_packages, tmp_path, arguments, shown):
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(site_packages)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert shown.format(site_packages=site_packages) in done.stdout
    assert list(tmp_path.iterdir()) == []
