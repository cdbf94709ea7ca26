"""The firmware configuration device: ports and DMA against a plain model, items, files."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from vbox_pdm import ConfigError, PdmError
from vbox_pdm.optionrom import padded, with_checksum
from vbox_pdm.testing import Bench
from vbox_plugin_pc import fwcfg, fwcfg_items

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
HOLE = 0xA0000
"""With 1 MiB of RAM, this is where it ends."""
BIG = bytes(range(251)) * 40
FILES = {"big.bin": BIG, "one.bin": b"\x42", "empty.bin": b""}
CONFIG = {"files": "opt/big=big.bin;opt/one=one.bin;opt/empty=empty.bin", "texts": "opt/text=hello"}


def board(ram: int = MIB, host: dict[str, bytes] | None = None, **values: object) -> Bench:
    bench = Bench(ram=ram, files=FILES if host is None else host)
    bench.add("qemu-fw-cfg", config=values or CONFIG)
    return bench


def item(bench: Bench, number: int, length: int) -> bytes:
    bench.port_write(0x510, 2, number)
    return bytes(bench.port_read(0x511) for _ in range(length))


def listing(bench: Bench) -> dict[str, tuple[int, int]]:
    """name -> (number, size), in the order of the directory."""
    (count,) = struct.unpack(">I", item(bench, 0x19, 4))
    raw = item(bench, 0x19, 4 + 64 * count)
    found = {}
    for at in range(4, len(raw), 64):
        size, number, reserved, name = struct.unpack_from(">IHH56s", raw, at)
        assert reserved == 0
        found[name.rstrip(b"\0").decode()] = (number, size)
    return found


def file(bench: Bench, name: str) -> bytes:
    number, size = listing(bench)[name]
    return item(bench, number, size)


def dma(bench: Bench, address: int, control: int, length: int, target: int) -> int:
    """Run a descriptor; its control word afterwards."""
    bench.memory_write(address, struct.pack(">IIQ", control, length, target))
    bench.port_write(0x514, 4, swapped(address >> 32))
    bench.port_write(0x518, 4, swapped(address & 0xFFFFFFFF))
    return int.from_bytes(bench.memory_read(address, 4), "big")


def swapped(value: int) -> int:
    return int.from_bytes(value.to_bytes(4, "big"), "little")


# --- items


def test_fwcfg_fixed_items_have_their_layout() -> None:
    bench = board(ram=64 * MIB, uuid="01234567-89ab-cdef-0123-456789abcdef", cpus=3, boot_menu=True)
    for number, content in (
        (0x00, b"QEMU"), (0x01, b"\3\0\0\0"), (0x02, bytes.fromhex("0123456789abcdef" * 2)),
        (0x03, struct.pack("<Q", 64 * MIB)), (0x04, b"\0\0"), (0x05, b"\3\0"), (0x0D, bytes(8 + 24)),
        (0x0E, b"\1\0"), (0x0F, b"\3\0"), (0x8000, b"\0\0"), (0x8001, b"\0\0"), (0x8002, b"\1\0\0\0"),
        (0x8003, b"\0\0\0\0"), (0x8004, b"\0"),
    ):  # fmt: skip
        assert item(bench, number, len(content) + 3) == content + b"\0\0\0", hex(number)


def test_fwcfg_directory_is_sorted_and_files_follow_from_20h() -> None:
    bench = board()
    names = ["etc/boot-fail-wait", "etc/e820", "opt/big", "opt/empty", "opt/one", "opt/text"]
    found = listing(bench)
    assert list(found) == names
    assert [number for number, _ in found.values()] == list(range(0x20, 0x20 + len(names)))
    assert file(bench, "opt/big") == BIG
    assert file(bench, "opt/empty") == b""
    assert file(bench, "opt/text") == b"hello"


@pytest.mark.parametrize(
    ("values", "name", "content"),
    [
        ({}, "etc/boot-fail-wait", b"\xff\xff\xff\xff"),
        ({"boot_fail_wait": 1500}, "etc/boot-fail-wait", b"\xdc\x05\0\0"),
        ({"boot_menu_wait": 300}, "etc/boot-menu-wait", b"\x2c\x01"),
        ({"boot_order": "/rom@genroms/x.bin|/pci@i0cf8/*@1,1|HALT"}, "bootorder",
         b"/rom@genroms/x.bin\n/pci@i0cf8/*@1,1\nHALT\0"),
    ],
)  # fmt: skip
def test_fwcfg_boot_keys_become_files(values: dict[str, Any], name: str, content: bytes) -> None:
    assert file(board(host={}, cpus=1, **values), name) == content


def test_fwcfg_keys_left_out_make_no_files() -> None:
    bench = board(host={}, boot_fail_wait=None)
    assert list(listing(bench)) == ["etc/e820"]


@pytest.mark.parametrize(
    ("size", "below", "entries"),
    [
        (MIB, MIB, [(0, MIB, 1)]),
        (3 * GIB, 3 * GIB, [(0, 3 * GIB, 1)]),
        (3 * GIB + MIB, 3 * GIB, [(0, 3 * GIB, 1), (4 * GIB, MIB, 1)]),
        (2048 * GIB, 3 * GIB, [(0, 3 * GIB, 1), (4 * GIB, 2045 * GIB, 1)]),
    ],
)
def test_fwcfg_e820_leaves_the_hole_out(size: int, below: int, entries: list[tuple[int, int, int]]) -> None:
    assert list(struct.iter_unpack("<QQI", fwcfg_items.e820(size, below))) == entries


def test_fwcfg_e820_is_that_of_the_machine() -> None:
    assert file(board(ram=3584 * MIB), "etc/e820") == fwcfg_items.e820(3584 * MIB, 3 * GIB)


ROM = with_checksum(padded(b"\x55\xaa\0\xcb" + bytes(60)))


def test_fwcfg_option_rom_is_checked() -> None:
    bench = Bench(files={"x.rom": ROM, "bad.rom": ROM[:-1] + b"\1"})
    bench.add("qemu-fw-cfg", config={"files": "genroms/x.rom=x.rom;opt/any=bad.rom"})
    assert file(bench, "genroms/x.rom") == ROM
    for folder in ("genroms", "vgaroms"):
        with pytest.raises(PdmError, match=r"bad\.rom is no option ROM"):
            Bench(files={"bad.rom": ROM[:-1] + b"\1"}).add(
                "qemu-fw-cfg", config={"files": f"{folder}/x=bad.rom"}
            )


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"files": "opt/x"}, "the piece 'opt/x'"),
        ({"texts": "opt/x="}, "the piece 'opt/x='"),
        ({"texts": "opt/x=1;opt/x=2"}, "'opt/x' already"),
        ({"texts": "etc/e820=1"}, "'etc/e820' already"),
        ({"texts": f"opt/{'x' * 52}=1"}, "no name for a firmware file"),
        ({"texts": "opt/\u00e9=1"}, "no name for a firmware file"),
        ({"texts": "=1"}, "no name for a firmware file"),
        ({"files": "opt/x=missing.bin"}, r"missing\.bin"),
        ({"uuid": "12"}, "no UUID"),
        ({"append": "quiet"}, "no kernel"),
        ({"initrd": "one.bin"}, "no kernel"),
        ({"boot_fail_wait": 0x10000}, "boot_fail_wait"),
        ({"cpus": 0}, "cpus"),
    ],
)
def test_fwcfg_wrong_configuration_is_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(PdmError, match=words) as caught:
        board(**values)
    assert caught.value.remedy


def test_fwcfg_longest_name_is_taken() -> None:
    name = "opt/" + "x" * 51
    assert file(board(texts=f"{name}=1"), name) == b"1"
    with pytest.raises(ConfigError):
        fwcfg_items.check_name(name + "x")


# --- DMA


def test_fwcfg_dma_signature_reads_at_any_width() -> None:
    bench = board()
    assert bytes(bench.port_read(0x514 + n) for n in range(8)) == b"QEMU CFG"
    assert bench.port_read(0x514, 4) == int.from_bytes(b"QEMU", "little")
    assert bench.port_read(0x51A, 2) == int.from_bytes(b"FG", "little")


def test_fwcfg_dma_reads_skips_and_fills_with_zeros() -> None:
    bench = board()
    number, _ = listing(bench)["opt/big"]
    bench.memory_write(0x2000, b"\xee" * 0x4000)
    assert dma(bench, 0x1000, number << 16 | 0x0A, 100, 0x2000) == 0
    assert bench.memory_read(0x2000, 101) == BIG[:100] + b"\xee"
    assert dma(bench, 0x1000, 0x04, 900, 0) == 0
    assert dma(bench, 0x1000, 0x02, 10, 0x3000) == 0
    assert bench.memory_read(0x3000, 10) == BIG[1000:1010]
    assert dma(bench, 0x1000, 0x04, 0xFFFFFFFF, 0) == 0
    assert dma(bench, 0x1000, 0x02, 16, 0x3000) == 0
    assert bench.memory_read(0x3000, 17) == bytes(16) + BIG[1010:1010] + b"\xee"


def test_fwcfg_dma_write_is_refused() -> None:
    bench = board()
    assert dma(bench, 0x1000, 0x18 | 0x20 << 16, 4, 0x2000) == 1
    assert dma(bench, 0x1000, 0x18 | 0x20 << 16, 0, 0x2000) == 0


def test_fwcfg_dma_address_is_zero_again_after_a_transfer() -> None:
    bench = board()
    bench.memory_write(0x1000, struct.pack(">IIQ", 0x0A, 4, 0x2000))
    bench.port_write(0x514, 4, swapped(1))
    bench.port_write(0x518, 4, swapped(0x1000))  # 4 GiB + 0x1000: no descriptor there
    assert bench.memory_read(0x1000, 4) == b"\0\0\0\x0a"
    bench.port_write(0x518, 4, swapped(0x1000))
    assert bench.memory_read(0x1000, 4) == bytes(4)
    assert bench.memory_read(0x2000, 4) == b"QEMU"


@pytest.mark.parametrize("target", [0, 0x500, HOLE - 16, HOLE, MIB, 0xFFFFFFF0, 2**64 - 8])
def test_fwcfg_dma_of_4_gib_ends_with_memory(target: int) -> None:
    bench = board()
    assert dma(bench, 0x100, 0x0A | 0x20 << 16, 0xFFFFFFFF, target) == 1
    assert dma(bench, 0x100, 0x0A, 4, 0x400) == 0  # and it goes on working
    assert bench.memory_read(0x400, 4) == b"QEMU"


def test_fwcfg_dma_fills_all_of_large_memory() -> None:
    bench = board(ram=8 * MIB)
    bench.memory_write(MIB, b"\xee" * (7 * MIB))
    number, _ = listing(bench)["opt/one"]
    assert dma(bench, 0x100, number << 16 | 0x0A, 6 * MIB + 3, MIB) == 0
    assert bench.memory_read(MIB, 6 * MIB + 4) == b"\x42" + bytes(6 * MIB + 2) + b"\xee"


# --- against a model


class Model:
    """What the specification says, byte by byte, over 1 MiB of RAM."""

    def __init__(self, items: dict[int, bytes]) -> None:
        self.items = items
        self.memory = bytearray(HOLE)
        self.high = 0
        self.select(0)

    def select(self, selector: int) -> None:
        self.data = self.items.get(selector & 0xBFFF, b"")
        self.at = 0

    def take(self, count: int) -> bytes:
        part = self.data[self.at : self.at + count]
        self.at = min(self.at + count, len(self.data))
        return part.ljust(count, b"\0")

    def read(self, port: int, size: int) -> int:
        if (port, size) == (0x511, 1):
            return self.take(1)[0]
        if (port == 0x510 and size <= 2) or (size == 1 and not 0x514 <= port <= 0x51B):
            return (1 << 8 * size) - 1
        if 0x514 <= port <= port + size - 1 <= 0x51B:
            return int.from_bytes(b"QEMU CFG"[port - 0x514 :][:size], "little")
        return sum(self.read(port + n, 1) << 8 * n for n in range(size))

    def write(self, port: int, size: int, value: int) -> None:
        if (port, size) == (0x510, 2):
            self.select(value)
        elif (port, size) == (0x514, 4):
            self.high = swapped(value)
        elif (port, size) == (0x518, 4):
            address, self.high = self.high << 32 | swapped(value), 0
            self.transfer(address)

    def transfer(self, address: int) -> None:
        done = 1
        if address + 16 <= HOLE:
            control, length, target = struct.unpack_from(">IIQ", self.memory, address)
            if control & 8:
                self.select(control >> 16)
            done = 0
            if control & 2:
                done = self.read_into(target, length)
            elif control & 16:
                done = int(length > 0)
            elif control & 4:
                self.at = min(self.at + length, len(self.data))
        self.put(address, done.to_bytes(4, "big"))

    def read_into(self, target: int, length: int) -> int:
        piece = min(length, MIB)  # more than the RAM of this machine has
        self.put(target, self.take(piece))
        return int(target + piece > HOLE and length > 0)

    def put(self, address: int, data: bytes) -> None:
        part = data[: max(0, HOLE - address)]
        self.memory[address : address + len(part)] = part


addresses = st.one_of(
    st.integers(0, 0x80), st.integers(HOLE - 0x40, HOLE + 0x10), st.sampled_from([0xC0000, 0xFFFFFFF8, 2**40])
)
selectors = st.one_of(st.integers(0, 0x26), st.integers(0x8000, 0x8005), st.integers(0, 0xFFFF))
lengths = st.one_of(st.integers(0, 80), st.sampled_from([10040, 0x20000, 0xFFFFFFFF]))
operations = st.one_of(
    st.tuples(st.just("select"), selectors),
    st.tuples(st.just("read"), st.integers(0x50E, 0x51D), st.sampled_from([1, 2, 4])),
    st.tuples(
        st.just("write"), st.integers(0x50E, 0x51D), st.sampled_from([1, 2, 4]), st.integers(0, 2**32 - 1)
    ),
    st.tuples(st.just("bytes"), st.integers(1, 40)),
    st.tuples(
        st.just("dma"), addresses, selectors, st.integers(0, 0x1F), lengths, addresses
    ),
)  # fmt: skip


def apply(bench: Bench, operation: tuple[Any, ...]) -> Any:
    match operation:
        case ("select", selector):
            bench.port_write(0x510, 2, selector)
        case ("read", port, size):
            return bench.port_read(port, size)
        case ("write", port, size, value):
            bench.port_write(port, size, value & (1 << 8 * size) - 1)
        case ("bytes", count):
            return bytes(bench.port_read(0x511) for _ in range(count))
        case ("dma", address, selector, control, length, target):
            dma(bench, address, selector << 16 | control, length, target)
    return None


def follow(model: Model, operation: tuple[Any, ...]) -> Any:
    match operation:
        case ("select", selector):
            model.select(selector)
        case ("read", port, size):
            return model.read(port, size)
        case ("write", port, size, value):
            model.write(port, size, value & (1 << 8 * size) - 1)
        case ("bytes", count):
            return model.take(count)
        case ("dma", address, selector, control, length, target):
            model.put(address, struct.pack(">IIQ", selector << 16 | control, length, target))
            model.high = address >> 32
            model.write(0x518, 4, swapped(address & 0xFFFFFFFF))
    return None


def contents(bench: Bench) -> dict[int, bytes]:
    """All items, as the data port gives them; sizes are those of the directory and the specification."""
    device = bench.instance("qemu-fw-cfg#0").object
    return {number: item(bench, number, len(content)) for number, content in device.items.items()}


ITEMS = contents(board())


@settings(max_examples=120, deadline=None)
@given(st.lists(operations, max_size=25))
@example([("dma", 0x10, 0x22, 0x0A, 64, 0x08), ("bytes", 8)])  # over its own descriptor
@example([("dma", HOLE - 8, 0, 0x0A, 4, 0), ("read", 0x511, 1)])  # a descriptor half in the hole
def test_fwcfg_behaves_like_the_model(script: list[tuple[Any, ...]]) -> None:
    bench, model = board(), Model(ITEMS)
    for operation in script:
        assert apply(bench, operation) == follow(model, operation)
    assert bench.memory_read(0, 0x8000) == model.memory[:0x8000]
    assert bench.memory_read(HOLE - 0x8000, 0x8000) == model.memory[-0x8000:]


@settings(max_examples=40, deadline=None)
@given(st.lists(operations, max_size=12), st.lists(operations, max_size=12))
def test_fwcfg_saved_state_goes_on_identically(before: list[Any], after: list[Any]) -> None:
    first, second = board(), board()
    for operation in before:
        apply(first, operation)
    second.load(first.save())
    for operation in after:
        assert apply(first, operation) == apply(second, operation)
    assert first.save()["qemu-fw-cfg#0"] == second.save()["qemu-fw-cfg#0"]


@pytest.mark.parametrize(
    "state",
    [
        fwcfg.FwCfgState(selector=0x22, offset=10**12, dma_high=0),
        fwcfg.FwCfgState(selector=-1, offset=-5, dma_high=-1),
        fwcfg.FwCfgState(selector=10**9, offset=3, dma_high=2**70),
    ],
)
def test_fwcfg_state_made_by_hand_is_clamped(state: fwcfg.FwCfgState) -> None:
    bench = board()
    device = bench.instance("qemu-fw-cfg#0").object
    device.pdm_load(state)
    assert bench.port_read(0x511) == 0 or state.offset < 0
    bench.port_write(0x518, 4, swapped(0x1000))
    assert item(bench, 0, 4) == b"QEMU"


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 20_000), st.booleans()), max_size=6))
def test_fwcfg_string_reads_are_so_many_single_ones(reads: list[tuple[int, bool]]) -> None:
    device = board().instance("qemu-fw-cfg#0").object
    device.select(0x22)
    expected = BIG + bytes(200_000)
    at = 0
    for count, single in reads:
        if single:
            data = bytes([device.read(1, 1)])
        else:
            data = device.read_string(1, 1, count + 1)
            assert 0 < len(data) <= count + 1
        assert data == expected[at : at + len(data)]
        at += len(data)
    assert device.read_string(0, 2, 5) == device.read_string(0, 1, 5) == b""


def test_fwcfg_reset_selects_the_signature() -> None:
    bench = board()
    item(bench, 0x22, 5)
    bench.port_write(0x514, 4, 0x12345678)
    bench.reset()
    assert bytes(bench.port_read(0x511) for _ in range(4)) == b"QEMU"
    bench.memory_write(0x1000, struct.pack(">IIQ", 0x0A, 4, 0x2000))
    bench.port_write(0x518, 4, swapped(0x1000))
    assert bench.memory_read(0x2000, 4) == b"QEMU"


def test_fwcfg_info_lists_files() -> None:
    text = board().info("qemu-fw-cfg#0")
    assert text is not None
    assert "opt/big: 10040 bytes" in text
