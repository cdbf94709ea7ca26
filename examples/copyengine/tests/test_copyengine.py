"""The copy engine on the bench: registers, operations, interrupts, errors, states."""

from __future__ import annotations

import random
import zlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vbox_pdm import StateError
from vbox_pdm.pci import COMMAND as PCI_COMMAND
from vbox_pdm.pci import STATUS as PCI_STATUS
from vbox_pdm.state import decode, encode
from vbox_pdm.testing import Bench
from vbox_plugin_copyengine import (
    BURST,
    BUSY,
    DONE,
    ERROR,
    MASTER_ABORT,
    SIGNATURE,
    Cause,
    Command,
    CopyEngineState,
)

RAM = 16 << 20
STATUS, COMMAND, ENABLE, SOURCE, DESTINATION = 0x04, 0x08, 0x0C, 0x10, 0x18
LENGTH, FILL, POSITION, RESULT = 0x20, 0x24, 0x28, 0x2C
MSI = 0x40
"""Where the capability stands in configuration space."""
PATTERN = random.Random(5).randbytes(3 * BURST)


class Engine:
    """A copy engine that firmware has set up, as a driver sees it."""

    def __init__(self, bench: Bench, **config: object) -> None:
        self.bench = bench
        self.device: Any = bench.add("copyengine", config=config)
        self.base = bench.pci_enable(self.device)[0]

    def read(self, offset: int, size: int = 4) -> int:
        return self.bench.mmio_read(self.base + offset, size)

    def write(self, offset: int, value: int, size: int = 4) -> None:
        self.bench.mmio_write(self.base + offset, size, value)

    def start(
        self, command: Command, *, source: int = 0, destination: int = 0, length: int = 0, fill: int = 0
    ) -> None:
        self.write(SOURCE, source, 8)
        self.write(DESTINATION, destination, 8)
        self.write(LENGTH, length)
        self.write(FILL, fill)
        self.write(COMMAND, command)

    def cause(self) -> Cause:
        """Of an operation that failed."""
        assert self.read(STATUS) & ~0x30 == ERROR
        return Cause(self.read(STATUS) >> 4)

    def config(self, offset: int) -> int:
        return self.bench.pci_read(self.device, 0, offset, 2)

    def set_config(self, offset: int, value: int, size: int = 2) -> None:
        self.bench.pci_write(self.device, 0, offset, size, value)


@pytest.fixture
def engine(bench: Bench) -> Engine:
    return Engine(bench)


# --- registers


def test_copyengine_identity_reads_as_text(engine: Engine) -> None:
    assert engine.read(0) == SIGNATURE
    assert bytes(engine.read(at, 1) for at in range(4)) == b"VCE1"


def test_copyengine_operand_written_in_halves_reads_whole(engine: Engine) -> None:
    engine.write(SOURCE, 0x89ABCDEF)
    engine.write(SOURCE + 4, 0x01234567)
    engine.write(FILL, 0x1FF)

    assert engine.read(SOURCE, 8) == 0x0123456789ABCDEF
    assert engine.read(SOURCE + 6, 2) == 0x0123
    assert engine.read(FILL) == 0xFF


def test_copyengine_operands_written_while_busy_stay(engine: Engine) -> None:
    engine.start(Command.SUM, length=BURST)

    for offset in (SOURCE, SOURCE + 4, DESTINATION, LENGTH, FILL):
        engine.write(offset, 0x55)

    assert (engine.read(SOURCE, 8), engine.read(DESTINATION, 8)) == (0, 0)
    assert (engine.read(LENGTH), engine.read(FILL)) == (BURST, 0)


def test_copyengine_narrow_write_beside_done_clears_nothing(engine: Engine) -> None:
    engine.start(Command.SUM)
    engine.bench.run_until_idle()

    engine.write(STATUS + 1, 0xFF, 1)
    assert engine.read(STATUS) == DONE

    engine.write(STATUS, DONE, 1)
    assert engine.read(STATUS) == 0


# --- operations


