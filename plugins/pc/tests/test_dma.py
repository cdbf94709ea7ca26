"""The DMA controllers: blocks moved by a device, registers, priorities, memory to memory."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vbox_pdm import Device, DeviceType
from vbox_pdm.testing import Bench
from vbox_plugin_pc import dma

READ, WRITE, VERIFY = 0x48, 0x44, 0x40  # single mode, by what happens to memory
AUTO, DOWN = 0x10, 0x20
PAGES = (0x87, 0x83, 0x81, 0x82, 0x8F, 0x8B, 0x89, 0x8A)


class Peer(Device):
    """A device on channels: keeps what it reads, sends `outgoing`, `step` bytes in a call."""

    wanted: tuple[int, ...] = (2,)

    def pdm_construct(self) -> None:
        self.step = 1 << 20
        self.received = {n: bytearray() for n in self.wanted}
        self.outgoing = {n: bytes(range(256)) * 1024 for n in self.wanted}
        self.calls: list[tuple[int, int, int]] = []
        self.channels = {n: self.helpers.dma_channel(n, self.mover(n)) for n in self.wanted}

    def mover(self, number: int):
        def move(position: int, length: int) -> int:
            self.calls.append((number, position, length))
            channel = self.channels[number]
            size = min(self.step, length - position)
            if channel.mode() & 0x0C == 0x08:
                self.received[number] += channel.read_memory(position, size)
            else:
                channel.write_memory(position, self.outgoing[number][position : position + size])
            if position + size == length:
                channel.request(False)
            return position + size

        return move


class Machine:
    def __init__(self, *channels: int, **config: object) -> None:
        self.bench = Bench(ram=4 << 20)
        self.bench.plugin(dma)
        self.dma = self.bench.add("i8237", **config)
        peer = type("Peer", (Peer,), {"wanted": channels})
        self.peer = self.bench.add(DeviceType("peer", peer))
        self.bench.power_on()

    def out(self, port: int, value: int) -> None:
        self.bench.port_write(port, 1, value)

    def read(self, port: int) -> int:
        return self.bench.port_read(port, 1)

    def port(self, channel: int, register: int) -> int:
        """A control register (8..15) of the channel's controller."""
        return 0xC0 + 2 * register if channel >= 4 else register

    def program(self, channel: int, address: int, units: int, mode: int, unmask: bool = True) -> None:
        word = channel >= 4
        self.out(self.port(channel, 10), 4 | channel & 3)
        self.out(self.port(channel, 12), 0)
        self.out(self.port(channel, 11), mode | channel & 3)
        offset = address >> 1 & 0xFFFF if word else address & 0xFFFF
        base = 0xC0 + 4 * (channel & 3) if word else 2 * channel
        for port, value in ((base, offset), (base + (2 if word else 1), units - 1)):
            self.out(port, value & 0xFF)
            self.out(port, value >> 8)
        self.out(PAGES[channel], address >> 16 & 0xFF)
        if unmask:
            self.out(self.port(channel, 10), channel & 3)

    def word(self, port: int) -> int:
        """An address or count register."""
        self.out(0xD8 if port >= 0xC0 else 0x0C, 0)
        return self.read(port) | self.read(port) << 8

    def request(self, channel: int, level: bool = True) -> None:
        self.peer.channels[channel].request(level)
        self.bench.advance(0)


def test_dma_device_to_memory_fills_the_block_and_reaches_terminal_count() -> None:
    m = Machine(2)
    m.program(2, 0x21000, 512, WRITE)
    m.request(2)
    assert m.bench.memory_read(0x21000, 513) == bytes(range(256)) * 2 + b"\0"
    assert m.read(0x08) & 0x04
    assert not m.read(0x08) & 0x0F  # reading it cleared it
    assert m.read(0x0F) & 0x04  # masked again
    assert m.word(0x05) == 0xFFFF
    assert m.word(0x04) == 0x1200


def test_dma_memory_to_device_in_pieces_shows_the_current_count() -> None:
    m = Machine(1)
    m.bench.memory_write(0x30000, bytes(range(200)))
    m.peer.step = 50
    m.program(1, 0x30000, 200, READ)
    m.peer.channels[1].request(True)
    m.bench.advance(0)
    assert bytes(m.peer.received[1]) == bytes(range(200))
    assert [call[1] for call in m.peer.calls] == [0, 50, 100, 150]


def test_dma_request_is_served_after_the_device_s_own_access() -> None:
    m = Machine(1)
    m.program(1, 0x30000, 16, READ)
    m.peer.channels[1].request(True)
    assert m.peer.calls == []
    m.bench.advance(0)
    assert m.peer.calls == [(1, 0, 16)]


