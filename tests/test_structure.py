"""The walls of the package: what may import what, and who knows an architecture."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "src" / "codecswap"
BASE = {"errors", "identify", "files", "console", "config", "processes"}
"""Modules that everything may import; they need no PyTorch."""
ALLOWED = {
    "errors": set(),
    "console": set(),
    "config": {"errors", "identify"},
    "identify": {"errors"},
    "processes": set(),
    "environments": {"errors"},
    "runner": set(),
    "files": {"errors"},
    "metrics": {"errors", "console"},
    "least_squares": set(),
    "layers": set(),
    "devices": BASE,
    "stages": BASE,
    "data": BASE,
    "entropy": BASE | {"data", "inference"},
    "inference": BASE | {"data", "entropy"},
    "quantized": {"inference"},
    "codecs": BASE | {"entropy", "inference", "layers"},
    "swaps": BASE | {"metrics", "layers", "least_squares", "codecs"},
    "graph": BASE | {"entropy", "inference", "layers", "quantized", "swaps"},
    "quantize": BASE
    | {"metrics", "data", "layers", "least_squares", "entropy", "inference", "codecs", "swaps", "graph", "quantized"},
    "targets": BASE | {"graph", "quantized", "quantize"},
    "students": BASE | {"data", "layers", "quantized", "codecs", "swaps"},
    "training": BASE
    | {
        "devices",
        "stages",
        "metrics",
        "data",
        "layers",
        "codecs",
        "swaps",
        "quantized",
        "quantize",
        "targets",
        "students",
    },
    "evaluation": BASE
    | {"devices", "stages", "metrics", "data", "entropy", "inference", "codecs", "students", "archives"},
    "export": BASE
    | {
        "environments",
        "metrics",
        "data",
        "layers",
        "entropy",
        "inference",
        "codecs",
        "swaps",
        "graph",
        "quantized",
        "quantize",
        "students",
        "runner",
        "targets",
    },
    "compile": BASE
    | {
        "environments",
        "metrics",
        "data",
        "layers",
        "entropy",
        "inference",
        "codecs",
        "swaps",
        "graph",
        "quantized",
        "quantize",
        "students",
        "runner",
        "targets",
        "export",
    },
    "benchmarking": BASE
    | {
        "metrics",
        "data",
        "layers",
        "entropy",
        "inference",
        "codecs",
        "swaps",
        "quantized",
        "quantize",
        "students",
        "runner",
        "targets",
        "compile",
        "export",
        "rewrite",
    },
    "advice": BASE | {"metrics", "data", "layers", "codecs", "swaps", "graph", "targets"},
    "coding": BASE | {"data", "entropy", "inference", "codecs", "students"},
    "archives": BASE | {"data", "entropy", "inference", "coding"},
    "page": BASE | {"entropy", "inference"},
    "rewrite": BASE | {"layers", "targets"},
    "report": BASE | {"stages", "metrics", "data", "codecs", "swaps", "students", "evaluation"},
    "demo": BASE
    | {"metrics", "data", "inference", "codecs", "swaps", "students", "training", "evaluation", "export", "report"}
    | {"coding"},
    "cli": BASE | {"stages", "targets"},
    "__main__": {"cli"},
}
"""What the modules of a folder (or a module at the top) may import of the others, deferred imports included."""
ARCHITECTURES = re.compile(
    r"FactorizedPrior|Hyperprior|JointAuto|Cheng20|entropy_bottleneck|gaussian_conditional|compressai\.(mod|zoo)"
)
"""Names of architectures and of what only one of them has."""


def imports(path: Path) -> Iterator[str]:
    """The package's modules, without its name, that a file imports anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path} has a relative import, which this test does not follow"
            if node.module and node.module.split(".")[0] == "codecswap":
                for name in node.names:
                    parts = [*node.module.split(".")[1:], name.name]
                    module = ROOT.joinpath(*parts)
                    yield ".".join(parts if module.with_suffix(".py").is_file() or module.is_dir() else parts[:-1])
        elif isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[2] for alias in node.names if alias.name.startswith("codecswap."))


GRAPH = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): set(imports(path)) - {""}
    for path in ROOT.rglob("*.py")
    if path.name != "__init__.py"
}
"""Each module and what it imports."""


@pytest.mark.parametrize("module", sorted(GRAPH))
def test_imports_go_one_way(module: str) -> None:
    if module.split(".")[-1] == "command":  # the edge: it may import everything, and nothing imports it
        return
    folder = module.split(".")[0]
    assert folder in ALLOWED, f"say in this test what {folder} may import"
    allowed = ALLOWED[folder] | {folder}
    found = {target for target in GRAPH[module] if target.split(".")[0] not in allowed}
    assert not found, f"{module} imports {found}"


def test_a_board_needs_of_the_data_only_how_pictures_are_read() -> None:
    inference = set().union(*(targets for module, targets in GRAPH.items() if module.startswith("inference.")))
    assert {target for target in inference if target.startswith("data")} == {"data.pictures"}
    for path in [*(ROOT / "inference").rglob("*.py"), ROOT / "data" / "pictures.py"]:
        assert not re.search(r"^\s*(import|from) (torch|compressai|lightning)", path.read_text("utf-8"), re.M), path


def test_nothing_but_the_command_line_imports_a_command() -> None:
    found = {
        (module, target)
        for module, targets in GRAPH.items()
        for target in targets
        if target.split(".")[-1] == "command" and module != "cli"
    }
    assert not found


def test_no_modules_import_each_other_in_a_circle() -> None:
    def reached(start: str) -> set[str]:
        seen, todo = set(), [start]
        while todo:
            for target in GRAPH.get(todo.pop(), set()) - seen:
                seen.add(target)
                todo.append(target)
        return seen

    assert not [module for module in GRAPH if module in reached(module)]


def test_only_codecs_knows_an_architecture() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in sorted(ROOT.rglob("*.py"))
        if path.parent.name != "codecs"
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1)
        if ARCHITECTURES.search(line)
    ]
    assert not found, "\n".join(found)


def test_modules_of_tests_have_names_of_their_own() -> None:
    names = [path.name for path in Path(__file__).parent.rglob("test_*.py")]
    assert not {name for name in names if names.count(name) > 1}, "pytest imports them by name"


def test_the_architecture_page_lists_every_folder() -> None:
    page = (ROOT.parents[1] / "docs" / "architecture.md").read_text("utf-8")
    listed = re.findall(r"^\| `(\w+)/` \|", page, re.M)
    assert sorted(listed) == sorted({path.parent.name for path in ROOT.glob("*/*.py")})