def test_copyengine_copy_takes_time_by_its_rate(bench: Bench) -> None:
    engine = Engine(bench, rate=10)
    bench.memory_write(0x10000, PATTERN)

    engine.start(Command.COPY, source=0x10000, destination=0x20001, length=len(PATTERN))
    bench.advance(1000 + 2 * BURST * 100 - 1)
    assert (engine.read(STATUS), engine.read(POSITION)) == (BUSY, BURST)

    bench.advance(1 + BURST * 100)
    assert (engine.read(STATUS), engine.read(POSITION)) == (DONE, len(PATTERN))
    assert bench.memory_read(0x20001, len(PATTERN)) == PATTERN


def test_copyengine_fill_and_sum_agree_with_the_host(engine: Engine) -> None:
    engine.start(Command.FILL, destination=0x30003, length=2 * BURST + 5, fill=0xA5)
    engine.bench.run_until_idle()
    engine.start(Command.SUM, source=0x30000, length=3 * BURST)
    engine.bench.run_until_idle()

    filled = bytes(3) + b"\xa5" * (2 * BURST + 5)
    assert engine.bench.memory_read(0x30000, 3 * BURST) == filled.ljust(3 * BURST, b"\0")
    assert engine.read(RESULT) == zlib.crc32(filled.ljust(3 * BURST, b"\0"))


@pytest.mark.parametrize(("to", "length"), [(0x10000 - 5, 3 * BURST), (0x10000 + 5, BURST)])
def test_copyengine_copy_onto_itself_is_right_downwards_and_within_a_burst(
    engine: Engine, to: int, length: int
) -> None:
    engine.bench.memory_write(0x10000, PATTERN)

    engine.start(Command.COPY, source=0x10000, destination=to, length=length)
    engine.bench.run_until_idle()

    assert engine.bench.memory_read(to, length) == PATTERN[:length]


def test_copyengine_length_zero_is_done(engine: Engine) -> None:
    for command in (Command.COPY, Command.FILL, Command.SUM):
        engine.start(command, source=1 << 63, destination=1 << 63)
        engine.bench.run_until_idle()

        assert (engine.read(STATUS), engine.read(POSITION), engine.read(RESULT)) == (DONE, 0, 0)


def test_copyengine_command_while_busy_is_not_heard(engine: Engine) -> None:
    engine.start(Command.FILL, destination=0x30000, length=BURST, fill=1)

    engine.write(COMMAND, Command.SUM)
    engine.bench.run_until_idle()

    assert engine.bench.memory_read(0x30000, BURST) == b"\1" * BURST
    assert engine.read(STATUS) == DONE


def test_copyengine_stopped_stays_where_it_was_and_says_nothing(engine: Engine) -> None:
    engine.write(ENABLE, 1)
    engine.start(Command.FILL, destination=0x30000, length=3 * BURST, fill=1)
    engine.bench.advance(1000 + BURST * 10)

    engine.write(COMMAND, Command.STOP)

    assert engine.bench.run_until_idle()
    assert (engine.read(STATUS), engine.read(POSITION)) == (0, BURST)
    assert engine.bench.memory_read(0x30000, 3 * BURST) == b"\1" * BURST + bytes(2 * BURST)
    assert engine.bench.irq_edges == []


def test_copyengine_reset_ends_all(engine: Engine) -> None:
    engine.write(ENABLE, 1)
    engine.start(Command.FILL, destination=0x30000, length=3 * BURST, fill=1)
    engine.bench.advance(1000 + BURST * 10)

    engine.bench.reset()
    engine.bench.pci_enable(engine.device, at=engine.base)

    assert engine.bench.run_until_idle()
    assert [engine.read(offset) for offset in range(4, 0x40, 4)] == [0] * 15
    assert engine.bench.memory_read(0x30000, 3 * BURST) == b"\1" * BURST + bytes(2 * BURST)


# --- interrupts


def test_copyengine_pin_is_high_while_done_and_enabled(engine: Engine) -> None:
    bench = engine.bench
    engine.start(Command.SUM)
    bench.run_until_idle()
    assert not bench.pci_irq(engine.device)

    engine.write(ENABLE, 1)
    assert bench.pci_irq(engine.device)
    assert engine.config(PCI_STATUS) & 0x08

    engine.write(STATUS, DONE)
    assert not bench.pci_irq(engine.device)


