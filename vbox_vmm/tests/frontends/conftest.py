"""The plugins of this repository, as if they were installed, for the tests of the command line."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import importlib_metadata
import pytest
from click.testing import CliRunner, Result

ROOT = Path(__file__).parents[3]
Vbox = Callable[..., Result]
Process = Callable[..., "subprocess.CompletedProcess[str]"]
Started = Callable[..., "subprocess.Popen[Any]"]


def _dist_info(folder: Path, project: Path) -> None:
    """What pip leaves behind, so that entry points of a source tree are found."""
    about = tomllib.loads(project.read_text())["project"]
    info = folder / f"{about['name'].replace('-', '_')}-{about['version']}.dist-info"
    info.mkdir()
    requires = "".join(f"Requires-Dist: {text}\n" for text in about.get("dependencies", ()))
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {about['name']}\nVersion: {about['version']}\n{requires}"
    )
    found = about.get("entry-points", {}).get("vbox.plugins", {})
    lines = "".join(f"{name} = {target}\n" for name, target in found.items())
    (info / "entry_points.txt").write_text(f"[vbox.plugins]\n{lines}")


@pytest.fixture(scope="session")
def search_path(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What to put before sys.path so that everything in this repository is found; empty where it is
    installed."""
    folder = tmp_path_factory.mktemp("installed")
    path = [str(folder)]
    for project in [*sorted(ROOT.glob("plugins/*/pyproject.toml")), ROOT / "vbox_vmm" / "pyproject.toml"]:
        name = tomllib.loads(project.read_text())["project"]["name"]
        try:
            importlib_metadata.distribution(name)
        except importlib_metadata.PackageNotFoundError:
            _dist_info(folder, project)
            path.append(str(project.parent / "src"))
    path.append(str(ROOT / "vbox_pdm" / "src"))
    return path


@pytest.fixture
def _installed(search_path: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for entry in reversed(search_path):
        monkeypatch.syspath_prepend(entry)


@pytest.fixture
def vbox(_installed: None) -> Vbox:
    """`vbox(*words)` within this process."""
    from vbox_vmm.frontends.cli import main

    def call(*words: object) -> Result:
        return CliRunner().invoke(main, [str(word) for word in words])

    return call


@pytest.fixture
def environment(search_path: list[str]) -> dict[str, str]:
    """The environment for a `vbox` process."""
    before = os.environ.get("PYTHONPATH")
    path = [*search_path, *([before] if before else [])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path), "COLUMNS": "120"}


@pytest.fixture
def started(environment: dict[str, str]) -> Iterator[Started]:
    """`started(*words, stdin=...)` is a `vbox` process that goes on, at most to the end of the test."""
    with contextlib.ExitStack() as stack:

        def call(*words: object, **options: Any) -> subprocess.Popen[Any]:
            command = [sys.executable, "-m", "vbox_vmm", *map(str, words)]
            child = stack.enter_context(subprocess.Popen(command, env=environment, **options))
            stack.callback(child.kill)
            return child

        yield call


@pytest.fixture
def process(environment: dict[str, str]) -> Process:
    """`process(*words, input=...)` is a `vbox` process run to its end."""

    def call(*words: object, input: str = "", timeout: float = 60) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "vbox_vmm", *map(str, words)],
            env=environment,
            input=input,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    return call
