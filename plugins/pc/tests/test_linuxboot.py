"""The option ROM that starts Linux: the image that is kept, and its source."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from vbox_pdm import optionrom
from vbox_plugin_pc import linuxboot
from vbox_plugin_pc.linuxboot import build

needs_binutils = pytest.mark.skipif(
    any(shutil.which(tool) is None for tool in ("as", "ld", "objcopy")), reason="there are no binutils"
)


@needs_binutils
def test_linuxboot_image_is_what_its_source_gives() -> None:
    assert build.build() == linuxboot.rom(), "run python -m vbox_plugin_pc.linuxboot.build"


@needs_binutils
def test_linuxboot_build_depends_on_the_source_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "a folder with another name"
    folder.mkdir()
    copy = folder / "other.S"
    copy.write_bytes(build.SOURCE.read_bytes())
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1")
    monkeypatch.chdir(folder)
    assert build.build(copy) == linuxboot.rom()


@needs_binutils
def test_linuxboot_build_writes_where_it_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "rom.bin"
    assert build.main([str(target)]) == 0
    assert target.read_bytes() == linuxboot.rom()
    assert str(target) in capsys.readouterr().out


def test_linuxboot_image_is_an_option_rom_with_a_bootstrap_entry() -> None:
    rom = linuxboot.rom()
    (image,) = optionrom.check(rom)
    assert image.size == len(rom) <= 2048
    assert image.pci is None
    assert image.pnp is not None
    assert image.pnp.valid
    assert image.pnp.boot_connection == 0
    assert 0x40 <= image.pnp.bootstrap_entry < len(rom)


def test_linuxboot_names_are_those_of_its_header() -> None:
    rom = linuxboot.rom()
    maker, product = (int.from_bytes(rom[at : at + 2], "little") for at in (0x2E, 0x30))
    assert rom[maker:].split(b"\0")[0] == b"vbox-vmm"
    assert rom[product:].split(b"\0")[0] == b"Linux loader (fw_cfg)"
