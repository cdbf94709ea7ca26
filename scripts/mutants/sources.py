"""The plugins of this project as sources: which types depend on a module, and copies to plant faults in.

A copy stands in a folder of its own, the overlay, which is first on the module path of the process that
checks it: it wins over the installed plugin.  The overlay carries the distribution's metadata
too, so that a plugin that is not installed (an example) is found in the same way.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import shutil
import tomllib
from pathlib import Path

from attrs import frozen

from mutants.mutant import ROOT, Mutant, read_source

GROUP = "vbox.plugins"
_PLACES = ("plugins", "examples")
_FOR_THE_KIT = ("conformance", "exercises")
_COMPILED = shutil.ignore_patterns("__pycache__")
CONTRACT = Path("vbox_pdm", "src")


@frozen
class Distribution:
    """A plugin distribution; `types` maps the types that it announces to their modules."""

    folder: Path
    name: str
    version: str
    package: str
    requires: tuple[str, ...]
    types: dict[str, str]

    @property
    def source(self) -> Path:
        """The folder of the package."""
        return self.folder / "src" / self.package

    def modules(self) -> dict[str, Path]:
        """All modules by name."""
        found = {}
        for path in sorted(self.source.rglob("*.py")):
            parts = path.relative_to(self.folder / "src").with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
        return found


def distributions(root: Path = ROOT) -> list[Distribution]:
    """All plugin distributions of the project that announce a type."""
    found = []
    for place in _PLACES:
        for path in sorted(root.glob(f"{place}/*/pyproject.toml")):
            project = tomllib.loads(path.read_text())["project"]
            types = project.get("entry-points", {}).get(GROUP, {})
            packages = [each.parent.name for each in path.parent.glob("src/*/__init__.py")]
            if types and len(packages) == 1:
                found.append(
                    Distribution(
                        path.parent,
                        project["name"],
                        project["version"],
                        packages[0],
                        tuple(project.get("dependencies", ())),
                        dict(types),
                    )
                )
    return found


def types_by_module(distribution: Distribution) -> dict[str, tuple[str, ...]]:
    """The types whose modules import a module, directly or not; modules of no type are left out, and so
    is what a package tells the kit."""
    modules = {name: path for name, path in distribution.modules().items() if path.stem not in _FOR_THE_KIT}
    imports = {name: _imports(path, modules) for name, path in modules.items()}
    found: dict[str, list[str]] = {}
    for type_name, module in sorted(distribution.types.items()):
        for reached in _reached(module, imports):
            found.setdefault(reached, []).append(type_name)
    return {name: tuple(types) for name, types in found.items()}


def _imports(path: Path, modules: dict[str, Path]) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(read_source(path))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None and not node.level:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found & modules.keys()


def _reached(module: str, imports: dict[str, set[str]]) -> set[str]:
    reached: set[str] = set()
    left = [module]
    while left:
        name = left.pop()
        if name in imports and name not in reached:
            reached.add(name)
            left += imports[name]
    return reached


# --- copies


def snapshot(folder: Path, root: Path = ROOT) -> Path:
    """Copy the plugins and the contract to `folder`, which then stands for the project."""
    for place in (*_PLACES, CONTRACT):
        if (root / place).is_dir():
            shutil.copytree(root / place, folder / place, ignore=_COMPILED)
    shutil.copy(root / "pyproject.toml", folder)  # how tests are run
    return folder


def make_overlay(
    folder: Path, distribution: Distribution, mutant: Mutant | None = None, root: Path = ROOT
) -> None:
    """A copy of the package, with the fault when one is given, and its metadata."""
    package = folder / distribution.package
    shutil.copytree(distribution.source, package, ignore=_COMPILED)
    if mutant is not None:
        target = folder / Path(mutant.file).relative_to((distribution.folder / "src").relative_to(root))
        target.write_bytes(mutant.applied(mutant.source(root)).encode())
    info = folder / f"{distribution.name.replace('-', '_')}-{distribution.version}.dist-info"
    info.mkdir()
    metadata = [
        "Metadata-Version: 2.1",
        f"Name: {distribution.name}",
        f"Version: {distribution.version}",
        *(f"Requires-Dist: {requirement}" for requirement in distribution.requires),
    ]
    (info / "METADATA").write_text("\n".join(metadata) + "\n")
    entries = [f"{name} = {module}" for name, module in distribution.types.items()]
    (info / "entry_points.txt").write_text("\n".join([f"[{GROUP}]", *entries]) + "\n")


# --- what a result depends on


@functools.cache
def digest(folder: Path) -> str:
    """Of all files of a folder, but for what Python compiled."""
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            total.update(str(path.relative_to(folder)).encode() + b"\0")
            total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()[:16]


def kit_digest(root: Path = ROOT) -> str:
    """Of the contract with the kit in it."""
    return digest(root / CONTRACT / "vbox_pdm")
