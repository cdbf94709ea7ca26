"""The walls of docs/architecture.md, checked from the imports."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CONTRACT = ROOT / "vbox_pdm" / "src" / "vbox_pdm"
KERNEL = ROOT / "vbox_vmm" / "src" / "vbox_vmm"
BROUGHT_LATER = ("pytest_plugin.py", "machine.py", "plans.py", "run.py", "traffic.py")
"""Modules of vbox_pdm.testing that nobody imports who runs neither pytest nor the conformance kit."""
PLUGINS = sorted(path for path in (ROOT / "plugins").iterdir() if path.is_dir())


def imports(folder: Path) -> Iterator[tuple[Path, str]]:
    """(file, absolute module name) for every import below `folder`, wherever it stands."""
    for path in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    yield path, alias.name
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                yield path, node.module or ""


def within(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def test_contract_imports_neither_kernel_nor_unicorn_nor_plugin() -> None:
    found = list(imports(CONTRACT))

    assert found
    offenders = [
        (path.name, module)
        for path, module in found
        if within(module, "vbox_vmm") or within(module, "unicorn") or module.startswith("vbox_plugin")
    ]
    assert offenders == []


@pytest.mark.parametrize("plugin", PLUGINS, ids=lambda path: path.name)
def test_plugin_imports_only_the_contract_and_libraries(plugin: Path) -> None:
    own = f"vbox_plugin_{plugin.name}"
    found = [*imports(plugin / "src"), *imports(plugin / "tests")]

    assert found
    offenders = [
        (path.name, module)
        for path, module in found
        if within(module, "vbox_vmm")
        or within(module, "unicorn")
        or (module.startswith("vbox_plugin") and not within(module, own))
    ]
    assert offenders == []


def test_kernel_imports_no_plugin() -> None:
    offenders = [(path.name, module) for path, module in imports(KERNEL) if module.startswith("vbox_plugin")]

    assert offenders == []


def test_front_ends_import_the_public_face_of_the_kernel_only() -> None:
    inside = ("pdm", "iom", "pgm", "tm", "trpm", "em", "rem")

    offenders = [
        (path.name, module)
        for path, module in imports(KERNEL / "frontends")
        if any(within(module, f"vbox_vmm.{name}") for name in inside)
    ]

    assert offenders == []


def test_contract_is_imported_without_test_libraries() -> None:
    heavy = ("hypothesis", "pytest", "numpy")

    offenders = [
        (path.name, module)
        for path, module in imports(CONTRACT)
        if any(within(module, name) for name in heavy) and path.name not in BROUGHT_LATER
    ]

    assert offenders == []


def test_conformance_kit_imports_hypothesis_when_it_runs() -> None:
    code = (
        "import sys, vbox_pdm.testing, vbox_pdm.testing.conformance.command\n"
        "assert 'hypothesis' not in sys.modules, 'hypothesis was imported'"
    )

    subprocess.run([sys.executable, "-c", code], check=True)
