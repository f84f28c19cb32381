"""The structure of the project: one direction of imports, no circles, a complete list of files, used dependencies."""

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {
    "alexnet_kernels": ROOT / "kernels" / "alexnet_kernels",
    "alexnet_lab": ROOT / "alexnet_lab",
    "alexnet_ablations": ROOT / "ablations" / "alexnet_ablations",
}
SOURCES = [path for folder in PACKAGES.values() for path in folder.rglob("*.py")]
PLUGINS = {"python-gdcm"}  # found and imported by another dependency
HOSTS = {"lightning", "transformers"}  # trainers that a callback is for: whoever imports it has them
TOOLS = ("test", "dev")  # extras for developers; the others are for users
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

# Modules and subpackages of each package, lowest first; a file imports from its own level or below.
LEVELS = {
    "alexnet_lab": [
        "version",
        "choices",
        "display",
        "terminal",
        "live",
        "progress",
        "randomness",
        "ranks",
        "locks",
        "levels",
        "npz",
        "records",
        "predictions_file",
        "networks",
        "data",
        "audit",
        "instruments",
        "training",
        "evaluation",
        "explanation",
        "diagnosis",
        "reports",
        "one_call",
    ],
    "alexnet_ablations": ["declare", "tune", "conclude", "run", "report", "cli"],
}


def imports_of(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def module_name(path):
    package = next(name for name, folder in PACKAGES.items() if folder in path.parents)
    parts = (package, *path.relative_to(PACKAGES[package]).with_suffix("").parts)
    return ".".join(parts).removesuffix(".__init__")


def modules_imported(path, modules):
    """Return the project's modules that a file imports, at run time or for types only."""
    imported = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            # `from package import name` is an import of package.name where that is a module.
            imported |= {
                full if (full := f"{node.module}.{alias.name}") in modules else node.module for alias in node.names
            }
    return imported & modules.keys()


@pytest.mark.parametrize(
    ("package", "above"),
    [("alexnet_kernels", {"alexnet_lab", "alexnet_ablations"}), ("alexnet_lab", {"alexnet_ablations"})],
)
def test_imports_between_packages_go_one_way_down(package, above):
    for path in PACKAGES[package].rglob("*.py"):
        assert not {name.split(".")[0] for name in imports_of(path)} & above, path


@pytest.mark.parametrize("package", LEVELS)
def test_imports_inside_a_package_go_one_way(package):
    levels = LEVELS[package]
    for path in PACKAGES[package].rglob("*.py"):
        own = path.relative_to(PACKAGES[package]).parts[0].removesuffix(".py")
        if own == "__init__":
            continue
        for name in imports_of(path):
            parts = name.split(".")
            if parts[0] == package and len(parts) > 1:
                assert levels.index(parts[1]) <= levels.index(own), f"{path} imports {name}"


def test_no_modules_import_each_other_in_a_circle():
    modules = {module_name(path): path for path in SOURCES}
    graph = {name: modules_imported(path, modules) - {name} for name, path in modules.items()}
    # Taking away modules that import nothing left over, again and again, leaves the circles.
    while leaves := [name for name, needed in graph.items() if not needed & graph.keys()]:
        for name in leaves:
            del graph[name]
    assert not graph, {name: sorted(needed & graph.keys()) for name, needed in graph.items()}


def test_the_map_names_every_file_by_its_path_and_no_other():
    mapped = {line for line in paths_on_the_map() if line.endswith((".py", ".sh", ".toml"))}
    tracked = [*SOURCES, *(ROOT / "benchmarks").glob("*.py"), *(ROOT / "benchmarks").glob("*.sh")]
    existing = {str(path.relative_to(ROOT)) for path in tracked if path.name != "__init__.py"}
    assert existing - mapped == set(), "files that docs/architecture.md does not name"
    assert {name for name in mapped if not (ROOT / name).exists()} == set(), "names on the map without a file"


def paths_on_the_map():
    """Read the indented tree of docs/architecture.md: a folder ends in /, what it holds is indented two further."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    tree = re.search(r"^## Files\n(.*?)^## ", text, re.M | re.S).group(1)
    folders = []
    for line in tree.splitlines():
        entry = re.match(r"^ {4}((?:  )*)([\w./-]+)", line)
        if entry:
            depth = len(entry.group(1)) // 2
            path = "".join(folders[:depth]) + entry.group(2)
            if path.endswith("/"):
                folders[depth:] = [entry.group(2)]
            yield path


def test_every_dependency_is_imported_and_every_import_is_declared():
    declared = {re.match(r"[\w-]+", line).group().lower() for line in PROJECT["dependencies"]}
    extras = [line for name, lines in PROJECT["optional-dependencies"].items() for line in lines if name not in TOOLS]
    extra = {re.match(r"[\w-]+", line).group().lower() for line in extras}
    imported = {name.split(".")[0] for path in SOURCES for name in imports_of(path)}
    third_party = imported - set(sys.stdlib_module_names) - set(PACKAGES) - HOSTS
    distribution = {"sklearn": "scikit-learn", "PIL": "pillow", "mlflow": "mlflow-skinny", "IPython": "ipykernel"}
    assert {distribution.get(name, name) for name in third_party} == (declared | extra) - PLUGINS


def test_every_dependency_has_its_reason():
    reasons = (ROOT / "docs" / "dependencies.md").read_text()
    extras = [line for lines in PROJECT["optional-dependencies"].values() for line in lines]
    for line in [*PROJECT["dependencies"], *extras]:
        name = re.match(r"[\w-]+", line).group()
        assert f"`{name}`" in reasons, line


def test_no_package_marks_the_folders_that_hold_the_packages():
    # `kernels` and `ablations` are names of other people's distributions; importing them must fail.
    assert not (ROOT / "kernels" / "__init__.py").exists()
    assert not (ROOT / "ablations" / "__init__.py").exists()
    assert all((folder / "py.typed").exists() for folder in PACKAGES.values())


def test_the_exported_names_are_the_promised_ones():
    import alexnet_kernels
    from alexnet_lab import networks

    assert {"AlexNet", "build_network", "from_torchvision_state_dict", "to_torchvision_state_dict"} <= set(
        networks.__all__
    )
    assert "local_response_norm" in alexnet_kernels.__all__
    for module in (networks, alexnet_kernels):
        assert all(hasattr(module, name) for name in module.__all__)
