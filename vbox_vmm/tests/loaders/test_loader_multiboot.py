"""The multiboot loader: ELF and a.out kludge, modules, the information structure."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from loader_fakes import FakeMemory

from vbox_pdm.errors import PdmError
from vbox_vmm.loaders import multiboot

MIB = 1 << 20
CODE = bytes(range(1, 65))


def make_header(flags: int) -> bytes:
    return struct.pack("<III", 0x1BADB002, flags, -(0x1BADB002 + flags) & 0xFFFFFFFF)


def make_elf(*, flags: int = 3, address: int = MIB, virtual: int | None = None, bss: int = 0x100) -> bytes:
    virtual = address if virtual is None else virtual
    body = make_header(flags) + CODE
    elf = b"\x7fELF\x01\x01\x01" + bytes(9)
    elf += struct.pack("<HHIIIIIHHHHHH", 2, 3, 1, virtual + 12, 52, 0, 0, 52, 32, 1, 0, 0, 0)
    elf += struct.pack("<8I", 1, 84, virtual, address, len(body), len(body) + bss, 7, 4096)
    return elf + body


def make_kludge(*, first: int = 2 * MIB, load_end: int | None = None, bss_end: int = 0) -> bytes:
    flags = 1 << 16
    size = 16 + 32 + len(CODE)
    end = first + size if load_end is None else load_end
    header = make_header(flags) + struct.pack("<5I", first + 16, first, end, bss_end, first + 48)
    return bytes(8) + bytes(16) + header + CODE  # the image begins 8 bytes into the file


def load(tmp_path: Path, image: bytes, *modules: multiboot.Module, line: str = "", ram: int = 64 * MIB):  # type: ignore[no-untyped-def]
    path = tmp_path / "kernel"
    path.write_bytes(image)
    memory = FakeMemory(ram)
    return memory, multiboot.load(memory, path, modules, line)


def text_at(memory: FakeMemory, at: int) -> str:
    return memory.read(at, 200).split(b"\0")[0].decode()


def test_elf_kernel_is_loaded_with_its_bss_cleared(tmp_path: Path) -> None:
    memory, state = load(tmp_path, make_elf())

    assert memory.read(MIB, 12 + 64) == make_header(3) + CODE
    assert memory.read(MIB + 76, 0x100) == bytes(0x100)
    assert state.rip == MIB + 12
    assert (state.gpr[0], state.cr0, state.cs.attributes, state.rflags) == (0x2BADB002, 0x11, 0x00C09B00, 2)


def test_elf_entry_counts_from_its_segment_when_addresses_differ(tmp_path: Path) -> None:
    _, state = load(tmp_path, make_elf(address=MIB, virtual=0xC0100000))

    assert state.rip == MIB + 12


def test_kludge_kernel_goes_where_its_header_says(tmp_path: Path) -> None:
    memory, state = load(tmp_path, make_kludge(bss_end=2 * MIB + 0x1000))

    assert memory.read(2 * MIB + 48, 64) == CODE
    assert memory.read(2 * MIB + 112, 16) == bytes(16)
    assert state.rip == 2 * MIB + 48


def test_kludge_without_load_end_takes_the_whole_file(tmp_path: Path) -> None:
    memory, _ = load(tmp_path, make_kludge(load_end=0))

    assert memory.read(2 * MIB + 48, 64) == CODE


def test_information_holds_map_modules_texts_and_loader(tmp_path: Path) -> None:
    first, second = tmp_path / "one", tmp_path / "two"
    first.write_bytes(b"module one")
    second.write_bytes(b"2" * 5000)

    memory, state = load(
        tmp_path, make_elf(), multiboot.Module(first, "a=1"), multiboot.Module(second), line="debug"
    )

    info = memory.read(state.gpr[3], 120)
    flags, lower, upper, device, line, count, mods = struct.unpack_from("<7I", info)
    assert (flags, lower, upper, device) == (0x24F, 639, 63 * 1024, 0x80FFFFFF)
    assert text_at(memory, line) == f"{tmp_path}/kernel debug"
    assert count == 2
    entries = [struct.unpack("<4I", memory.read(mods + 16 * n, 16)) for n in range(2)]
    assert memory.read(entries[0][0], 10) == b"module one"
    assert text_at(memory, entries[0][2]) == f"{first} a=1"
    assert (entries[1][1] - entries[1][0], entries[1][0] % 4096) == (5000, 0)
    length, at = struct.unpack_from("<II", info, 44)
    ranges = [struct.unpack("<IQQI", memory.read(at + 24 * n, 24)) for n in range(length // 24)]
    assert ranges == [
        (20, 0, 0x9FC00, 1),
        (20, 0x9FC00, 0x400, 2),
        (20, 0xF0000, 0x10000, 2),
        (20, MIB, 63 * MIB, 1),
    ]
    assert text_at(memory, struct.unpack_from("<I", info, 64)[0]) == "vbox-vmm"


@pytest.mark.parametrize(
    ("image", "status", "words"),
    [
        (make_elf(flags=7), "VERR_NOT_SUPPORTED", "video mode"),
        (make_elf(flags=3 | 8), "VERR_NOT_SUPPORTED", "0x8"),
        (b"\x7fELF" + bytes(9000), "VERR_INVALID_EXE_SIGNATURE", "no multiboot kernel"),
        (make_header(3) + CODE, "VERR_BAD_EXE_FORMAT", "no ELF"),
        (make_elf().replace(b"ELF\x01", b"ELF\x02"), "VERR_BAD_EXE_FORMAT", "no 32-bit x86 ELF"),
    ],
)
def test_what_cannot_be_done_is_refused_with_a_remedy(image: bytes, status: str, words: str) -> None:
    with pytest.raises(PdmError) as caught:
        multiboot.parse(image, "k")

    assert caught.value.status == status
    assert words in caught.value.message
    assert caught.value.remedy


@pytest.mark.parametrize("address", [0xA0000, 0x9F000, 63 * MIB + 0xFFFF0])
def test_kernel_outside_of_free_ram_is_refused(tmp_path: Path, address: int) -> None:
    with pytest.raises(PdmError):
        load(tmp_path, make_elf(address=address, bss=0x2000))


def test_module_too_big_for_memory_is_named(tmp_path: Path) -> None:
    module = tmp_path / "big"
    module.write_bytes(bytes(4 * MIB))

    with pytest.raises(PdmError, match=r"big.*VERR_NO_MEMORY.*--memory"):
        load(tmp_path, make_elf(), multiboot.Module(module), ram=4 * MIB)


@settings(deadline=None)
@given(st.integers(0, len(make_elf()) - 1))
def test_every_truncated_elf_is_refused(length: int) -> None:
    with pytest.raises(PdmError):
        multiboot.parse(make_elf()[:length], "k")


@settings(deadline=None)
@given(st.integers(0, len(make_kludge()) - 1))
def test_every_truncated_kludge_kernel_is_refused(length: int) -> None:
    with pytest.raises(PdmError):
        multiboot.parse(make_kludge()[:length], "k")


@settings(deadline=None)
@given(st.integers(0, len(make_elf()) - 1), st.integers(0, 255))
def test_damaged_kernels_never_raise_anything_else(at: int, value: int) -> None:
    image = bytearray(make_elf())
    image[at] = value

    try:
        multiboot.parse(bytes(image), "k")
    except PdmError:
        pass
