"""How REM announces itself, and what it says where it cannot run."""

from __future__ import annotations

import mmap
import platform
import subprocess
import sys
from importlib import metadata

import pytest

from vbox_pdm.engine import EngineType
from vbox_vmm import rem
from vbox_vmm.rem import probe


def test_registration_announces_both_engines_the_native_one_preferred() -> None:
    types: list[EngineType] = []

    rem.vbox_register_engines(types.append)

    types.sort(key=lambda t: t.preference, reverse=True)
    assert [(t.name, t.usable()) for t in types] == [("rem", None), ("rem-portable", None)]


def test_import_loads_neither_unicorn_nor_the_native_module() -> None:
    code = "import sys, vbox_vmm.rem; print([m for m in sys.modules if 'unicorn' in m or '_native' in m])"

    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": ":".join(sys.path)},
    )

    assert done.stdout.strip() == "[]"


def test_other_unicorn_version_is_refused_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "version", lambda name: "2.0.1")

    reason = probe.usable.__wrapped__()

    assert reason is not None
    assert "2.0.1" in reason
    assert "pip install" in reason


def test_missing_unicorn_is_refused_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", version)

    assert "unicorn==2.1.4" in (probe.usable.__wrapped__() or "")


def test_other_platform_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")

    assert "aarch64" in (probe.usable.__wrapped__() or "")


def test_missing_native_module_is_told_with_the_remedy_and_what_takes_its_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    find_spec = probe.importlib.util.find_spec
    monkeypatch.setattr(
        probe.importlib.util, "find_spec", lambda name: None if "_native" in name else find_spec(name)
    )

    reason = probe.usable.__wrapped__() or ""

    assert "compiler" in reason
    assert "rem-portable" in reason
    assert probe.usable.__wrapped__("rem-portable") is None


@pytest.mark.parametrize("name", ["rem", "rem-portable"])
def test_host_that_forbids_executable_memory_is_told_so(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object, prot: int) -> None:
        assert prot & mmap.PROT_EXEC
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(probe.mmap, "mmap", forbidden)

    reason = probe.usable.__wrapped__(name) or ""

    assert "machine code" in reason
    assert "Permission denied" in reason
    assert "SELinux" in reason


def test_library_that_is_not_as_expected_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def fast_stores(name: str) -> bool:
        raise RuntimeError("unicorn's structures are not where they should be: CPUState.uc")

    monkeypatch.setattr(probe, "fast_stores", fast_stores)

    assert "CPUState.uc" in (probe.usable.__wrapped__() or "")


def test_guest_without_fast_stores_is_right_too(engine: str) -> None:
    from rem_guest import Guest

    guest = Guest(engine=engine)
    guest.rem.close()
    guest.rem = type(guest.rem).create(
        guest.host, rem.CpuModel(translation_buffer=1 << 20), fast_stores=False
    )
    guest.rem.map_ram(0, guest.ram.size, guest.ram.address, guest.ram.address)
    # mov ecx, 1000 / inc qword [8000] / dec ecx / jnz
    guest.long_mode(bytes.fromhex("b9e8030000 48ff042500800000 ffc9 75f4 f4"))

    guest.halt()

    assert guest.ram.u64(0x8000) == 1000
    guest.close()
