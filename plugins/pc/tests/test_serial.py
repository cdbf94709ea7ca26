"""The UART: each register by the data sheet, and all of it against a model written from scratch."""

from __future__ import annotations

from typing import Any

import pytest
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st

from vbox_pdm import StateError
from vbox_pdm.state import decode, encode
from vbox_pdm.testing import Bench, FakeStream
from vbox_plugin_pc import serial
from vbox_plugin_pc.serial_state import SerialState

DATA, IER, IIR, FCR, LCR, MCR, LSR, MSR, SCR = 0, 1, 2, 2, 3, 4, 5, 6, 7
DR, OE, BI, THRE, TEMT, ERR = 1, 2, 0x10, 0x20, 0x40, 0x80
LOOP, OUT2 = 0x10, 0x08


class Port:
    """A serial port on a bench, as a guest's driver sees it."""

    def __init__(self, stream: FakeStream | None = None, base: int = 0x3F8, **config: Any) -> None:
        self.stream = FakeStream() if stream is None else stream
        self.base = base
        self.bench = Bench()
        self.bench.plugin(serial)
        self.device = self.bench.add("serial", lun0=self.stream, io_base=base, **config)

    def get(self, register: int) -> int:
        return self.bench.port_read(self.base + register)

    def put(self, register: int, value: int) -> None:
        self.bench.port_write(self.base + register, 1, value)

    def set_up(self, divisor: int = 1, fifo: int | None = 0x07, ier: int = 0) -> None:
        """8N1, a rate, FIFO, interrupts let out."""
        self.put(LCR, 0x83)
        self.put(DATA, divisor & 0xFF)
        self.put(IER, divisor >> 8)
        self.put(LCR, 0x03)
        if fifo is not None:
            self.put(FCR, fifo)
        self.put(MCR, 0x0B)
        self.put(IER, ier)

    @property
    def irq(self) -> bool:
        return self.bench.irq(4)


def test_serial_power_on_registers_follow_the_data_sheet() -> None:
    port = Port()
    assert [port.get(register) for register in (IER, IIR, LCR, MCR, LSR)] == [0, 0x01, 0, 0, 0x60]
    assert not port.irq


def test_serial_reset_returns_to_power_on() -> None:
    port = Port()
    before = port.bench.save()["serial#0"]
    port.set_up(3, 0x81, 0x0F)
    port.put(SCR, 0x5A)
    port.stream.feed(b"abc")
    port.bench.reset()
    once = port.bench.save()["serial#0"]
    port.bench.reset()
    assert once == port.bench.save()["serial#0"] == before
    assert not port.irq


def test_serial_divisor_latch_hides_data_and_ier() -> None:
    port = Port()
    port.set_up(0x1234, None, 0x05)
    port.put(LCR, 0x83)
    assert (port.get(DATA), port.get(IER)) == (0x34, 0x12)
    port.put(LCR, 0x03)
    assert port.get(IER) == 0x05
    assert port.stream.sent == b""


@pytest.mark.parametrize(
    ("lcr", "divisor", "expected"),
    [
        (0x03, 1, (115200, 8, "N", 1.0)),
        (0x07, 12, (9600, 8, "N", 2.0)),
        (0x04, 96, (1200, 5, "N", 1.5)),
        (0x0A, 2, (57600, 7, "O", 1.0)),
        (0x1B, 6, (19200, 8, "E", 1.0)),
        (0x2B, 1, (115200, 8, "M", 1.0)),
        (0x3B, 1, (115200, 8, "S", 1.0)),
    ],
)
def test_serial_line_settings_are_told_once_complete(lcr: int, divisor: int, expected: Any) -> None:
    port = Port()
    port.put(LCR, 0x80 | lcr)
    port.put(DATA, divisor & 0xFF)
    port.put(IER, divisor >> 8)
    assert port.stream.parameters is None
    port.put(LCR, lcr)
    assert port.stream.parameters == expected


