"""The layers of the package: a module imports only from layers below its own, and the lower ones need no torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# From the bottom up. Names that share a layer do not know each other.
LAYERS = (
    {"sequence"},
    {"schedule"},
    {"planner", "kernels"},
    {"settings"},
    {"data"},
    {"runtime"},
    {"attention"},
    {"virtual", "measure"},
    {"layers"},
    {"models"},
    {"training"},
    {"evaluation"},
    {"report"},
    {"launch", "conf"},
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}

# Below their layer's rule: these are read by tools that must start at once, or run where no torch is.
WITHOUT_TORCH = (
    "sequence",
    "schedule",
    "planner",
    "settings",
    "data",
    "report/schedule.py",
    "report/schedule_picture.py",
    "report/svg.py",
    "report/comparison.py",
    "report/comparison_html.py",
    "report/comparison_json.py",
    "report/comparison_page.py",
    "report/comparison_picture.py",
    "report/comparison_report.py",
    "report/comparison_summary.py",
    "report/comparison_table.py",
    "report/comparison_trace.py",
    "report/evaluation_json.py",
    "report/evaluation_picture.py",
    "report/evaluation_report.py",
    "report/evaluation_table.py",
)


def sources() -> list[Path]:
    return sorted(path for top in ("ringattn", "launch") for path in (ROOT / top).rglob("*.py"))


def home(path: Path) -> str:
    """The layer's name of a file: its folder, or its own where it stands directly in the package."""
    parts = path.relative_to(ROOT).parts
    return "launch" if parts[0] == "launch" else parts[1].removesuffix(".py")


def imported(path: Path) -> list[tuple[int, str]]:
    """(line, module) of each import of ours, those inside functions too."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute"
            # `from ringattn import runtime` names the layer in what is imported.
            names = [f"ringattn.{a.name}" for a in node.names] if node.module == "ringattn" else [str(node.module)]
            found += [(node.lineno, name) for name in names]
    return [(line, name) for line, name in found if name.partition(".")[0] == "ringattn"]


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_imports_only_from_layers_below(path):
    own = home(path)
    if own in ("__init__", "__main__"):
        # The package's own face shows names of any layer.
        return
    assert own in LEVEL, f"{own} has no place among the layers: add it to LAYERS"
    for line, name in imported(path):
        other = [*name.split("."), "ringattn"][1]
        if other == own:
            continue
        if other not in LEVEL:
            assert own == "launch", f"{path}:{line}: {own} imports the package's face; import from the module itself"
            continue
        assert LEVEL[other] < LEVEL[own] or own == "launch", f"{path}:{line}: {own} imports {other}, which is not below"


def test_every_folder_has_a_place():
    folders = {path.name for path in (ROOT / "ringattn").iterdir() if (path / "__init__.py").exists()}
    assert folders <= set(LEVEL)


def test_the_lower_layers_import_without_torch():
    modules = []
    for part in WITHOUT_TORCH:
        where = ROOT / "ringattn" / part
        files = [where] if where.suffix else sorted(where.rglob("*.py"))
        modules += [".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in files]
    code = (
        "import importlib, sys\n"
        f"for name in {modules!r}:\n"
        "    importlib.import_module(name)\n"
        "    heavy = {'torch', 'transformers', 'matplotlib'} & set(sys.modules)\n"
        "    assert not heavy, f'{name} imports {heavy}'\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_no_source_is_longer_than_a_reader_can_hold():
    lengths = {str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in sources()}
    assert {name: lines for name, lines in lengths.items() if lines > 650} == {}