def test_dma_device_that_pauses_goes_on_where_it_was() -> None:
    m = Machine(3)
    m.peer.step = 10
    m.program(3, 0x10000, 30, WRITE)
    original = m.peer.channels[3].transfer
    m.peer.channels[3].transfer = lambda position, length: (
        m.peer.channels[3].request(False) or original(position, length)
    )
    for expected in (19, 9, 0xFFFF):
        m.request(3)
        assert m.word(0x07) == expected
    assert m.bench.memory_read(0x10000, 30) == bytes(range(30))


def test_dma_words_move_in_words_across_128_kib() -> None:
    m = Machine(5)
    m.program(5, 0x3FFF0, 16, WRITE)  # word address 0xFFF8 of page 2: it wraps to 0x20000
    m.request(5)
    assert m.bench.memory_read(0x3FFF0, 16) == bytes(range(16))
    assert m.bench.memory_read(0x20000, 16) == bytes(range(16, 32))
    assert m.peer.calls == [(5, 0, 32)]


def test_dma_bytes_wrap_within_64_kib() -> None:
    m = Machine(2)
    m.program(2, 0x2FFFC, 8, WRITE)
    m.request(2)
    assert m.bench.memory_read(0x2FFFC, 4) == bytes(range(4))
    assert m.bench.memory_read(0x20000, 4) == bytes(range(4, 8))
    assert m.bench.memory_read(0x30000, 4) == bytes(4)


@pytest.mark.parametrize(("channel", "size"), [(2, 8), (6, 16)])
def test_dma_decrement_walks_down(channel: int, size: int) -> None:
    m = Machine(channel)
    last = 0x20100
    m.program(channel, last, 8, WRITE | DOWN)
    m.request(channel)
    unit = size // 8
    wanted = b"".join(bytes(range(n * unit, n * unit + unit)) for n in reversed(range(8)))
    assert m.bench.memory_read(last - 7 * unit, size) == wanted


def test_dma_autoinit_starts_over_and_stays_unmasked() -> None:
    m = Machine(1)
    m.program(1, 0x10000, 8, WRITE | AUTO)
    m.request(1)
    assert m.read(0x08) & 2
    assert not m.read(0x0F) & 2
    assert (m.word(0x02), m.word(0x03)) == (0, 7)
    m.request(1)
    assert len(m.peer.calls) == 2


def test_dma_autoinit_with_standing_request_goes_on_in_time() -> None:
    m = Machine(1)
    m.peer.channels[1].transfer = lambda position, length: length
    m.program(1, 0x10000, 1000, READ | AUTO)
    m.request(1)
    m.bench.advance(999_000)
    m.read(0x08)
    assert not m.read(0x08) & 2
    m.bench.advance(2_000)
    assert m.read(0x08) & 2


@pytest.mark.parametrize("step", [1, 1 << 20])
def test_dma_flood_of_requests_moves_no_more_than_its_time_allows(step: int) -> None:
    m = Machine(1)
    m.peer.channels[1].transfer = lambda position, length: (
        m.peer.calls.append((1, position, length)) or min(position + step, length)
    )
    m.program(1, 0x10000, 0x10000, READ)
    m.request(1)
    for _ in range(5_000):
        m.program(1, 0x10000, 0x10000, READ)
    at_once = len(m.peer.calls)
    m.bench.advance(1_000_000_000)
    assert (
        at_once * max(dma.CALL_NS, min(step, 0x10000) * dma.UNIT_NS) <= dma.AHEAD_NS + 0x10000 * dma.UNIT_NS
    )
    assert len(m.peer.calls) > at_once
    assert m.read(0x08) & 2 or step == 1


def test_dma_flood_of_memory_copies_is_held_back_until_its_time() -> None:
    m = Machine()
    m.program(0, 0x10000, 1, READ | 0x80, unmask=False)
    m.program(1, 0x10001, 0xFFFF, WRITE | 0x80 | AUTO, unmask=False)
    m.out(0x08, 0x01)
    m.out(0x09, 0x04)
    m.read(0x08)
    m.out(0x09, 0x04)
    assert not m.read(0x08) & 2
    m.bench.advance(2 * 0x10000 * dma.UNIT_NS)
    assert m.read(0x08) & 2


def test_dma_state_of_version_1_is_loaded_as_one_at_rest() -> None:
    fields = {"controllers": (), "pages": bytes(16), "high_pages": bytes(16)}
    assert dma.DmaState.upgrade(1, fields)["busy_until"] == 0


def test_dma_verify_moves_nothing() -> None:
    m = Machine(2)
    m.bench.memory_write(0x10000, b"untouched")
    m.program(2, 0x10000, 9, VERIFY)
    m.request(2)
    assert m.bench.memory_read(0x10000, 9) == b"untouched"
    assert m.read(0x08) & 4