def test_serial_without_setup_sends_eight_bits() -> None:
    port = Port()
    port.put(DATA, 0xE9)
    assert port.stream.sent == b"\xe9"
    assert port.get(LSR) == 0x60


def test_serial_word_length_cuts_both_directions() -> None:
    port = Port()
    port.put(LCR, 0x02)
    port.put(DATA, 0xFF)
    port.stream.feed(b"\xff")
    assert port.stream.sent == b"\x7f"
    assert port.get(DATA) == 0x7F


def test_serial_overrun_with_fifo_loses_the_new_character() -> None:
    port = Port()
    port.set_up(fifo=0x07)
    port.stream.feed(bytes(range(17)))
    assert port.get(LSR) & OE
    assert not port.get(LSR) & OE
    assert [port.get(DATA) for _ in range(16)] == list(range(16))
    assert not port.get(LSR) & DR


def test_serial_overrun_without_fifo_loses_the_old_character() -> None:
    port = Port()
    port.set_up(fifo=None)
    port.stream.feed(b"ab")
    assert port.get(LSR) & (DR | OE) == DR | OE
    assert port.get(DATA) == ord("b")


@pytest.mark.parametrize(("bits", "trigger"), [(0x00, 1), (0x40, 4), (0x80, 8), (0xC0, 14)])
def test_serial_receive_interrupt_comes_at_the_trigger_level(bits: int, trigger: int) -> None:
    port = Port()
    port.set_up(fifo=0x07 | bits, ier=1)
    port.stream.feed(bytes(trigger - 1))
    assert not port.irq
    port.stream.feed(b"x")
    assert port.irq
    assert port.get(IIR) == 0xC4
    port.get(DATA)
    assert not port.irq


def test_serial_without_fifo_again_every_character_interrupts() -> None:
    port = Port()
    port.set_up(fifo=0xC7, ier=1)
    port.put(FCR, 0)
    port.stream.feed(b"x")
    assert port.irq
    assert port.get(IIR) == 0x04


def test_serial_character_timeout_comes_after_four_characters() -> None:
    port = Port()
    port.set_up(divisor=12, fifo=0x87, ier=1)
    port.stream.feed(b"ab")
    character = 10 * 12 * 10**9 // 115200
    port.bench.advance(4 * character - 1000)
    assert not port.irq
    port.bench.advance(2000)
    assert port.irq
    assert port.get(IIR) == 0xCC
    assert port.get(DATA) == ord("a")
    assert not port.irq
    port.bench.advance(4 * character + 1000)
    assert port.get(IIR) == 0xCC
    assert port.get(DATA) == ord("b")
    port.bench.advance(10**9)
    assert port.get(IIR) == 0xC1


def test_serial_iir_read_clears_thre_only_when_reported() -> None:
    port = Port()
    port.set_up(ier=0x03)
    port.stream.feed(b"x")
    assert port.get(IIR) == 0xC4  # the receiver is more urgent; THRE stays pending
    port.get(DATA)
    assert port.get(IIR) == 0xC2
    assert port.get(IIR) == 0xC1
    assert not port.irq


def test_serial_thre_interrupt_returns_when_enabled_again() -> None:
    port = Port()
    port.set_up(ier=0x02)
    assert port.get(IIR) == 0xC2
    port.put(IER, 0x02)
    assert port.get(IIR) == 0xC1
    port.put(IER, 0)
    port.put(IER, 0x02)
    assert port.get(IIR) == 0xC2


def test_serial_each_character_sent_makes_an_edge() -> None:
    port = Port()
    port.set_up(ier=0x02)
    for character in b"hello":
        assert port.irq
        port.put(DATA, character)
    rising = [edge for edge in port.bench.irq_edges if edge.line == 4 and edge.level]
    assert len(rising) == 6
    assert port.stream.sent == b"hello"


