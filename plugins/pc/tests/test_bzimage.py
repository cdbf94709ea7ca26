"""Linux kernels for the option ROM: headers, placement, what the firmware device is given."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vbox_pdm import PdmError
from vbox_pdm.testing import Bench
from vbox_plugin_pc import bzimage, fwcfg_items, linuxboot

MIB = 1 << 20


def kernel(
    *,
    version: int = 0x020F,
    sects: int = 4,
    size: int = 0x4000,
    alignment: int = 0x200000,
    relocatable: bool = True,
    preferred: int = 0x1000000,
    init_size: int = 0x800000,
    initrd_max: int = 0x7FFFFFFF,
    line_max: int = 2047,
    loadflags: int = 1,
) -> bytes:
    """A bzImage with recognisable bytes for code."""
    setup_size = ((sects or 4) + 1) * 512
    data = bytearray(b"\x5a" * setup_size + bytes(n * 7 & 0xFF for n in range(size)))
    data[0x1F1] = sects
    struct.pack_into("<I", data, 0x1F4, size // 16)
    struct.pack_into("<H", data, 0x1FA, 0xFFFF)
    data[0x1FE:0x200] = b"\x55\xaa"
    data[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", data, 0x206, version)
    data[0x210], data[0x211] = 0, loadflags
    struct.pack_into("<I", data, 0x22C, initrd_max)
    struct.pack_into("<I", data, 0x230, alignment)
    data[0x234] = relocatable
    struct.pack_into("<I", data, 0x238, line_max)
    struct.pack_into("<QI", data, 0x258, preferred, init_size)
    return bytes(data)


def made(data: bytes, initrd: bytes = b"", line: str = "", ram: int = 64 * MIB) -> dict[int, Any]:
    return bzimage.items(bzimage.parse(data, "vmlinuz"), initrd, line, ram_below_4g=ram)


def number(content: Any) -> int:
    return int.from_bytes(content, "little")


def test_bzimage_items_are_the_parts_of_the_file() -> None:
    data = kernel()
    items = made(data, b"initrd!", "quiet")
    assert bytes(items[fwcfg_items.KERNEL_DATA]) == data[0xA00:]
    assert number(items[fwcfg_items.KERNEL_SIZE]) == 0x4000
    assert number(items[fwcfg_items.KERNEL_ADDRESS]) == 0x100000
    assert items[fwcfg_items.INITRD_DATA] == b"initrd!"
    assert number(items[fwcfg_items.INITRD_SIZE]) == 7
    assert items[fwcfg_items.CMDLINE_DATA] == b"quiet\0"
    assert number(items[fwcfg_items.CMDLINE_SIZE]) == 6
    assert number(items[fwcfg_items.CMDLINE_ADDRESS]) == 0x1E000
    assert number(items[fwcfg_items.SETUP_ADDRESS]) == 0x10000
    assert number(items[fwcfg_items.SETUP_SIZE]) == len(items[fwcfg_items.SETUP_DATA]) == 0xA00


def test_bzimage_large_parts_are_not_copied() -> None:
    data, initrd = kernel(), bytes(100)
    items = made(data, initrd)
    assert items[fwcfg_items.KERNEL_DATA].obj is data
    assert items[fwcfg_items.INITRD_DATA] is initrd


def test_bzimage_setup_differs_only_where_a_loader_writes() -> None:
    data = kernel()
    items = made(data, bytes(5000), "vga=0x317")
    setup = items[fwcfg_items.SETUP_DATA]
    assert setup[0x210] == 0xFF
    assert setup[0x211] == 0x81
    assert struct.unpack_from("<H", setup, 0x224) == (0xDE00,)
    assert struct.unpack_from("<I", setup, 0x228) == (0x1E000,)
    assert struct.unpack_from("<II", setup, 0x218) == (number(items[fwcfg_items.INITRD_ADDRESS]), 5000)
    assert struct.unpack_from("<H", setup, 0x1FA) == (0x317,)
    changed = {at for at in range(len(setup)) if setup[at] != data[at]}
    assert changed <= {0x1FA, 0x1FB, 0x210, 0x211, *range(0x218, 0x220), 0x224, 0x225, *range(0x228, 0x22C)}


def test_bzimage_setup_sects_of_zero_means_four() -> None:
    assert bzimage.parse(kernel(sects=0), "k").setup_size == 5 * 512
    assert bzimage.parse(kernel(sects=39), "k").setup_size == 40 * 512


@pytest.mark.parametrize(
    ("line", "mode"),
    [
        ("", None), ("quiet vgax=1 xvga=2", None), ("vga=ask", 0xFFFD), ("a vga=ext b", 0xFFFE),
        ("vga=normal", 0xFFFF), ("vga=791", 791), ("vga=1 vga=0x305", 0x305), ("vga=nonsense", None),
    ],
)  # fmt: skip
def test_bzimage_vga_is_for_the_loader(line: str, mode: int | None) -> None:
    assert bzimage.video_mode(line) == mode


@pytest.mark.parametrize(
    ("line", "limit"),
    [
        ("", 1 << 64), ("mem=64M", 64 * MIB), ("x mem=0x2000000 y", 32 * MIB), ("mem=1g mem=48m", 48 * MIB),
        ("mem=010k", 8 << 10), ("memory=5", 1 << 64), ("xmem=5", 1 << 64), ("mem=5x", 1 << 64),
    ],
)  # fmt: skip
def test_bzimage_mem_limits(line: str, limit: int) -> None:
    assert bzimage.memory_limit(line) == limit


@settings(max_examples=100, deadline=None)
@given(
    size=st.integers(1, 200 * MIB),
    ram=st.integers(24, 3072),
    top=st.sampled_from([0x37FFFFFF, 0x7FFFFFFF, 0xFFFFFFFF]),
)
def test_bzimage_initrd_lies_behind_the_kernel_and_below_all_limits(size: int, ram: int, top: int) -> None:
    parsed = bzimage.parse(kernel(initrd_max=top), "k")
    assert parsed.start_end == 0x1800000
    try:
        at = bzimage._place_initrd(parsed, size, ram * MIB, "", "i")
    except PdmError as error:
        assert min(ram * MIB - MIB, top + 1) - size < 0x1800000 + 4096
        assert error.remedy  # noqa: PT017
        return
    assert at % 4096 == 0
    assert at >= 0x1800000
    assert at + size <= min(ram * MIB - MIB, top + 1) < at + size + 4096


def test_bzimage_initrd_respects_mem() -> None:
    items = made(kernel(), bytes(MIB), "mem=40M", ram=256 * MIB)
    assert number(items[fwcfg_items.INITRD_ADDRESS]) == 39 * MIB
    with pytest.raises(PdmError, match="does not fit between the kernel"):
        made(kernel(), bytes(MIB), "mem=24M", ram=256 * MIB)


@pytest.mark.parametrize(
    ("values", "end"),
    [
        ({}, 0x1800000),
        ({"preferred": 0x100000, "alignment": 0x400000}, 0xC00000),
        ({"relocatable": False, "preferred": 0x100000}, 0x900000),
        ({"version": 0x0204}, 0x104000),
    ],
)
def test_bzimage_memory_while_it_starts(values: dict[str, Any], end: int) -> None:
    assert bzimage.parse(kernel(**values), "k").start_end == end


def test_bzimage_old_protocols_have_defaults() -> None:
    parsed = bzimage.parse(kernel(version=0x0202, initrd_max=1, line_max=1), "k")
    assert (parsed.initrd_max, parsed.command_line_max) == (0x37FFFFFF, 255)


ELF = b"\x7fELF" + bytes(2000)
MULTIBOOT = bytes(0x40) + b"\x02\xb0\xad\x1b" + bytes(2000)


@pytest.mark.parametrize(
    ("data", "words", "remedy"),
    [
        (b"", "no setup header", "bzImage"),
        (bytes(5000), "no setup header", "--firmware none"),
        (ELF, "ELF or multiboot", "--firmware none"),
        (MULTIBOOT, "ELF or multiboot", "--firmware none"),
        (kernel()[:0x250], "cut off", "again"),
        (kernel()[:-16], "cut off", "again"),
        (kernel()[:0x900], "cut off", "again"),
        (kernel(loadflags=0), "zImage", "bzImage"),
        (kernel(version=0x0201), r"2\.01 is too old", "bzImage"),
        (kernel(sects=64), "setup code", "32 KiB"),
    ],
)
def test_bzimage_what_is_none_is_refused(data: bytes, words: str, remedy: str) -> None:
    with pytest.raises(PdmError, match=words) as caught:
        bzimage.parse(data, "the file k")
    assert "the file k" in caught.value.message
    assert remedy in caught.value.remedy


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=0x70), st.integers(0x1F0, 0x264), st.integers(0, 0x5000))
def test_bzimage_damaged_headers_give_an_error_or_a_kernel(junk: bytes, at: int, length: int) -> None:
    data = bytearray(kernel())
    data[at : at + len(junk)] = junk
    try:
        parsed = bzimage.parse(bytes(data[:length]), "k")
        bzimage.items(parsed, b"x", "y", ram_below_4g=64 * MIB)
    except PdmError:
        pass


def test_bzimage_too_long_command_line_is_refused() -> None:
    made(kernel(line_max=20), line="x" * 20)
    for line in ("x" * 21, "\u00e9" * 11, "a\0b"):
        with pytest.raises(PdmError, match="takes 20"):
            made(kernel(line_max=20), line=line)


def test_bzimage_too_little_memory_names_what_is_needed() -> None:
    with pytest.raises(PdmError, match="VERR_NO_MEMORY") as caught:
        made(kernel(), ram=16 * MIB)
    assert "24 MiB" in caught.value.remedy
    with pytest.raises(PdmError, match="initrd") as caught:
        made(kernel(), bytes(40 * MIB), ram=64 * MIB)
    assert "66 MiB" in caught.value.remedy
    made(kernel(), bytes(40 * MIB), ram=66 * MIB)


# --- through the device


def item(bench: Bench, selector: int, length: int) -> bytes:
    bench.port_write(0x510, 2, selector)
    return bytes(bench.port_read(0x511) for _ in range(length))


def test_fwcfg_kernel_comes_with_its_rom_first_in_the_boot_order() -> None:
    bench = Bench(ram=64 * MIB, files={"k": kernel(), "i": b"initrd"})
    device = bench.add("qemu-fw-cfg", kernel="k", initrd="i", append="quiet", boot_order="HALT")
    assert device.names == ["bootorder", "etc/boot-fail-wait", "etc/e820", "genroms/linuxboot.bin"]
    assert item(bench, 0x20, 32) == b"/rom@genroms/linuxboot.bin\nHALT\0"
    assert item(bench, 0x23, 2048)[: len(linuxboot.rom())] == linuxboot.rom()
    assert item(bench, fwcfg_items.CMDLINE_DATA, 6) == b"quiet\0"
    assert item(bench, fwcfg_items.INITRD_DATA, 7) == b"initrd\0"
    descriptor = struct.pack(">IIQ", fwcfg_items.KERNEL_DATA << 16 | 0x0A, 0x4000, 0x100000)
    bench.memory_write(0x1000, descriptor)
    bench.port_write(0x518, 4, 0x00100000)
    assert bench.memory_read(0x1000, 4) == bytes(4)
    assert bench.memory_read(0x100000, 0x4000) == kernel()[0xA00:]


def test_fwcfg_what_is_no_kernel_is_refused() -> None:
    bench = Bench(files={"k": MULTIBOOT})
    with pytest.raises(PdmError, match="--firmware none"):
        bench.add("qemu-fw-cfg", kernel="k")
