"""For tests of the kernel that build a whole machine and do not care what its firmware does."""

from __future__ import annotations

from pathlib import Path

import pytest

from vbox_pdm import optionrom


@pytest.fixture
def any_firmware(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with images that halt, where firmware is looked for: none need be installed."""
    folder = tmp_path_factory.mktemp("firmware")
    (folder / "bios-256k.bin").write_bytes(b"\xf4" * (256 << 10))
    rom = optionrom.with_checksum(optionrom.padded(b"\x55\xaa\x00\xcb"))
    (folder / "vgabios-stdvga.bin").write_bytes(rom)
    monkeypatch.setenv("VBOX_FIRMWARE_PATH", str(folder))
    return folder
