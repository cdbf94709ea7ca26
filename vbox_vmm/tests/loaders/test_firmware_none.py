"""Set-up without firmware: BARs, interrupt routing, tables."""

from __future__ import annotations

import struct

from hypothesis import given, settings
from hypothesis import strategies as st
from loader_fakes import FakeBoard, FakeMemory

from vbox_pdm import Mmio, Ports
from vbox_vmm.loaders import firmware_none, pir

MIB = 1 << 20


def make_board() -> FakeBoard:
    board = FakeBoard()
    bridge = board.add(0, vendor=0x8086, device_id=0x1237, class_code=0x060000, pin=0)
    bridge.custom(0x59, bytes(7), b"\x33" * 7)
    isa = board.add(1, vendor=0x8086, device_id=0x7000, class_code=0x060100, pin=0, multifunction=True)
    isa.custom(0x60, b"\x80" * 4, b"\x8f" * 4)
    return board


def test_bars_are_assigned_aligned_and_decoded() -> None:
    board = make_board()
    board.add(3, bars=[Mmio("regs", 0x20000), Ports("io", 0x40), Mmio("table", 0x1000)])

    firmware_none.set_up(FakeMemory(), board)

    assert board.mapped == {"regs": 0xC0000000, "io": 0xC000, "table": 0xC0020000}
    assert board.functions[3, 0].config_read(4, 2) & 7 == 3


def test_interrupt_lines_router_and_edge_level_register_agree() -> None:
    board = make_board()
    board.add(3)
    board.add(5, pin=2)

    functions = firmware_none.set_up(FakeMemory(), board)

    isa = board.functions[1, 0]
    assert [isa.config_read(0x60 + n, 1) for n in range(4)] == [11, 10, 9, 11]
    # slot 3 INTA# is PIRQC, slot 5 INTB# is PIRQB
    assert board.functions[3, 0].config_read(0x3C, 1) == 9
    assert board.functions[5, 0].config_read(0x3C, 1) == 10
    assert (0x4D1, 0x0E) in board.written
    assert [f.line for f in functions] == [None, None, 9, 10]


def test_ide_controller_decodes_its_channels() -> None:
    board = make_board()
    ide = board.add(1, function=1, vendor=0x8086, device_id=0x7010, class_code=0x010180, pin=0)
    ide.custom(0x40, bytes(4), b"\xff\xf3\xff\xf3")
    ide.custom(4, b"\0\0", b"\x05\0")

    firmware_none.set_up(FakeMemory(), board)

    assert ide.config_read(0x40, 4) == 0x8000_8000
    assert ide.config_read(4, 2) & 1


def test_pam_ends_as_ram_with_a_read_only_f_segment() -> None:
    board = make_board()

    firmware_none.set_up(FakeMemory(), board)

    assert board.functions[0, 0].config_read(0x59, 1) == 0x10
    assert board.functions[0, 0].config_read(0x5F, 1) == 0x33


def test_tables_are_where_guests_look_for_them() -> None:
    board, memory = make_board(), FakeMemory()
    board.add(3)

    firmware_none.set_up(memory, board)

    table = memory.read(0xF0000, 48)
    assert table[:4] == b"$PIR"
    assert sum(table) & 0xFF == 0
    assert memory.read(0x413, 2) == b"\x7f\x02"
    assert memory.read(0x40E, 2) == b"\xc0\x9f"
    assert memory.read(0xFFF53, 1) == b"\xcf"
    assert memory.read(4 * 0x10, 4) == b"\x53\xff\x00\xf0"


def test_board_without_pci_is_left_alone() -> None:
    board, memory = FakeBoard(), FakeMemory()

    assert firmware_none.set_up(memory, board) == []
    assert memory.read(0xF0000, 4) == bytes(4)


def test_wide_bar_goes_above_ram_when_the_hole_is_full() -> None:
    board = make_board()
    board.add(3, bars=[Mmio("huge", 2 << 30)], wide=True)

    firmware_none.set_up(FakeMemory(1 << 30, high=1 << 30), board)

    assert board.mapped["huge"] == 6 << 30


def test_bar_without_room_stays_unassigned_and_the_rest_works() -> None:
    board = make_board()
    board.add(3, bars=[Mmio("huge", 2 << 30), Mmio("small", 0x1000)])

    firmware_none.set_up(FakeMemory(), board)

    assert board.mapped["small"] == 0xC0000000
    assert board.functions[3, 0].config_read(0x10, 4) == 0


def test_set_up_twice_gives_the_same() -> None:
    board, memory = make_board(), FakeMemory()
    board.add(3, bars=[Mmio("regs", 0x20000)])

    first = firmware_none.set_up(memory, board)
    for function in board.functions.values():
        function.reset()
    second = firmware_none.set_up(memory, board)

    assert first == second


sizes = st.lists(st.tuples(st.booleans(), st.integers(0, 12)), max_size=6)


@settings(deadline=None)
@given(st.lists(sizes, max_size=12))
def test_assigned_ranges_are_aligned_and_never_overlap(wanted: list[list[tuple[bool, int]]]) -> None:
    board = make_board()
    regions: dict[str, tuple[bool, int]] = {}
    for slot, bars in enumerate(wanted):
        made = []
        for number, (io, shift) in enumerate(bars):
            name, size = f"{slot}.{number}", 4 << min(shift, 6) if io else 4096 << shift
            regions[name] = (io, size)
            made.append(Ports(name, size) if io else Mmio(name, size))
        board.add(2 + slot, bars=made)

    firmware_none.set_up(FakeMemory(), board)

    taken: dict[bool, list[tuple[int, int]]] = {False: [], True: []}
    for name, (io, size) in regions.items():
        address = board.mapped[name]
        assert address % size == 0
        assert all(address + size <= a or b <= address for a, b in taken[io])
        taken[io].append((address, address + size))


@settings(deadline=None)
@given(st.sets(st.integers(0, 31)))
def test_pir_table_is_sound_for_any_slots(slots: set[int]) -> None:
    table = pir.build(slots)

    assert sum(table) & 0xFF == 0
    signature, version, size, bus, router, _, vendor, device = struct.unpack_from("<4sHHBBHHH", table)
    assert (signature, version, size) == (b"$PIR", 0x0100, len(table))
    assert (bus, router, vendor, device) == (0, 8, 0x8086, 0x7000)
    assert [table[32 + 16 * n + 1] >> 3 for n in range(len(slots))] == sorted(slots)
    for n, slot in enumerate(sorted(slots)):
        links = [table[32 + 16 * n + 2 + 3 * pin] for pin in range(4)]
        assert links == [0x60 + (slot + pin - 1) % 4 for pin in range(4)]
