"""The Linux loader: headers of every kind, placement, the zero page, and the Debian kernel."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from loader_fakes import FakeMemory

from vbox_pdm.errors import PdmError
from vbox_vmm.loaders import linux

MIB = 1 << 20


def make_kernel(
    *, version: int = 0x020F, payload: int = 0x8000, xloadflags: int = 1, relocatable: int = 1,
    alignment: int = 0x200000, preferred: int = 16 * MIB, init_size: int = 8 * MIB,
    initrd_max: int = 0x7FFFFFFF, line_max: int = 2047, setup_sects: int = 3, loadflags: int = 1,
) -> bytes:  # fmt: skip
    setup = bytearray(((setup_sects or 4) + 1) * 512)
    setup[0x1F1] = setup_sects
    struct.pack_into("<I", setup, 0x1F4, payload // 16)
    setup[0x1FE:0x202] = b"\x55\xaa\xeb\x6a"
    setup[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", setup, 0x206, version)
    setup[0x211] = loadflags
    struct.pack_into("<I", setup, 0x22C, initrd_max)
    struct.pack_into("<IBB", setup, 0x230, alignment, relocatable, 21)
    struct.pack_into("<HI", setup, 0x236, xloadflags, line_max)
    struct.pack_into("<QI", setup, 0x258, preferred, init_size)
    return bytes(setup) + bytes(range(256)) * (payload // 256)


@pytest.fixture
def kernel(tmp_path: Path) -> Path:
    path = tmp_path / "vmlinuz"
    path.write_bytes(make_kernel())
    return path


def test_load_64bit_kernel_enters_at_0x200_with_identity_tables(kernel: Path) -> None:
    memory = FakeMemory()

    state = linux.load(memory, kernel, command_line="console=ttyS0")

    assert state.rip == 16 * MIB + 0x200
    assert (state.cr0 >> 31, state.cr4 & 0x20, state.efer) == (1, 0x20, 0x500)
    assert (state.cs.selector, state.cs.attributes) == (0x10, 0x00A09B00)
    assert (state.ss.selector, state.ss.limit) == (0x18, 0xFFFFFFFF)
    assert state.gpr[6] == linux.ZERO_PAGE
    assert state.rflags == 2
    assert memory.read(16 * MIB, 0x8000) == kernel.read_bytes()[2048:]
    assert memory.read(linux.COMMAND_LINE, 14) == b"console=ttyS0\0"
    pml4 = struct.unpack("<Q", memory.read(state.cr3, 8))[0]
    pdpt = struct.unpack("<4Q", memory.read(pml4 & ~0xFFF, 32))
    entry = struct.unpack("<Q", memory.read((pdpt[3] & ~0xFFF) + 8 * 511, 8))[0]
    assert entry == 0xFFE00000 | 0x83


def test_load_without_long_mode_enters_the_32bit_way(kernel: Path) -> None:
    memory = FakeMemory()

    state = linux.load(memory, kernel, long_mode=False)

    assert state.rip == 16 * MIB
    assert (state.cr0, state.efer, state.cs.attributes) == (0x11, 0, 0x00C09B00)
    assert [state.gpr[n] for n in (3, 5, 7)] == [0, 0, 0]
    descriptors = struct.unpack("<4Q", memory.read(state.gdtr[0], 32))
    assert descriptors[2:] == (0x00CF9B000000FFFF, 0x00CF93000000FFFF)


def test_load_fills_in_the_zero_page(kernel: Path) -> None:
    memory = FakeMemory(256 * MIB, high=512 * MIB)

    linux.load(memory, kernel)

    page = memory.read(linux.ZERO_PAGE, 4096)
    assert page[0x202:0x206] == b"HdrS"
    assert page[0x210] == 0xFF
    assert struct.unpack_from("<I", page, 0x228) == (linux.COMMAND_LINE,)
    assert page[0x1EF] == 0  # the sentinel: the loader cleared the page
    entries = [struct.unpack_from("<QQI", page, 0x2D0 + 20 * n) for n in range(page[0x1E8])]
    assert entries == [
        (0, 0x9FC00, 1),
        (0x9FC00, 0x400, 2),
        (0xF0000, 0x10000, 2),
        (MIB, 255 * MIB, 1),
        (1 << 32, 512 * MIB, 1),
    ]


def test_load_puts_the_initrd_as_high_as_the_kernel_reaches(tmp_path: Path) -> None:
    kernel, initrd = tmp_path / "k", tmp_path / "i"
    kernel.write_bytes(make_kernel(initrd_max=0x37FFFFF))
    initrd.write_bytes(b"initrd" * 1000)
    memory = FakeMemory()

    linux.load(memory, kernel, initrd)

    at, size = struct.unpack("<II", memory.read(linux.ZERO_PAGE + 0x218, 8))
    assert size == 6000
    assert at == (0x3800000 - 6000) & ~0xFFF
    assert memory.read(at, size) == initrd.read_bytes()


def test_initrd_stays_below_what_mem_leaves(tmp_path: Path, kernel: Path) -> None:
    initrd = tmp_path / "i"
    initrd.write_bytes(bytes(5000))
    memory = FakeMemory()

    linux.load(memory, kernel, initrd, "quiet mem=64M")

    at = struct.unpack("<I", memory.read(linux.ZERO_PAGE + 0x218, 4))[0]
    assert at + 5000 <= 64 * MIB


def test_kernel_goes_lower_when_ram_ends_before_its_preferred_place(kernel: Path) -> None:
    state = linux.load(FakeMemory(16 * MIB), kernel, long_mode=False)

    assert state.rip == 2 * MIB


def test_kernel_that_cannot_be_moved_loads_at_one_mib(tmp_path: Path) -> None:
    kernel = tmp_path / "k"
    kernel.write_bytes(make_kernel(relocatable=0, xloadflags=0))

    assert linux.load(FakeMemory(), kernel).rip == MIB


@pytest.mark.parametrize(
    ("ram", "initrd", "words"),
    [
        (4 * MIB, 0, "The kernel"),
        (25 * MIB, 2 * MIB, "The initrd"),
    ],
)
def test_load_too_big_for_memory_names_the_file_and_the_remedy(
    tmp_path: Path, kernel: Path, ram: int, initrd: int, words: str
) -> None:
    path = tmp_path / "initrd"
    path.write_bytes(bytes(initrd))

    with pytest.raises(PdmError) as caught:
        linux.load(FakeMemory(ram), kernel, path if initrd else None)

    assert caught.value.status == "VERR_NO_MEMORY"
    assert words in caught.value.message
    assert "--memory" in caught.value.remedy
    megabytes = int(caught.value.remedy.split()[-1])
    linux.load(FakeMemory(megabytes * MIB), kernel, path if initrd else None)  # the remedy helps


def test_initrd_out_of_the_kernels_reach_says_so(tmp_path: Path) -> None:
    kernel, initrd = tmp_path / "k", tmp_path / "i"
    kernel.write_bytes(make_kernel(initrd_max=26 * MIB))
    initrd.write_bytes(bytes(4 * MIB))

    with pytest.raises(PdmError, match=r"VERR_NO_MEMORY.*smaller initrd"):
        linux.load(FakeMemory(), kernel, initrd)


def test_command_line_longer_than_the_kernel_takes_is_refused(kernel: Path) -> None:
    with pytest.raises(PdmError, match=r"2048 bytes.*2047.*VERR_OUT_OF_RANGE"):
        linux.load(FakeMemory(), kernel, command_line="x" * 2048)


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"version": 0x0201}, "VERR_BAD_EXE_FORMAT"),
        ({"loadflags": 0}, "VERR_BAD_EXE_FORMAT"),
        ({"alignment": 0x300000}, "VERR_BAD_EXE_FORMAT"),
    ],
)
def test_parse_refuses_what_cannot_be_entered(change: dict[str, int], status: str) -> None:
    with pytest.raises(PdmError) as caught:
        linux.parse_header(make_kernel(**change), "vmlinuz")

    assert caught.value.status == status
    assert "vmlinuz" in caught.value.message
    assert caught.value.remedy


def test_setup_sects_of_zero_means_four() -> None:
    header = linux.parse_header(make_kernel(setup_sects=0), "k")

    assert header.setup_size == 5 * 512


def test_old_protocol_gets_the_defaults_of_its_time() -> None:
    header = linux.parse_header(make_kernel(version=0x0202), "k")

    assert (header.initrd_max, header.command_line_max) == (0x37FFFFFF, 255)
    assert not header.relocatable
    assert not header.is_64bit


@settings(deadline=None)
@given(st.integers(0, 0x8800 - 1))
def test_every_truncated_kernel_is_refused(length: int) -> None:
    image = make_kernel()
    assert len(image) == 0x8800

    with pytest.raises(PdmError) as caught:
        linux.parse_header(image[:length], "vmlinuz")

    assert caught.value.status in ("VERR_INVALID_EXE_SIGNATURE", "VERR_BAD_EXE_FORMAT")


@settings(deadline=None)
@given(st.binary(max_size=2048))
def test_random_files_are_refused(data: bytes) -> None:
    with pytest.raises(PdmError, match="is no Linux kernel"):
        linux.parse_header(data, "noise")


@settings(deadline=None)
@given(st.integers(0, 0x290), st.integers(0, 255))
def test_damaged_headers_never_raise_anything_else(at: int, value: int) -> None:
    image = bytearray(make_kernel())
    image[at] = value

    try:
        header = linux.parse_header(bytes(image), "k")
        linux.place_kernel(header, FakeMemory(), "k")
    except PdmError:
        pass


@pytest.mark.parametrize(
    ("line", "limit"),
    [
        ("", 1 << 64),
        ("mem=64M", 64 * MIB),
        ("a mem=0x4000000 b", 64 * MIB),
        ("mem=65536k mem=1G", 1 << 30),
        ("memmap=1M", 1 << 64),
        ("mem=017K", 15 << 10),
    ],
)
def test_memory_limit_reads_mem(line: str, limit: int) -> None:
    assert linux.memory_limit(line) == limit


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(PdmError, match=r"nowhere.*VERR_FILE_NOT_FOUND"):
        linux.load(FakeMemory(), tmp_path / "nowhere")


def debian_kernels() -> list[Path]:
    cache = Path(os.environ.get("VBOX_CACHE") or Path(__file__).parents[3] / ".cache")
    return sorted(cache.glob("packages/linux-image-*/boot/vmlinuz-*"))  # not what is just being unpacked


@pytest.mark.skipif(not debian_kernels(), reason="no Debian kernel here; scripts/packages.py fetches one")
def test_debian_kernel_is_placed_whole_and_truncation_is_noticed() -> None:
    path = debian_kernels()[0]
    image = path.read_bytes()
    header = linux.parse_header(image, path.name)
    memory = FakeMemory()

    state = linux.load(memory, path, command_line="console=ttyS0")

    assert header.is_64bit
    assert header.setup_size + header.protected_size <= len(image)
    address = state.rip - 0x200
    assert memory.read(address, header.protected_size) == image[header.setup_size :][: header.protected_size]
    with pytest.raises(PdmError, match="cut off"):
        linux.parse_header(image[: header.setup_size + header.protected_size - 1], path.name)
