"""A device of somebody else: built as a wheel, installed, listed, used by a guest, removed again.

The environment sees our own packages through a .pth file, so that installing into it and removing
from it touches nothing else.
"""

from __future__ import annotations

import json
import sysconfig
from pathlib import Path

import guests
import pytest
from machines import ROOT, make_venv, run

DOORBELL = ROOT / "examples" / "doorbell"
BROKEN = {
    "pyproject.toml": """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "vbox-plugin-broken"
version = "0.1"
dependencies = ["vbox-pdm>=1.0,<2"]
[project.entry-points."vbox.plugins"]
broken = "vbox_plugin_broken"
""",
    "vbox_plugin_broken.py": "import a_module_that_nobody_has\n",
}
FUTURE = {
    "pyproject.toml": BROKEN["pyproject.toml"].replace("broken", "future").replace(">=1.0,<2", ">=7.0"),
    "vbox_plugin_future.py": "raise SystemExit('a plugin for another contract was imported')\n",
}


@pytest.fixture
def venv(tmp_path: Path) -> Path:
    """An environment with `vbox` and our plugins, into which a test may install more."""
    python = make_venv(tmp_path / "venv")
    site = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    ours = sysconfig.get_path("purelib")
    Path(site, "vbox.pth").write_text(f"import site; site.addsitedir({ours!r})\n")
    return python


def plugins(python: Path) -> dict[str, dict[str, str]]:
    """`vbox plugins --json`, by name."""
    return {row["name"]: row for row in json.loads(run(python, "-m", "vbox_vmm", "plugins", "--json"))}


def build(python: Path, project: Path, folder: Path) -> Path:
    """The wheel of a project."""
    run(python, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, project)
    return next(folder.glob("*.whl"))


def ring(python: Path, *more: str, status: int = 0) -> str:
    """Boot the tiny guest, ring the doorbell three times, count its interrupts, power off."""
    tiny = guests.tiny()
    words = [
        "run", "--firmware", "none", "--kernel", str(tiny.kernel), "--memory", "16", "--timeout", "60",
        "--device", "doorbell,io_base=0x520,irq=10", "--device", "isa-debug-exit", *more,
        "--expect", tiny.prompt, "--type", "ack 10 0x520\\n",
        "--expect", tiny.prompt, "--type", "unmask 10\\n",
    ]  # fmt: skip
    for value in ("0x41", "0x42", "0x43"):
        words += ["--expect", tiny.prompt, "--type", f"out 0x520 {value}\\n"]
    words += ["--expect", tiny.prompt, "--type", "in 0x521\\n"]
    words += ["--expect", tiny.prompt, "--type", "irqs\\n", "--expect", "spurious"]
    return run(python, "-m", "vbox_vmm", *words, status=status)


def test_third_party_device_installed_is_listed_used_and_gone_when_removed(
    venv: Path, tmp_path: Path
) -> None:
    before = plugins(venv)
    wheel = build(venv, DOORBELL, tmp_path / "wheels")
    run(venv, "-m", "pip", "install", "-q", "--no-deps", wheel)
    installed = plugins(venv)
    output = ring(venv)
    run(venv, "-m", "pip", "uninstall", "-q", "-y", "vbox-plugin-doorbell")
    after = plugins(venv)
    refused = ring(venv, status=1)

    assert "doorbell" not in before
    assert installed["doorbell"]["distribution"] == "vbox-plugin-doorbell"
    assert installed["doorbell"]["state"] == "loaded"
    assert "0x03" in output  # the guest read how often it rang
    assert " 10:3 " in output  # and took three interrupts
    assert after == before
    assert "VERR_PDM_DEVICE_NOT_FOUND" in refused
    assert "Traceback" not in refused


def test_broken_wheels_are_listed_with_reason_and_disturb_nothing(venv: Path, tmp_path: Path) -> None:
    for name, files in (("broken", BROKEN), ("future", FUTURE)):
        project = tmp_path / name
        project.mkdir()
        for path, text in files.items():
            (project / path).write_text(text)
        wheel = build(venv, project, tmp_path / f"{name}-wheels")
        run(venv, "-m", "pip", "install", "-q", "--no-deps", wheel)
    run(venv, "-m", "pip", "install", "-q", "--no-deps", build(venv, DOORBELL, tmp_path / "wheels"))

    listed = plugins(venv)
    output = ring(venv)

    assert listed["broken"]["state"] == listed["future"]["state"] == "unusable"
    assert "a_module_that_nobody_has" in json.dumps(listed["broken"])
    assert "pip install" in json.dumps(listed["broken"])
    assert "7.0" in json.dumps(listed["future"])
    assert " 10:3 " in output


def test_third_party_doorbell_own_tests_pass_on_the_contract_alone(tmp_path: Path) -> None:
    python = make_venv(tmp_path / "venv")
    run(python, "-m", "pip", "install", "-q", f"{ROOT / 'vbox_pdm'}[testing]", DOORBELL)

    output = run(python, "-m", "pytest", "-p", "no:cacheprovider", DOORBELL / "tests", "-c", "/dev/null")

    assert "4 passed" in output
