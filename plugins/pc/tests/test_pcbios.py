"""Firmware: the ROM at both places, and what CMOS says."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vbox_pdm import ConfigError, PdmError
from vbox_pdm.testing import Bench
from vbox_plugin_pc import pcbios

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
NAME = "bios-256k.bin"


def image(size: int) -> bytes:
    return random.Random(size).randbytes(size)


def board(data: bytes, *, ram: int = 16 * MIB, name: str = NAME, **values: Any) -> Bench:
    bench = Bench(ram=ram, files={name: data})
    bench.add("mc146818")
    bench.add("pcbios", config=values)
    bench.power_on()
    return bench


def cmos(bench: Bench, index: int) -> int:
    port = 0x70 if index < 0x80 else 0x72
    bench.port_write(port, 1, index)
    return bench.port_read(port + 1)


def word(bench: Bench, index: int, length: int = 2) -> int:
    return sum(cmos(bench, index + n) << 8 * n for n in range(length))


@pytest.mark.parametrize("size", [64 * KIB, 128 * KIB, 192 * KIB, 256 * KIB, 16 * MIB])
def test_pcbios_image_ends_at_4_gib_and_at_1_mib(size: int) -> None:
    data = image(size)
    bench = board(data)
    assert bench.memory_read((4 << 30) - size, size) == data
    low = min(size, 128 * KIB)
    assert bench.memory_read(MIB - low, low) == data[-low:]
    assert bench.memory_read(MIB - low - 16, 16) == b"\xff" * 16
    assert bench.mmio_read(0xFFFFFFF0, 4) == int.from_bytes(data[-16:-12], "little")


def test_pcbios_rom_cannot_be_written() -> None:
    data = image(256 * KIB)
    bench = board(data)
    for address in (0xFFFC0000, 0xFFFFFFFC, 0xE0000, 0xFFFFC):
        bench.mmio_write(address, 4, 0x12345678)
    assert bench.memory_read(0xFFFC0000, 256 * KIB) == data
    assert bench.memory_read(0xE0000, 128 * KIB) == data[-128 * KIB :]


def test_pcbios_shadowing_hides_the_low_copy_until_reset() -> None:
    data = image(256 * KIB)
    bench = Bench(files={NAME: data})
    for device in ("mc146818", "i440fx", "pcbios"):
        bench.add(device)
    bench.pci_write(0, 0, 0x59, 1, 0x30)
    bench.mmio_write(0xFFFF0, 4, 0x12345678)
    assert bench.mmio_read(0xFFFF0) == 0x12345678
    assert bench.memory_read(0xFFFFFFF0, 4) == data[-16:-12]
    bench.reset()
    assert bench.memory_read(0xF0000, 0x10000) == data[-0x10000:]


@pytest.mark.parametrize("size", [1, 64 * KIB - 1, 64 * KIB + 512, 96 * KIB])
def test_pcbios_impossible_size_is_refused_with_size_and_file(size: int) -> None:
    with pytest.raises(ConfigError, match=f"impossible size of {size} bytes") as caught:
        board(image(size), name="/roms/odd.bin", bios_rom="/roms/odd.bin")
    assert "/roms/odd.bin" in str(caught.value)
    assert "64 KiB to 16 MiB" in caught.value.remedy


def test_pcbios_too_large_or_missing_image_is_refused() -> None:
    with pytest.raises(PdmError):
        board(bytes(16 * MIB + 64 * KIB))
    with pytest.raises(PdmError, match=r"none\.bin"):
        board(image(64 * KIB), bios_rom="none.bin")


@pytest.mark.parametrize(
    ("ram", "extended", "above_16m"),
    [
        (1 * MIB, 0, 0),
        (4 * MIB, 3072, 0),
        (16 * MIB, 15360, 0),
        (17 * MIB, 16384, 16),
        (256 * MIB, 0xFFFF, 3840),
        (3072 * MIB, 0xFFFF, 48896),
    ],
)
def test_pcbios_cmos_tells_memory_below_4_gib(ram: int, extended: int, above_16m: int) -> None:
    bench = board(image(64 * KIB), ram=ram)
    assert word(bench, 0x15) == 640
    assert word(bench, 0x17) == word(bench, 0x30) == extended
    assert word(bench, 0x34) == above_16m
    assert word(bench, 0x5B, 3) == word(bench, 0x61, 5) == 0


@pytest.mark.parametrize("above", [1 * MIB, GIB, 60 * GIB, 2**40 * 2])
def test_pcbios_cmos_tells_memory_above_4_gib(above: int) -> None:
    found = pcbios.cmos_bytes(pcbios.Config(), 3 * GIB + above, 3 * GIB)
    units = above // (64 * KIB)
    assert sum(found[0x61 + n] << 8 * n for n in range(5)) == units
    assert sum(found[0x5B + n] << 8 * n for n in range(3)) == min(units, 0xFFFFFF)
    assert found[0x34] | found[0x35] << 8 == 48896


def test_pcbios_boot_order_is_where_firmware_reads_it() -> None:
    order: dict[str, Any] = {
        "boot_device0": "cdrom",
        "boot_device1": "disk",
        "boot_device2": "net",
        "boot_device3": "floppy",
    }
    bench = board(image(64 * KIB), **order)
    assert (cmos(bench, 0x3D), cmos(bench, 0x38), cmos(bench, 0x3C)) == (0x23, 0x40, 0x01)
    bench = board(image(64 * KIB), check_floppy_signature=False)
    assert (cmos(bench, 0x3D), cmos(bench, 0x38), cmos(bench, 0x3C)) == (0x32, 0x11, 0x00)


@pytest.mark.parametrize(
    ("drives", "types", "equipment"),
    [
        ({}, 0x00, 0x06),
        ({"floppy0": "1.44M"}, 0x40, 0x07),
        ({"floppy0": "2.88M", "floppy1": "360K"}, 0x51, 0x47),
    ],
)
def test_pcbios_floppies_and_equipment(drives: dict[str, Any], types: int, equipment: int) -> None:
    bench = board(image(64 * KIB), **drives)
    assert (cmos(bench, 0x10), cmos(bench, 0x14)) == (types, equipment)


def test_pcbios_cpus_and_translation() -> None:
    bench = board(image(64 * KIB), cpus=8, translation="rechs")
    assert (cmos(bench, 0x5F), cmos(bench, 0x60)) == (7, 8)
    assert word(bench, 0x39) == 0xFFFF
    assert word(board(image(64 * KIB)), 0x39) == 0x5555


@settings(max_examples=15, deadline=None)
@given(
    ram=st.integers(1, 300),
    drives=st.lists(st.sampled_from(list(pcbios.FLOPPY_TYPES)), min_size=2, max_size=2),
)
def test_pcbios_checksum_is_right(ram: int, drives: list[str]) -> None:
    bench = board(image(64 * KIB), ram=ram * MIB, floppy0=drives[0], floppy1=drives[1])
    total = sum(cmos(bench, index) for index in range(0x10, 0x2E))
    assert cmos(bench, 0x2E) << 8 | cmos(bench, 0x2F) == total


def test_pcbios_cmos_that_a_guest_wrote_survives_reset() -> None:
    bench = board(image(64 * KIB))
    bench.port_write(0x70, 1, 0x3D)
    bench.port_write(0x71, 1, 0x04)
    bench.reset()
    assert cmos(bench, 0x3D) == 0x04


def test_pcbios_info_names_file_and_order() -> None:
    bench = board(image(256 * KIB), boot_device1="none")
    text = bench.info("pcbios#0")
    assert text == "bios-256k.bin, 256 KiB, at 0xfffc0000\nboot order: disk, floppy"