def test_dma_masked_channel_waits_and_shows_its_request() -> None:
    m = Machine(2)
    m.program(2, 0x10000, 4, WRITE, unmask=False)
    m.request(2)
    assert m.peer.calls == []
    assert m.read(0x08) & 0xF0 == 0x40
    m.out(0x0A, 2)
    assert len(m.peer.calls) == 1


def test_dma_disabled_controller_waits() -> None:
    m = Machine(2)
    m.out(0x08, 0x04)
    m.program(2, 0x10000, 4, WRITE)
    m.request(2)
    assert m.peer.calls == []
    m.out(0x08, 0x00)
    assert len(m.peer.calls) == 1


def test_dma_masked_cascade_holds_back_the_first_controller() -> None:
    m = Machine(2)
    m.program(2, 0x10000, 4, WRITE)
    m.out(0xD6, 0xC0)  # channel 4: cascade, still masked
    m.request(2)
    assert m.peer.calls == []
    m.out(0xD4, 0x00)
    assert len(m.peer.calls) == 1


@pytest.mark.parametrize(("command", "order"), [(0x00, [0, 1, 2, 3]), (0x10, [3, 0, 1, 2])])
def test_dma_priority_is_fixed_or_rotates(command: int, order: list[int]) -> None:
    m = Machine(0, 1, 2, 3)
    m.out(0x08, command)
    m.program(2, 0x10000, 4, WRITE)
    m.request(2)  # with rotation channel 2 is lowest now
    m.peer.calls.clear()
    for channel in range(4):
        m.program(channel, 0x10000 * (channel + 1), 4, WRITE, unmask=False)
        m.request(channel)
    m.out(0x0E, 0)
    assert [call[0] for call in m.peer.calls] == order


def test_dma_high_pages_reach_above_16_mib() -> None:
    m = Machine(1, high_page_enable=True)
    m.program(1, 0x10000, 4, WRITE)
    assert m.dma.page(1) == 0x10000
    m.out(0x483, 0x12)
    assert (m.dma.page(1), m.read(0x483)) == (0x12010000, 0x12)
    assert Machine(1).read(0x483) == 0xFF


def test_dma_software_request_ignores_the_mask_and_ends_with_terminal_count() -> None:
    m = Machine(3)
    m.program(3, 0x10000, 4, WRITE | 0x80, unmask=False)
    m.out(0x09, 0x07)
    assert len(m.peer.calls) == 1
    assert m.read(0x08) == 0x08


def test_dma_software_request_without_a_device_just_counts() -> None:
    m = Machine()
    m.program(3, 0x10000, 4, WRITE | 0x80)
    m.out(0x09, 0x07)
    assert m.read(0x08) == 0x08
    assert m.word(0x06) == 4


def test_dma_memory_to_memory_copies() -> None:
    m = Machine()
    m.bench.memory_write(0x12000, bytes(range(100)))
    m.program(0, 0x12000, 1, READ | 0x80, unmask=False)
    m.program(1, 0x25000, 100, WRITE | 0x80, unmask=False)
    m.out(0x08, 0x01)
    m.out(0x09, 0x04)
    assert m.bench.memory_read(0x25000, 101) == bytes(range(100)) + b"\0"
    assert m.read(0x08) == 0x02
    assert m.read(0x0D) == 99
    assert (m.word(0x00), m.word(0x02)) == (0x2064, 0x5064)


def test_dma_memory_to_memory_with_hold_fills() -> None:
    m = Machine()
    m.bench.memory_write(0x12000, b"\xa5")
    m.program(0, 0x12000, 1, READ | 0x80, unmask=False)
    m.program(1, 0x25000, 0x1000, WRITE | 0x80, unmask=False)
    m.out(0x08, 0x03)
    m.out(0x09, 0x04)
    assert m.bench.memory_read(0x25000, 0x1000) == b"\xa5" * 0x1000


def test_dma_memory_to_memory_overlapping_spreads_the_first_byte() -> None:
    m = Machine()
    m.bench.memory_write(0x12000, bytes(range(1, 20)))
    m.program(0, 0x12000, 1, READ | 0x80, unmask=False)
    m.program(1, 0x12001, 18, WRITE | 0x80, unmask=False)
    m.out(0x08, 0x01)
    m.out(0x09, 0x04)
    assert m.bench.memory_read(0x12000, 19) == b"\1" * 19


def test_dma_flip_flop_is_shared_and_master_clear_resets_it() -> None:
    m = Machine()
    m.out(0x0C, 0)
    m.out(0x00, 0x34)
    m.out(0x02, 0x12)  # the high byte of another register
    assert m.word(0x00) == 0x34
    assert m.word(0x02) == 0x1200
    m.out(0x00, 0x55)
    m.out(0x0D, 0)
    m.out(0x00, 0x77)
    assert m.word(0x00) & 0xFF == 0x77
    assert m.read(0x0F) == 0x0F