def test_copyengine_started_again_forgets_done(engine: Engine) -> None:
    engine.write(ENABLE, 1)
    engine.start(Command.SUM)
    engine.bench.run_until_idle()

    engine.start(Command.SUM)

    assert engine.read(STATUS) == BUSY
    assert not engine.bench.pci_irq(engine.device)


def test_copyengine_msi_is_sent_once_for_each_end_and_the_pin_is_silent(engine: Engine) -> None:
    bench = engine.bench
    engine.set_config(MSI + 4, 0xFEE00000, 4)
    engine.set_config(MSI + 12, 0x4031)
    engine.set_config(MSI + 2, 1)
    engine.write(ENABLE, 1)

    for _ in range(2):
        engine.start(Command.SUM)
        bench.run_until_idle()
        engine.write(STATUS, DONE)

    assert [(each.address, each.data) for each in bench.messages] == [(0xFEE00000, 0x4031)] * 2
    assert not bench.pci_irq(engine.device)
    assert not any(edge.level for edge in bench.irq_edges)


# --- errors


def test_copyengine_unknown_command_is_an_error(engine: Engine) -> None:
    engine.write(ENABLE, 1)

    engine.write(COMMAND, 4)

    assert engine.cause() is Cause.COMMAND
    assert engine.bench.pci_irq(engine.device)


@pytest.mark.parametrize("command", [Command.COPY, Command.FILL, Command.SUM])
def test_copyengine_end_of_ram_is_an_error_behind_what_was_moved(engine: Engine, command: Command) -> None:
    outside = RAM - BURST - 1
    inside = 0x30000
    source = inside if command is Command.FILL else outside
    destination = outside if command is Command.FILL else inside

    engine.start(command, source=source, destination=destination, length=4 * BURST, fill=7)
    engine.bench.run_until_idle()

    assert engine.cause() is Cause.ADDRESS
    assert engine.read(POSITION) == BURST
    assert engine.config(PCI_STATUS) & MASTER_ABORT
    assert engine.bench.memory_read(inside + BURST, BURST) == bytes(BURST)


def test_copyengine_copy_out_of_ram_writes_up_to_its_end(engine: Engine) -> None:
    engine.bench.memory_write(0x10000, PATTERN)

    engine.start(Command.COPY, source=0x10000, destination=RAM - 10, length=BURST)
    engine.bench.run_until_idle()

    assert engine.cause() is Cause.ADDRESS
    assert engine.bench.memory_read(RAM - 10, 10) == PATTERN[:10]


def test_copyengine_address_at_the_top_of_the_world_is_an_error(engine: Engine) -> None:
    for command in (Command.COPY, Command.FILL, Command.SUM):
        engine.start(command, source=(1 << 64) - 1, destination=(1 << 64) - 1, length=2 * BURST)
        engine.bench.run_until_idle()

        assert engine.cause() is Cause.ADDRESS


def test_copyengine_bus_mastering_taken_away_is_an_error_at_the_next_burst(engine: Engine) -> None:
    engine.start(Command.FILL, destination=0x30000, length=3 * BURST, fill=1)
    engine.bench.advance(1000 + BURST * 10)

    engine.set_config(PCI_COMMAND, engine.config(PCI_COMMAND) & ~4)
    engine.bench.run_until_idle()

    assert engine.cause() is Cause.MASTER
    assert engine.read(POSITION) == BURST
    assert engine.bench.memory_read(0x30000, 2 * BURST) == b"\1" * BURST + bytes(BURST)


# --- states


def test_copyengine_state_in_the_middle_goes_on_elsewhere_at_the_same_nanosecond() -> None:
    with Bench() as first, Bench() as second:
        engines = [Engine(first), Engine(second)]
        first.memory_write(0x10000, PATTERN)
        for engine in engines:
            engine.write(ENABLE, 1)
        engines[0].start(Command.SUM, source=0x10000, length=len(PATTERN))
        first.advance(1000 + BURST * 10 + 17)

        second.load(first.save())

        for bench, engine in zip((first, second), engines, strict=True):
            bench.advance(2 * BURST * 10 - 18)
            assert (engine.read(STATUS), engine.read(POSITION)) == (BUSY, 2 * BURST)
            bench.advance(1)
            assert (engine.read(STATUS), engine.read(RESULT)) == (DONE, zlib.crc32(PATTERN))
            assert bench.pci_irq(engine.device)


