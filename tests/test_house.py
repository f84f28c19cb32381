"""The house stands as its plan says: one way down, every room on the map, every dependency in use."""

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
TOOLS = ("test", "dev")  # extras for those who work on this house; the others are for its users
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

# Floors inside alexnet_lab, lowest first; a file imports from its own floor or below.
FLOORS = [
    "choices",
    "randomness",
    "locks",
    "levels",
    "records",
    "networks",
    "data",
    "instruments",
    "training",
    "diagnosis",
    "reports",
]


def imports_of(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


@pytest.mark.parametrize(
    ("package", "above"),
    [("alexnet_kernels", {"alexnet_lab", "alexnet_ablations"}), ("alexnet_lab", {"alexnet_ablations"})],
)
def test_imports_between_packages_go_one_way_down(package, above):
    for path in PACKAGES[package].rglob("*.py"):
        assert not {name.split(".")[0] for name in imports_of(path)} & above, path


def test_imports_between_the_floors_of_the_lab_go_one_way_down():
    for path in PACKAGES["alexnet_lab"].rglob("*.py"):
        own = path.relative_to(PACKAGES["alexnet_lab"]).parts[0].removesuffix(".py")
        if own == "__init__":
            continue
        for name in imports_of(path):
            parts = name.split(".")
            if parts[0] == "alexnet_lab" and len(parts) > 1:
                assert FLOORS.index(parts[1]) <= FLOORS.index(own), f"{path} imports {name}"


def test_every_file_stands_on_the_map_and_nothing_else_does():
    tree = (ROOT / "docs" / "architecture.md").read_text()
    named = set(re.findall(r"[\w./-]+\.(?:py|sh|toml)\b", tree))
    for path in [*SOURCES, *(ROOT / "benchmarks").glob("*.py"), *(ROOT / "benchmarks").glob("*.sh")]:
        if path.name != "__init__.py":
            assert path.name in named, f"docs/architecture.md does not name {path.relative_to(ROOT)}"
    existing = {path.name for path in ROOT.rglob("*") if path.suffix in (".py", ".sh", ".toml")}
    for name in named:
        assert Path(name).name in existing | {"study.toml"}, f"docs/architecture.md names {name}, which is not there"


def test_every_dependency_is_imported_and_every_import_is_declared():
    declared = {re.match(r"[\w-]+", line).group().lower() for line in PROJECT["dependencies"]}
    extras = [line for name, lines in PROJECT["optional-dependencies"].items() for line in lines if name not in TOOLS]
    extra = {re.match(r"[\w-]+", line).group().lower() for line in extras}
    imported = {name.split(".")[0] for path in SOURCES for name in imports_of(path)}
    third_party = imported - set(sys.stdlib_module_names) - set(PACKAGES)
    distribution = {"sklearn": "scikit-learn", "PIL": "pillow", "mlflow": "mlflow-skinny"}
    assert {distribution.get(name, name) for name in third_party} == declared | extra


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


def test_files_are_rooms_not_halls():
    for path in SOURCES:
        assert len(path.read_text().splitlines()) <= 400, path