def test_serial_back_pressure_keeps_thre_clear_until_sendable() -> None:
    port = Port(FakeStream(accept=2))
    port.set_up(ier=0x02)
    for character in b"abcd":
        port.put(DATA, character)
    assert port.stream.sent == b"ab"
    assert port.get(LSR) == 0
    assert not port.irq
    port.stream.accept = 1
    assert port.get(LSR) == 0
    port.stream.accept = None
    assert port.stream.sent == b"abcd"
    assert port.get(LSR) == THRE | TEMT
    assert port.irq


def test_serial_loopback_lets_go_what_the_stream_refused() -> None:
    port = Port(FakeStream(accept=0))
    port.set_up()
    port.put(DATA, 0x41)

    port.put(MCR, 0x10)

    assert port.get(LSR) == THRE | TEMT | DR
    assert port.get(DATA) == 0x41


def test_serial_transmit_fifo_holds_sixteen_characters() -> None:
    port = Port(FakeStream(accept=0))
    port.set_up()
    for character in range(20):
        port.put(DATA, character)
    port.stream.accept = None
    assert port.stream.sent == bytes(range(16))


def test_serial_fcr_clears_the_transmit_fifo() -> None:
    port = Port(FakeStream(accept=0))
    port.set_up()
    port.put(DATA, 1)
    port.put(FCR, 0x05)
    assert port.get(LSR) == THRE | TEMT
    port.stream.accept = None
    assert port.stream.sent == b""


def test_serial_pacing_sends_one_character_per_character_time() -> None:
    port = Port(pacing=True)
    port.set_up(divisor=12)
    character = 10 * 12 * 10**9 // 115200
    for value in b"abc":
        port.put(DATA, value)
    assert port.get(LSR) == 0
    port.bench.advance(character + 10)
    assert port.stream.sent == b"a"
    port.bench.advance(character)
    assert port.stream.sent == b"ab"
    assert port.get(LSR) == THRE  # the last one is in the shift register
    port.bench.advance(character)
    assert port.stream.sent == b"abc"
    assert port.get(LSR) == THRE | TEMT