def test_copyengine_state_behind_its_end_is_refused(engine: Engine) -> None:
    saved = engine.bench.save()
    good = decode(CopyEngineState, saved["copyengine#0"])
    bad = CopyEngineState(Command.COPY, 0, 0, 0, 0, length=10, fill=0, position=11, result=0)

    with pytest.raises(StateError, match="at byte 11 of 10"):
        engine.device.pdm_load(bad)

    engine.bench.load({**saved, "copyengine#0": encode(good)})
    assert engine.read(STATUS) == 0


def test_copyengine_state_after_an_end_and_a_smaller_length_is_taken(engine: Engine) -> None:
    engine.start(Command.SUM, length=BURST)
    engine.bench.run_until_idle()
    engine.write(LENGTH, 1)

    engine.bench.load(engine.bench.save())

    assert (engine.read(LENGTH), engine.read(POSITION)) == (1, BURST)


# --- anything

END = 0xA0000
"""Where RAM ends in a machine of 1 MiB: behind it are the holes of a PC."""
addresses = st.one_of(
    st.integers(0, END + BURST), st.integers(END - 3 * BURST, END), st.integers(0, (1 << 64) - 1)
)
operations = st.tuples(
    st.sampled_from([Command.COPY, Command.FILL, Command.SUM]),
    addresses, addresses, st.integers(0, 3 * BURST), st.integers(0, 255),
)  # fmt: skip
Operation = tuple[Command, int, int, int, int]


def carry_out(memory: bytearray, operation: Operation) -> tuple[int, int, bool]:
    """(POSITION, RESULT, whether it ended well) of an operation on a plain model."""
    command, source, destination, length, fill = operation
    moved = result = 0
    while moved < length:
        size = min(BURST, length - moved)
        data = bytes([fill]) * size
        if command is not Command.FILL:
            data = bytes(memory[source + moved : source + moved + size]) if source < END else b""
            if len(data) < size:
                return moved, result, False
        if command is Command.SUM:
            result = zlib.crc32(data, result)
        else:
            at = destination + moved
            there = data[: max(0, END - at)]
            memory[at : at + len(there)] = there
            if len(there) < size:
                return moved, result, False
        moved += size
    return moved, result, True


@settings(max_examples=60, deadline=None)
@given(st.lists(operations, min_size=1, max_size=5))
def test_copyengine_does_what_a_model_does(script: list[Operation]) -> None:
    with Bench(ram=1 << 20) as bench:
        engine = Engine(bench)
        bench.memory_write(0, PATTERN)
        memory = bytearray(PATTERN.ljust(END, b"\0"))
        for operation in script:
            command, source, destination, length, fill = operation
            engine.start(command, source=source, destination=destination, length=length, fill=fill)
            assert bench.run_until_idle()

            moved, result, well = carry_out(memory, operation)
            assert engine.read(STATUS) == (DONE if well else ERROR | Cause.ADDRESS << 4)
            assert (engine.read(POSITION), engine.read(RESULT)) == (moved, result)
        assert bench.memory_read(0, END) == memory


accesses = st.tuples(
    st.booleans(), st.integers(0, 0x3F), st.sampled_from([1, 2, 4, 8]), st.integers(0, (1 << 64) - 1)
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.one_of(accesses, st.integers(0, 200_000)), max_size=60))
def test_copyengine_bears_any_access(script: list[Any]) -> None:
    with Bench(ram=1 << 20) as bench:
        engine = Engine(bench)
        for step in script:
            if isinstance(step, int):
                bench.advance(step)
                continue
            write, offset, size, value = step
            offset = min(offset, 0x40 - size)
            if write:
                engine.write(offset, value & ((1 << 8 * size) - 1), size)
            else:
                assert 0 <= engine.read(offset, size) < 1 << 8 * size
        bench.load(bench.save())
