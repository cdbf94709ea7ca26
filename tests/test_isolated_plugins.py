"""Each of our plugins passes its tests in an environment that holds the contract and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
from machines import ROOT, make_venv, run

PLUGINS = sorted(path for path in (ROOT / "plugins").iterdir() if (path / "pyproject.toml").is_file())


@pytest.mark.parametrize("plugin", PLUGINS, ids=lambda path: path.name)
def test_plugin_tests_without_kernel_pass(plugin: Path, tmp_path: Path) -> None:
    python = make_venv(tmp_path / "venv")
    contract = f"{ROOT / 'vbox_pdm'}[testing]"
    run(python, "-m", "pip", "install", "-q", contract, "pytest-timeout", "pexpect", "pyte", plugin)

    names = run(python, "-m", "pip", "list", "--format=freeze")
    output = run(python, "-m", "pytest", "-p", "no:cacheprovider", "--rootdir", ROOT, plugin / "tests")

    assert "vbox-vmm" not in names
    assert "unicorn" not in names
    assert " passed" in output
