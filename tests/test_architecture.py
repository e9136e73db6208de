"""The order of the layers: a later one may import an earlier one, never the reverse."""

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "milscope"
LAYERS = [
    "types", "configs", "lazy", "progress", "pool",
    "slides", "store", "lineage", "card", "split", "operating", "tasks",
    "checkpoints", "schedule", "devices", "augment", "distributed", "encoders", "objectives", "surgery", "telemetry", "learner",
    "samplers", "recompute", "aggregators", "fitting", "candidates", "cohorts",
    "metrics", "validation", "models", "training", "memory", "curves", "comparison", "truth", "judged", "ranking", "heat",
    "synth", "tile", "check", "pretrain", "encode", "train", "distill", "extend", "endtoend", "predict", "seek",
    "crossvalidate", "retrieve", "evaluate", "heatmap", "export", "export_cells", "report", "review", "compare",
    "recipes", "benchmark", "flags", "benchmark_cli", "results_cli", "cli", "__main__",
]
QUICK = ("types", "lazy", "benchmark_cli", "results_cli", "cli", "__init__")
SLOW = {"torch", "timm", "sklearn", "matplotlib", "pandas", "scipy"}
MODULES = sorted(SOURCE.rglob("*.py"))


def layer(module: str) -> str:
    return module.split(".")[1] if "." in module else "milscope"


def imports(path: Path, *, top_only: bool = False) -> list[str]:
    """The modules a file imports, by their full names."""
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_only else ast.walk(tree)
    found = []
    for node in nodes:
        if isinstance(node, ast.ImportFrom):
            found.append(node.module or "")
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
    return found


def name_of(path: Path) -> str:
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(("milscope", *(part for part in parts if part != "__init__")))


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_layers_import_earlier_layers_only(path: Path) -> None:
    own = layer(name_of(path))
    if own == "milscope":
        return
    assert own in LAYERS, f"{own} has no place in the order of layers"
    for module in imports(path):
        if module.startswith("milscope.") and layer(module) != own:
            assert LAYERS.index(layer(module)) < LAYERS.index(own), f"{name_of(path)} imports {module}"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_private_modules_are_private_to_their_folder(path: Path) -> None:
    for module in imports(path):
        if module.startswith("milscope.") and "._" in module:
            assert layer(module) == layer(name_of(path)), f"{name_of(path)} imports {module}"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_house_rules(path: Path) -> None:
    text = path.read_text()
    assert "from __future__ import annotations" not in text
    assert text.count("\n") <= 350
    assert path.stem not in {"utils", "util", "common", "helpers", "core", "misc"}
    for node in ast.walk(ast.parse(text)):
        assert not isinstance(node, ast.Assert), f"line {node.lineno}: raise, never assert"
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < 60, f"{node.name} is too long"
            assert len(node.args.args) + len(node.args.posonlyargs) <= 6, f"{node.name}: at most 5 positional arguments"


def test_only_one_module_knows_torchvision() -> None:
    importers = [name_of(path) for path in MODULES if any(module.split(".")[0] == "torchvision" for module in imports(path))]
    assert importers == []
    assert "torchvision" in (SOURCE / "encoders" / "_torchvision.py").read_text()


@pytest.mark.parametrize("path", [*(SOURCE / f"{name}.py" for name in QUICK), *(SOURCE / "configs").glob("*.py")], ids=name_of)
def test_the_command_line_starts_without_slow_libraries(path: Path) -> None:
    for module in imports(path, top_only=True):
        assert module.split(".")[0] not in SLOW