def test_dma_page_registers_are_plain_storage() -> None:
    m = Machine()
    for port in range(0x80, 0x90):
        m.out(port, port)
    assert [m.read(port) for port in range(0x80, 0x90)] == list(range(0x80, 0x90))
    m.bench.reset()
    assert m.read(0x84) == 0


def test_dma_register_maps_are_where_the_ports_are() -> None:
    m = Machine()
    for base, registers in ((0x00, dma.Registers), (0xC0, dma.WordRegisters)):
        mask = registers.registers["ALL_MASK"]
        assert m.read(base + mask.offset) == mask.reset
        assert registers.name_at(mask.offset, False) == "ALL_MASK"
    names = [dma.PageRegisters.name_at(page, True) for page in dma.PAGE_OF]
    assert names == [f"PAGE{channel}" for channel in range(8)]


def test_dma_taken_channel_is_refused() -> None:
    m = Machine()
    m.dma.attach(2, lambda position, length: length)
    with pytest.raises(Exception, match="taken"):
        m.dma.attach(2, lambda position, length: length)


@given(
    st.sampled_from([0, 1, 2, 3, 5, 6, 7]),
    st.integers(0, 0x2FFFF),
    st.integers(1, 300),
    st.booleans(),
    st.integers(1, 64),
)
@settings(max_examples=100, deadline=None)
def test_dma_any_block_equals_units_moved_one_by_one(channel, address, units, down, step) -> None:
    m = Machine(channel)
    unit = 1 + (channel >> 2)
    address &= -unit
    m.peer.step = step * unit
    m.program(channel, address, units, WRITE | (DOWN if down else 0))
    m.request(channel)
    m.bench.advance(10_000_000)  # many calls are made in several goes
    window = 0x10000 * unit
    wanted: dict[int, int] = {}
    at = address
    for index in range(units):
        for byte in range(unit):
            wanted[at + byte] = m.peer.outgoing[channel][index * unit + byte]
        at = at & -window | (at + (-unit if down else unit)) & (window - 1)
    for where, value in wanted.items():
        assert m.bench.memory_read(where, 1)[0] == value
    m.program(channel, address, units, READ | (DOWN if down else 0))
    m.request(channel)
    m.bench.advance(10_000_000)  # many calls are made in several goes
    assert bytes(m.peer.received[channel]) == m.peer.outgoing[channel][: units * unit]


PORTS = st.one_of(st.integers(0, 15), st.integers(0x80, 0x8F), st.integers(0xC0, 0xDF))
ACCESSES = st.lists(
    st.tuples(st.sampled_from(["out", "out", "in", "request"]), PORTS, st.integers(0, 0xFFFFFFFF)),
    max_size=30,
)


def play(m: Machine, steps: list, size: int = 1) -> list[object]:
    seen: list[object] = []
    for kind, port, value in steps:
        if kind == "out":
            m.bench.port_write(port, size, value)
        elif kind == "in":
            seen.append(m.bench.port_read(port, size))
        else:
            m.request((1, 2, 5)[port % 3], bool(value & 1))
        m.bench.advance(value & 0xFFFF)
    return seen


@given(ACCESSES, ACCESSES)
@settings(max_examples=60, deadline=None)
def test_dma_saved_at_any_moment_goes_on_identically(before: list, after: list) -> None:
    first, second = Machine(1, 2, 5), Machine(1, 2, 5)
    play(first, before)
    second.bench.load(first.bench.save())
    first.peer.calls.clear()
    assert play(first, after) == play(second, after)
    assert first.peer.calls == second.peer.calls
    assert first.bench.memory_read(0, 1 << 20) == second.bench.memory_read(0, 1 << 20)


@given(ACCESSES, st.sampled_from([1, 2, 4]))
@settings(max_examples=100, deadline=None)
def test_dma_nonsense_of_any_width_never_raises(steps: list, size: int) -> None:
    play(Machine(1, 2, 5), steps, size)


@given(st.integers(0, 200), st.integers(0, 200), st.integers(1, 150), st.booleans(), st.booleans())
@settings(max_examples=100, deadline=None)
def test_dma_memory_to_memory_equals_bytes_copied_one_by_one(source, target, units, up, target_up) -> None:
    m = Machine()
    memory = bytearray(n * 37 & 0xFF for n in range(1024))
    m.bench.memory_write(0x30000, bytes(memory))
    at, to = 300 + source, 300 + target
    m.program(0, 0x30000 + at, 1, READ | 0x80 | (0 if up else DOWN), unmask=False)
    m.program(1, 0x30000 + to, units, WRITE | 0x80 | (0 if target_up else DOWN), unmask=False)
    m.out(0x08, 0x01)
    m.out(0x09, 0x04)
    for _ in range(units):
        memory[to] = memory[at]
        at, to = at + (1 if up else -1), to + (1 if target_up else -1)
    assert m.bench.memory_read(0x30000, 1024) == bytes(memory)