def test_serial_pacing_receives_one_character_per_character_time() -> None:
    port = Port(pacing=True)
    port.set_up(divisor=12)
    assert port.stream.offer(b"abc") == 1
    port.bench.advance(2 * 10 * 12 * 10**9 // 115200 + 100)
    assert [port.get(DATA) for _ in range(3)] == list(b"abc")


def test_serial_paced_back_pressure_stalls_the_shift_register() -> None:
    port = Port(FakeStream(accept=0), pacing=True)
    port.set_up()
    port.put(DATA, 0x41)
    port.bench.advance(10**9)
    assert port.get(LSR) == THRE
    port.stream.accept = None
    assert port.stream.sent == b"A"
    assert port.get(LSR) == THRE | TEMT


def test_serial_offered_stream_arrives_complete_and_in_order() -> None:
    port = Port()
    port.set_up(fifo=0x87, ier=1)
    text = bytes(range(256)) * 4
    port.stream.offer(text)
    got = bytearray()
    while len(got) < len(text):
        if port.get(LSR) & DR:
            got.append(port.get(DATA))
        else:
            port.bench.advance(10**6)
    assert got == text
    assert not port.get(LSR) & OE


def test_serial_characters_that_found_no_room_follow_after_reset() -> None:
    port = Port()
    port.stream.offer(bytes(range(40)))
    port.bench.reset()
    assert not port.get(LSR) & DR
    port.set_up(fifo=0x01)
    got = []
    while port.get(LSR) & DR:
        got.append(port.get(DATA))
    assert got == list(range(1, 40))  # the first one was in the chip


def test_serial_break_travels_with_its_character() -> None:
    port = Port()
    port.set_up(ier=0x04)
    port.stream.feed(b"a")
    port.stream.send_break()
    port.stream.feed(b"b")
    assert port.get(LSR) == 0x60 | DR | ERR
    assert port.get(IIR) == 0xC1
    port.get(DATA)
    assert port.get(IIR) == 0xC6
    assert port.get(LSR) == 0x60 | DR | BI | ERR
    assert port.get(LSR) == 0x60 | DR
    assert port.get(DATA) == 0
    assert port.get(DATA) == ord("b")


def test_serial_break_is_driven_by_lcr() -> None:
    port = Port()
    port.put(LCR, 0x43)
    port.put(DATA, 0x41)
    port.put(LCR, 0x03)
    assert port.stream.breaks == [True, False]
    assert port.stream.sent == b""


def test_serial_break_is_told_to_a_stream_that_comes_later() -> None:
    port = Port()
    port.put(LCR, 0x43)
    port.bench.detach(port.device, 0)
    port.bench.attach(port.device, 0, late := FakeStream())
    assert late.breaks == [True]
    port.put(LCR, 0x03)
    assert late.breaks == [True, False]


def test_serial_break_is_told_after_a_load() -> None:
    first, second = Port(), Port()
    first.put(LCR, 0x43)
    second.bench.load(first.bench.save())
    assert second.stream.breaks == [True]
    second.bench.reset()
    assert second.stream.breaks == [True, False]


def test_serial_reset_clears_deltas_and_keeps_the_inputs() -> None:
    port = Port()
    port.stream.set_status(cts=True)
    port.put(MCR, LOOP | 0x03)
    port.bench.reset()
    assert port.get(MSR) == 0x10


def test_serial_load_without_a_neighbour_shows_no_inputs() -> None:
    first, second = Port(), Bench()
    second.plugin(serial)
    second.add("serial")
    assert first.get(MSR) == 0xB0
    second.load(first.bench.save())
    assert second.port_read(0x3F8 + MSR) == 0


def test_serial_state_of_version_1_is_taken() -> None:
    fields = SerialState.upgrade(1, {"msr": 0xB4, "iir": 1, "mcr": 3})
    assert fields == {"deltas": 4, "mcr": 3}


@pytest.mark.parametrize(
    "wrong",
    [
        {"received": b"ab"},
        {"waiting": bytes(17)},
        {"received": bytes(17), "received_errors": bytes(17)},
        {"shifting": 256},
        {"trigger": 0},
    ],
)
def test_serial_impossible_state_is_refused(wrong: dict[str, Any]) -> None:
    port = Port()
    saved = port.bench.save()
    state = decode(SerialState, saved["serial#0"])
    saved["serial#0"] = encode(evolve(state, **wrong))
    with pytest.raises(StateError, match="FIFOs"):
        port.bench.load(saved)


def test_serial_modem_deltas_and_trailing_edge_of_ring() -> None:
    port = Port()
    port.set_up(ier=0x08)
    port.stream.set_status(cts=True, dsr=True, dcd=True)
    port.get(MSR)
    port.stream.set_status(ri=True)
    assert port.get(MSR) == 0xF0
    port.stream.set_status(ri=False, cts=False)
    assert port.irq
    assert port.get(IIR) == 0xC0
    assert port.get(MSR) == 0xA0 | 0x04 | 0x01
    assert port.get(MSR) == 0xA0
    assert not port.irq


def test_serial_modem_outputs_reach_the_stream() -> None:
    port = Port()
    port.put(MCR, 0x03)
    assert port.stream.lines == (True, True)
    port.put(MCR, 0x13)
    assert port.stream.lines == (False, False)


@settings(deadline=None)
@given(st.integers(0, 15))
def test_serial_loopback_turns_modem_outputs_to_inputs(outputs: int) -> None:
    port = Port()
    port.put(MCR, LOOP | outputs)
    rts, dtr, out1, out2 = outputs >> 1 & 1, outputs & 1, outputs >> 2 & 1, outputs >> 3 & 1
    assert port.get(MSR) & 0xF0 == rts << 4 | dtr << 5 | out1 << 6 | out2 << 7


def test_serial_loopback_returns_data_and_cuts_the_wire() -> None:
    port = Port()
    port.set_up()
    port.put(MCR, LOOP)
    for value in b"ping":
        port.put(DATA, value)
    port.stream.feed(b"lost")
    assert [port.get(DATA) for _ in range(4)] == list(b"ping")
    assert not port.get(LSR) & DR
    assert port.stream.sent == b""


def test_serial_out2_gates_the_line() -> None:
    port = Port()
    port.set_up(ier=0x02)
    assert port.irq
    port.put(MCR, 0x03)
    assert not port.irq
    assert port.get(IIR) == 0xC2


def test_serial_16450_has_no_fifo() -> None:
    port = Port(uart_type="16450")
    port.put(FCR, 0xC7)
    assert port.get(IIR) == 0x01
    port.put(SCR, 0xA5)
    assert port.get(SCR) == 0xA5


def test_serial_detach_lets_what_waits_go() -> None:
    port = Port(FakeStream(accept=0))
    port.set_up()
    port.put(DATA, 1)
    port.bench.detach(port.device, 0)
    assert port.get(LSR) == THRE | TEMT
    assert port.get(MSR) & 0xF0 == 0
    port.bench.attach(port.device, 0, other := FakeStream())
    assert port.get(MSR) & 0xF0 == 0xB0
    assert other.lines == (True, True)
    port.put(DATA, 2)
    assert other.sent == b"\x02"


def test_serial_wide_accesses_are_bytes() -> None:
    port = Port()
    port.set_up()
    port.bench.port_write(0x3F8 + SCR - 1, 2, 0x7700)
    assert port.bench.port_read(0x3F8 + SCR - 1, 2) >> 8 == 0x77


# --- against a model


class Model:
    """The 16550A as the data sheet describes it, with everything derived again each time."""

    def __init__(self) -> None:
        self.ier = self.lcr = self.mcr = self.scr = 0
        self.divisor = 12
        self.mask = 0xFF
        self.fifo = False
        self.trigger = 1
        self.rx: list[tuple[int, int]] = []
        self.tx: list[int] = []
        self.sticky = 0
        self.unread_errors = False
        self.timeout = False
        self.thre_flag = False
        self.last = 0
        self.inputs = 0xB0
        self.msr = 0xB0
        self.accept: int | None = None
        self.sent: list[int] = []

    # what goes in

    def feed(self, data: bytes, error: int = 0) -> None:
        if self.mcr & 0x10:
            return
        for value in data:
            self.arrive(value, error)

    def arrive(self, value: int, error: int) -> None:
        value &= self.mask
        if not self.fifo:
            if self.rx:
                self.sticky |= OE
            self.rx = [(value, 0)]
            self.sticky |= error
        elif len(self.rx) == 16:
            self.sticky |= OE
        else:
            if error:
                self.unread_errors = True
            self.rx.append((value, error))
            if len(self.rx) == 1:
                self.sticky |= error
                self.rx[0] = (value, 0)
            self.timeout = False

    def wait(self) -> None:
        if self.fifo and self.rx:
            self.timeout = True

    def status(self, inputs: int) -> None:
        self.inputs = inputs
        self.lines()

    def lines(self) -> None:
        now = self.inputs
        if self.mcr & 0x10:
            now = (self.mcr & 2) << 3 | (self.mcr & 1) << 5 | (self.mcr & 0xC) << 4
        changed = (self.msr ^ now) & 0xF0
        delta = (changed & 0xB0) >> 4 | (4 if changed & 0x40 and not now & 0x40 else 0)
        self.msr = now | self.msr & 0xF | delta

    def allow(self, count: int | None) -> None:
        self.accept = count
        self.drain()

    def drain(self) -> None:
        had = bool(self.tx)
        while self.tx:
            if self.mcr & 0x10:
                self.arrive(self.tx.pop(0), 0)
            elif self.lcr & 0x40:
                self.tx.pop(0)
            elif self.accept is None:
                self.sent.append(self.tx.pop(0))
            elif self.accept:
                self.accept -= 1
                self.sent.append(self.tx.pop(0))
            else:
                return
        if had:
            self.thre_flag = True

    # registers

    def put(self, register: int, value: int) -> None:
        if register == 0 and self.lcr & 0x80:
            self.divisor = self.divisor & 0xFF00 | value
        elif register == 0:
            stalled = bool(self.tx)
            if not self.fifo:
                self.tx.clear()
            if len(self.tx) < 16:
                self.tx.append(value & self.mask)
            self.thre_flag = False
            if not stalled:
                self.drain()
        elif register == 1 and self.lcr & 0x80:
            self.divisor = self.divisor & 0xFF | value << 8
        elif register == 1:
            if value & 2 and not self.ier & 2 and not self.tx:
                self.thre_flag = True
            self.ier = value & 0x0F
        elif register == 2:
            if bool(value & 1) != self.fifo:
                self.fifo = bool(value & 1)
                self.trigger = 1
                self.clear_rx()
                self.tx.clear()
                self.thre_flag = True
            if value & 1:
                self.trigger = (1, 4, 8, 14)[value >> 6]
                if value & 2:
                    self.clear_rx()
                if value & 4 and self.tx:
                    self.tx.clear()
                    self.thre_flag = True
        elif register == 3:
            broken = value & ~self.lcr & 0x40
            self.lcr = value
            self.mask = 0xFF >> (3 - (value & 3))
            if broken and self.mcr & 0x10:
                self.arrive(0, BI)
            if value & 0x40:  # nobody is asked any more who could refuse
                self.drain()
        elif register == 4:
            self.mcr = value & 0x1F
            self.lines()
            if value & 0x10:
                self.drain()
        elif register == 7:
            self.scr = value

    def clear_rx(self) -> None:
        self.rx = []
        self.sticky &= OE
        self.unread_errors = False
        self.timeout = False

    def get(self, register: int) -> int:
        if register == 0:
            return self.divisor & 0xFF if self.lcr & 0x80 else self.pop()
        if register == 1:
            return self.divisor >> 8 if self.lcr & 0x80 else self.ier
        if register == 2:
            value = self.interrupt()
            if value == 2:
                self.thre_flag = False
            return value | (0xC0 if self.fifo else 0)
        if register == 5:
            value = (DR if self.rx else 0) | self.sticky | (0 if self.tx else THRE | TEMT)
            value |= ERR if self.unread_errors else 0
            if self.sticky:
                self.unread_errors = any(error for _, error in self.rx)
            self.sticky = 0
            return value
        if register == 6:
            value, self.msr = self.msr, self.msr & 0xF0
            return value
        return {3: self.lcr, 4: self.mcr, 7: self.scr}[register]

    def pop(self) -> int:
        if self.rx:
            self.last, _ = self.rx.pop(0)
            self.timeout = False
            if self.rx:
                value, error = self.rx[0]
                self.sticky |= error
                self.rx[0] = (value, 0)
        return self.last

    def interrupt(self) -> int:
        if self.ier & 4 and self.sticky:
            return 6
        if self.ier & 1 and len(self.rx) >= self.trigger:
            return 4
        if self.ier & 1 and self.timeout:
            return 12
        if self.ier & 2 and self.thre_flag:
            return 2
        if self.ier & 8 and self.msr & 0xF:
            return 0
        return 1

    @property
    def irq(self) -> bool:
        return self.interrupt() != 1 and bool(self.mcr & 8)


bytes_ = st.integers(0, 255)
operations = st.one_of(
    st.tuples(st.just("put"), st.sampled_from([0, 0, 0, 1, 1, 2, 3, 4, 5, 6, 7]), bytes_),
    st.tuples(st.just("put"), st.just(3), st.sampled_from([0x03, 0x83, 0x43])),
    st.tuples(st.just("put"), st.just(4), st.sampled_from([0x0B, 0x1B])),
    st.tuples(st.just("get"), st.integers(0, 7)),
    st.tuples(st.just("get"), st.sampled_from([0, 2, 5])),
    st.tuples(st.just("feed"), st.binary(max_size=20)),
    st.tuples(st.just("break")),
    st.tuples(st.just("wait")),
    st.tuples(st.just("status"), st.tuples(*[st.booleans()] * 4)),
    st.tuples(st.just("allow"), st.one_of(st.none(), st.integers(1, 3))),
    st.tuples(st.just("block")),
)


def apply(port: Port, operation: tuple[Any, ...]) -> int | None:
    match operation:
        case ("put", register, value):
            port.put(register, value)
        case ("get", register):
            return port.get(register)
        case ("feed", data):
            port.stream.feed(data)
        case ("break",):
            port.stream.send_break()
        case ("wait",):
            port.bench.advance(60 * 10**9)
        case ("status", (cts, dsr, ri, dcd)):
            port.stream.set_status(cts=cts, dsr=dsr, ri=ri, dcd=dcd)
        case ("allow", count):
            port.stream.accept = count
            port.device.char_sendable()
        case ("block",):
            port.stream.accept = 0
    return None


def apply_to_model(model: Model, operation: tuple[Any, ...]) -> int | None:
    match operation:
        case ("put", register, value):
            model.put(register, value)
        case ("get", register):
            return model.get(register)
        case ("feed", data):
            model.feed(data)
        case ("break",):
            model.feed(b"\0", BI)
        case ("wait",):
            model.wait()
        case ("status", (cts, dsr, ri, dcd)):
            model.status(cts << 4 | dsr << 5 | ri << 6 | dcd << 7)
        case ("allow", count):
            model.allow(count)
        case ("block",):
            model.accept = 0
    return None


@settings(max_examples=150, deadline=None)
@given(st.lists(operations, max_size=60))
def test_serial_agrees_with_a_model_after_each_operation(script: list[tuple[Any, ...]]) -> None:
    port, model = Port(), Model()
    for operation in script:
        assert apply(port, operation) == apply_to_model(model, operation), operation
        assert port.irq == model.irq, operation
        assert port.stream.sent == bytes(model.sent)


@settings(max_examples=40, deadline=None)
@given(st.lists(operations, max_size=40), st.lists(operations, max_size=40), st.booleans())
def test_serial_saved_state_goes_on_identically(
    before: list[tuple[Any, ...]], after: list[tuple[Any, ...]], pacing: bool
) -> None:
    first, second = Port(pacing=pacing), Port(pacing=pacing)
    for operation in before:
        apply(first, operation)
    # The neighbour's state is not the device's.
    second.stream._accept, second.stream._refused = first.stream._accept, first.stream._refused
    edges = len(second.bench.irq_edges)
    second.bench.load(first.bench.save())
    assert len(second.bench.irq_edges) == edges
    first.stream.take(), second.stream.take()
    for operation in after:
        assert apply(first, operation) == apply(second, operation), operation
        assert first.irq == second.irq
        assert first.stream.sent == second.stream.sent
    assert first.bench.save()["serial#0"] == second.bench.save()["serial#0"]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 7), st.sampled_from([1, 2, 4]), st.integers(0, 2**32 - 1)), max_size=60)
)
def test_serial_nonsense_never_raises(accesses: list[tuple[int, int, int]]) -> None:
    port = Port()
    for register, size, value in accesses:
        port.bench.port_write(0x3F8 + register, size, value & ((1 << 8 * size) - 1))
        assert 0 <= port.bench.port_read(0x3F8 + register, size) < 1 << 8 * size
    port.bench.advance(10**9)
