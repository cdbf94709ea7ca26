"""16550A UART.  PC16550D data sheet (National Semiconductor, June 1995); 16450 as its subset.

Modelled: all registers with DLAB, both FIFOs with trigger levels and the character time-out, errors
that travel with their character, interrupt priorities and what clears each, modem lines with deltas,
loopback, break, back-pressure from the stream, and (`pacing`) real character times.

Not modelled: RXRDY and TXRDY (FCR bit 3 has no other effect), the factory test by writing LSR, the
delay of one character that a 16550 puts before a THRE interrupt after a single character.

Traps
- Reading IIR clears the THRE interrupt only when THRE is what it reports.
- Setting ETBEI while THR is empty raises the THRE interrupt again, even one that IIR had cleared.
- OUT2 (MCR bit 3) gates the interrupt line on a PC, in loopback too.
- FCR bits other than bit 0 count only together with bit 0; a change of bit 0 empties both FIFOs.
- When the FIFO is full, the character behind it is lost; without FIFO the new one replaces the old.
- The errors of a character show in LSR when it gets to the head of the FIFO, and stay until LSR is
  read; a break shows as BI alone with one zero character.
- Bits of a character beyond the word length of LCR are never seen, in neither direction.  (LCR is 0
  at power on, which says five bits.  Here characters have eight until LCR is written: a guest that
  writes to THR without any setup should be heard.)
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable

from attrs import frozen

from vbox_pdm import (
    CharStream,
    Clock,
    Device,
    DeviceClass,
    DeviceType,
    Ports,
    Width,
    hookimpl,
    key,
)
from vbox_plugin_pc.conformance import vbox_conformance_setup as vbox_conformance_setup
from vbox_plugin_pc.serial_registers import Registers, character_time, line_settings
from vbox_plugin_pc.serial_state import SerialState

FIFO_SIZE = 16
TRIGGERS = (1, 4, 8, 14)
DIVISOR_AT_POWER_ON = 12  # undefined on a real chip; 9600 baud

IER_RDA, IER_THRE, IER_LINE, IER_MODEM = 1, 2, 4, 8
IIR_NONE, IIR_MODEM, IIR_THRE, IIR_RDA, IIR_LINE, IIR_TIMEOUT = 0x01, 0x00, 0x02, 0x04, 0x06, 0x0C
IIR_FIFO = 0xC0
FCR_ENABLE, FCR_CLEAR_RX, FCR_CLEAR_TX = 1, 2, 4
LCR_BREAK, LCR_DLAB = 0x40, 0x80
MCR_DTR, MCR_RTS, MCR_OUT1, MCR_OUT2, MCR_LOOP = 1, 2, 4, 8, 0x10
LSR_DR, LSR_OE, LSR_BI, LSR_THRE, LSR_TEMT, LSR_ERR = 0x01, 0x02, 0x10, 0x20, 0x40, 0x80
LSR_CHARACTER = 0x1C  # PE, FE, BI: belong to one character
LSR_ERRORS = LSR_OE | LSR_CHARACTER
MSR_TERI, MSR_DELTAS, MSR_CTS, MSR_DSR, MSR_RI, MSR_DCD = 4, 0x0F, 0x10, 0x20, 0x40, 0x80
LINES_CONNECTED = MSR_CTS | MSR_DSR | MSR_DCD
_ONE_BYTE = tuple(bytes([value]) for value in range(256))


class UartType(enum.Enum):
    """The chip."""

    UART_16450 = "16450"
    UART_16550A = "16550A"


@frozen
class Config:
    """Where the port is, and what it is."""

    io_base: int = key(0x3F8, span=(0, 0xFFF8), help="first of eight I/O ports")
    irq: int = key(4, span=(0, 15), help="ISA interrupt line")
    uart_type: UartType = key(UartType.UART_16550A, help="16550A has FIFOs, 16450 has none")
    pacing: bool = key(False, help="characters take the time that the baud rate says")


class Serial(Device[Config]):
    """One UART with a character stream below."""

    # What the stream was told: it is told again whenever it may be another one.
    transient = frozenset({"told_parameters", "told_lines", "told_break"})

    ier: int
    iir: int  # without the FIFO bits
    fifo_enabled: bool
    trigger: int
    lcr: int
    word_mask: int
    direct: bool  # a character goes from THR to the stream: no pacing, no loopback, no break
    mcr: int
    lsr: int
    deltas: int  # of MSR; the rest of it are the inputs
    scratch: int
    divisor: int
    received: deque[int]  # the FIFO, or RBR
    received_errors: deque[int]  # LSR bits of each character in it, until LSR was read
    last_received: int
    timed_out: bool
    thre_pending: bool
    waiting: deque[int]  # the FIFO, or THR
    shifting: int | None  # the transmit shift register, with pacing
    stalled: bool  # the stream refused characters
    room_wanted: bool  # the stream waits for char_ready

    def pdm_construct(self) -> None:
        helpers = self.helpers
        self.irq = helpers.isa_irq(self.config.irq)
        self.has_fifo = self.config.uart_type is UartType.UART_16550A
        self.pacing = self.config.pacing
        self.sent_timer = helpers.timer("transmit", Clock.VIRTUAL_SYNC, self._shifted_out)
        self.idle_timer = helpers.timer("character time-out", Clock.VIRTUAL_SYNC, self._timed_out)
        self.wire_timer = helpers.timer("receive", Clock.VIRTUAL_SYNC, self._wire_idle)
        self.line_high = False
        self.reported_lines: int | None = None
        self.told_parameters: tuple[int, int, str, float] | None = None
        self.told_lines = (False, False)
        self.told_break = False
        self._power_on_values()
        self.reads: tuple[Callable[[], int], ...] = (
            self._read_data, self._read_ier, self._read_iir, lambda: self.lcr,
            lambda: self.mcr, self._read_lsr, self._read_msr, lambda: self.scratch,
        )  # fmt: skip
        self.writes: tuple[Callable[[int], None], ...] = (
            self._write_data, self._write_ier, self._write_fcr, self._write_lcr,
            self._write_mcr, lambda _: None, lambda _: None, self._write_scratch,
        )  # fmt: skip
        self.connected = False
        self.stream = helpers.lun(0, CharStream, "character stream")
        self.connected = self.stream.connected
        self.deltas = 0
        helpers.map_ports(
            self.config.io_base,
            Ports("uart", 8, self.read, self.write, registers=Registers, width=Width.BYTE),
        )

    def pdm_reset(self) -> None:
        for timer in (self.sent_timer, self.idle_timer, self.wire_timer):
            timer.stop()
        self._power_on_values()
        self.line_high = False
        self.irq.set(False)
        self._tell_break()
        self._tell_lines()

    def pdm_attach(self, lun: int) -> None:
        before = self._lines()
        self.connected = True
        self.told_parameters = None
        self.told_lines = (False, False)
        self.told_break = False
        self._tell_parameters()
        self._tell_break()
        self._tell_lines()
        self._modem_changed(before)
        self.char_sendable()

    def pdm_detach(self, lun: int) -> None:
        before = self._lines()
        self.connected = False
        self.reported_lines = None
        if self.stalled:
            # Who refused these characters goes; an open end takes everything.
            self.stalled = False
            self.shifting = None
            self._clear_transmitter()
        self._modem_changed(before)

    # --- what the stream below calls

    def char_room(self) -> int:
        """What fits into the receiver now; nothing in loopback, which cuts the wire."""
        if self.mcr & MCR_LOOP:
            room = 0
        else:
            room = (FIFO_SIZE if self.fifo_enabled else 1) - len(self.received)
            if self.pacing and room:
                room = 0 if self.wire_timer.active else 1
        if not room:
            self.room_wanted = True
        return room

    def char_received(self, data: bytes) -> None:
        """Characters from the wire, as fast as they come."""
        if self.mcr & MCR_LOOP or not data:
            return
        for value in data:
            self._receive(value, 0)
        if self.pacing:
            self.room_wanted = True
            self.wire_timer.set_relative(character_time(self.lcr, self.divisor) * len(data))
        self._update()

    def char_break_received(self) -> None:
        """A break on the wire: one zero character with BI."""
        if not self.mcr & MCR_LOOP:
            self._receive(0, LSR_BI)
            self._update()

    def char_sendable(self) -> None:
        """The stream takes characters again."""
        self._go_on()

    def char_status(self, cts: bool, dsr: bool, ri: bool, dcd: bool) -> None:
        """The modem status inputs of the wire."""
        before = self._lines()
        self.reported_lines = MSR_CTS * cts | MSR_DSR * dsr | MSR_RI * ri | MSR_DCD * dcd
        self._modem_changed(before)

    # --- registers

    def read(self, offset: int, size: int) -> int:
        """A register."""
        if offset == 5 and not self.lsr & LSR_ERRORS:
            return self.lsr  # what a guest that polls reads all the time
        return self.reads[offset]()

    def write(self, offset: int, size: int, value: int) -> None:
        """A register."""
        self.writes[offset](value & 0xFF)

    def _read_data(self) -> int:
        if self.lcr & LCR_DLAB:
            return self.divisor & 0xFF
        received = self.received
        if not received:
            return self.last_received
        value = self.last_received = received.popleft()
        self.received_errors.popleft()
        self.timed_out = False
        if received:
            self._reveal()
            if self.fifo_enabled and len(received) < self.trigger:
                self.idle_timer.set_relative(4 * character_time(self.lcr, self.divisor))
        else:
            self.lsr &= ~LSR_DR
            if self.idle_timer.active:
                self.idle_timer.stop()
        self._update()
        if self.room_wanted and len(received) <= FIFO_SIZE // 2:
            self._offer_room()
        return value

    def _write_data(self, value: int) -> None:
        if self.lcr & LCR_DLAB:
            self.divisor = self.divisor & 0xFF00 | value
            return
        waiting = self.waiting
        if self.direct and not waiting and self.stream.char_send(_ONE_BYTE[value & self.word_mask]):
            if self.ier & IER_THRE:
                if self.iir == IIR_THRE:
                    self.thre_pending = False
                    self._update()  # the line falls before it rises again: an edge
                self.thre_pending = True
                self._update()
            self.thre_pending = True
            return
        if not self.fifo_enabled:
            waiting.clear()  # THR is one register: what had not left it is lost
        if len(waiting) < FIFO_SIZE:
            waiting.append(value & self.word_mask)
        self.lsr &= ~(LSR_THRE | LSR_TEMT)
        self.thre_pending = False
        if self.iir == IIR_THRE:
            self._update()  # the line falls before it rises again: an edge
        if not self.stalled:
            self._transmit()
            if self.ier & IER_THRE:
                self._update()

    def _read_ier(self) -> int:
        return self.divisor >> 8 if self.lcr & LCR_DLAB else self.ier

    def _write_ier(self, value: int) -> None:
        if self.lcr & LCR_DLAB:
            self.divisor = self.divisor & 0xFF | value << 8
            return
        value &= 0x0F
        if value & ~self.ier & IER_THRE and self.lsr & LSR_THRE:
            self.thre_pending = True
        self.ier = value
        self._update()
        self._offer_room()

    def _read_iir(self) -> int:
        iir = self.iir
        if iir == IIR_THRE:
            self.thre_pending = False
            self._update()
        return iir | IIR_FIFO if self.fifo_enabled else iir

    def _write_fcr(self, value: int) -> None:
        if not self.has_fifo:
            return
        enable = bool(value & FCR_ENABLE)
        if enable != self.fifo_enabled:
            self.fifo_enabled = enable
            self.trigger = 1
            self._clear_receiver()
            self._clear_transmitter()
            self.thre_pending = bool(self.lsr & LSR_THRE)
        if enable:
            self.trigger = TRIGGERS[value >> 6]
            if value & FCR_CLEAR_RX:
                self._clear_receiver()
            if value & FCR_CLEAR_TX:
                self._clear_transmitter()
        self._update()
        self._offer_room()

    def _write_lcr(self, value: int) -> None:
        changed = value ^ self.lcr
        self.lcr = value
        self.word_mask = 0xFF >> (3 - (value & 3))
        self._set_direct()
        if changed & value & LCR_BREAK and self.mcr & MCR_LOOP:
            self._receive(0, LSR_BI)
            self._update()
        self._tell_break()
        if not value & LCR_DLAB:
            self._tell_parameters()
        if value & LCR_BREAK:
            self._go_on()

    def _write_mcr(self, value: int) -> None:
        before = self._lines()
        self.mcr = value & 0x1F
        self._set_direct()
        self._tell_break()
        self._tell_lines()
        self._modem_changed(before)
        if self.mcr & MCR_LOOP:
            self._go_on()
        else:
            self._offer_room()

    def _read_lsr(self) -> int:
        lsr = self.lsr
        if lsr & LSR_ERRORS:
            if self.received_errors:
                self.received_errors[0] = 0
            self.lsr = lsr & ~LSR_ERRORS
            if not any(self.received_errors):
                self.lsr &= ~LSR_ERR
            self._update()
        return lsr

    def _read_msr(self) -> int:
        deltas = self.deltas
        if deltas:
            self.deltas = 0
            self._update()
        return self._lines() | deltas

    def _write_scratch(self, value: int) -> None:
        self.scratch = value

    # --- receiver

    def _receive(self, value: int, errors: int) -> None:
        """A character is complete in the receive shift register; the caller updates."""
        received = self.received
        if self.fifo_enabled:
            if len(received) >= FIFO_SIZE:
                self.lsr |= LSR_OE
                return
            received.append(value & self.word_mask)
            self.received_errors.append(errors)
            if errors:
                self.lsr |= LSR_ERR
            self.timed_out = False
            self.idle_timer.set_relative(4 * character_time(self.lcr, self.divisor))
            if len(received) == 1:
                self._reveal()
        else:
            if received:
                self.lsr |= LSR_OE
                received.clear()
                self.received_errors.clear()
            received.append(value & self.word_mask)
            self.received_errors.append(errors)
            self._reveal()
        self.lsr |= LSR_DR
        if len(received) >= (FIFO_SIZE if self.fifo_enabled else 1):
            self.room_wanted = True  # who delivered this may have more

    def _reveal(self) -> None:
        """A character got to the head: its errors are LSR's."""
        self.lsr |= self.received_errors[0]

    def _clear_receiver(self) -> None:
        self.received.clear()
        self.received_errors.clear()
        self.timed_out = False
        self.idle_timer.stop()
        self.lsr &= ~(LSR_DR | LSR_CHARACTER | LSR_ERR)

    def _timed_out(self) -> None:
        """Four character times without a character or a read."""
        if self.fifo_enabled and self.received:
            self.timed_out = True
            self._update()

    def _wire_idle(self) -> None:
        """With pacing: the last character's time on the wire is over."""
        self._offer_room()

    def _offer_room(self) -> None:
        """Tell the stream that there is room again, if it waits for that."""
        if not self.room_wanted or self.mcr & MCR_LOOP or self.wire_timer.active:
            return
        if len(self.received) < (FIFO_SIZE if self.fifo_enabled else 1):
            self.room_wanted = False
            self.stream.char_ready()

    # --- transmitter

    def _transmit(self) -> None:
        """Let go what waits, as far as stream and pacing allow; the caller updates."""
        waiting = self.waiting
        if self.pacing:
            if waiting and self.shifting is None:
                self.shifting = waiting.popleft()
                self.sent_timer.set_relative(character_time(self.lcr, self.divisor))
        elif waiting:
            sent = self._send(_ONE_BYTE[waiting[0]] if len(waiting) == 1 else bytes(waiting))
            if sent >= len(waiting):
                waiting.clear()
            else:
                for _ in range(sent):
                    waiting.popleft()
                self.stalled = True
        if not waiting:
            if not self.lsr & LSR_THRE:
                self.thre_pending = True
            self.lsr |= LSR_THRE if self.shifting is not None else LSR_THRE | LSR_TEMT

    def _go_on(self) -> None:
        """What the stream refused: it takes characters again, or is not asked any more."""
        if self.stalled:
            self.stalled = False
            if self.shifting is not None:
                self._shifted_out()
            else:
                self._transmit()
            self._update()

    def _set_direct(self) -> None:
        self.direct = not (self.pacing or self.mcr & MCR_LOOP or self.lcr & LCR_BREAK)

    def _shifted_out(self) -> None:
        """With pacing: the character in the transmit shift register is out."""
        if self.shifting is None:
            return
        if not self._send(_ONE_BYTE[self.shifting]):
            self.stalled = True
            return
        self.shifting = None
        self._transmit()
        self._update()

    def _send(self, data: bytes) -> int:
        """To the wire, or round in loopback; how many characters went."""
        if self.mcr & MCR_LOOP:
            for value in data:
                self._receive(value, 0)
            self._update()
            return len(data)
        if self.lcr & LCR_BREAK:
            return len(data)  # the wire is held low: nobody hears them
        return self.stream.char_send(data)

    def _clear_transmitter(self) -> None:
        self.waiting.clear()
        if self.shifting is None:
            self.stalled = False
        if not self.lsr & LSR_THRE:
            self.thre_pending = True
        self.lsr |= LSR_THRE if self.shifting is not None else LSR_THRE | LSR_TEMT

    # --- lines

    def _highest(self) -> int:
        """The highest pending interrupt, as IIR says it."""
        ier = self.ier
        if ier & IER_LINE and self.lsr & LSR_ERRORS:
            return IIR_LINE
        if ier & IER_RDA and len(self.received) >= self.trigger:
            return IIR_RDA
        if ier & IER_RDA and self.timed_out:
            return IIR_TIMEOUT
        if ier & IER_THRE and self.thre_pending:
            return IIR_THRE
        if ier & IER_MODEM and self.deltas:
            return IIR_MODEM
        return IIR_NONE

    def _update(self) -> None:
        """The interrupt line follows."""
        iir = self.iir = self._highest()
        high = iir != IIR_NONE and bool(self.mcr & MCR_OUT2)
        if high != self.line_high:
            self.line_high = high
            self.irq.set(high)

    def _lines(self) -> int:
        """MSR bits 4..7: the inputs; in loopback the outputs."""
        mcr = self.mcr
        if mcr & MCR_LOOP:
            return (mcr & MCR_RTS) << 3 | (mcr & MCR_DTR) << 5 | (mcr & (MCR_OUT1 | MCR_OUT2)) << 4
        if self.reported_lines is not None:
            return self.reported_lines
        return LINES_CONNECTED if self.connected else 0

    def _modem_changed(self, before: int) -> None:
        """The inputs were `before`: deltas; RI counts only when it ends."""
        now = self._lines()
        self.deltas |= (before ^ now) >> 4 & ~MSR_TERI
        if before & ~now & MSR_RI:
            self.deltas |= MSR_TERI
        self._update()

    def _tell_lines(self) -> None:
        quiet = self.mcr & MCR_LOOP
        lines = (
            bool(self.mcr & MCR_DTR and not quiet),
            bool(self.mcr & MCR_RTS and not quiet),
        )
        if lines != self.told_lines:
            self.told_lines = lines
            self.stream.char_lines(*lines)

    def _tell_break(self) -> None:
        # Loopback holds the wire idle; the break goes round inside instead.
        level = bool(self.lcr & LCR_BREAK and not self.mcr & MCR_LOOP)
        if level != self.told_break:
            self.told_break = level
            self.stream.char_break(level)

    def _tell_parameters(self) -> None:
        parameters = line_settings(self.lcr, self.divisor)
        if parameters != self.told_parameters:
            self.told_parameters = parameters
            self.stream.char_parameters(*parameters)

    # --- state

    def _power_on_values(self) -> None:
        self.ier = self.lcr = self.mcr = self.deltas = self.scratch = self.last_received = 0
        self.iir = IIR_NONE
        self.lsr = LSR_THRE | LSR_TEMT
        self.fifo_enabled = self.timed_out = self.thre_pending = self.stalled = False
        self.trigger = 1
        self.word_mask = 0xFF
        self.direct = not self.pacing
        self.divisor = DIVISOR_AT_POWER_ON
        self.received, self.received_errors, self.waiting = deque(), deque(), deque()
        self.shifting = None
        self.room_wanted = True  # what was refused before comes when a driver sets the chip up

    def pdm_save(self) -> SerialState:
        return SerialState(
            ier=self.ier, fifo_enabled=self.fifo_enabled, trigger=self.trigger,
            lcr=self.lcr, word_mask=self.word_mask, mcr=self.mcr, lsr=self.lsr,
            deltas=self.deltas, scratch=self.scratch, divisor=self.divisor,
            received=bytes(self.received), received_errors=bytes(self.received_errors),
            last_received=self.last_received, timed_out=self.timed_out, thre_pending=self.thre_pending,
            waiting=bytes(self.waiting),
            shifting=self.shifting, stalled=self.stalled, room_wanted=self.room_wanted,
            reported_lines=self.reported_lines,
        )  # fmt: skip

    def pdm_load(self, state: SerialState) -> None:
        state.check(FIFO_SIZE)
        self.ier = state.ier & 0x0F
        self.fifo_enabled, self.trigger = state.fifo_enabled, state.trigger
        self.lcr, self.word_mask = state.lcr & 0xFF, state.word_mask & 0xFF
        self.mcr, self.lsr = state.mcr & 0x1F, state.lsr & 0xFF
        self._set_direct()
        self.scratch, self.divisor = state.scratch & 0xFF, state.divisor & 0xFFFF
        self.received = deque(state.received)
        self.received_errors = deque(state.received_errors)
        self.last_received, self.timed_out = state.last_received, state.timed_out
        self.thre_pending = state.thre_pending
        self.waiting = deque(state.waiting)
        self.shifting, self.stalled = state.shifting, state.stalled
        self.room_wanted, self.reported_lines = state.room_wanted, state.reported_lines
        self.deltas = state.deltas & MSR_DELTAS
        self.iir = self._highest()
        self.line_high = self.iir != IIR_NONE and bool(self.mcr & MCR_OUT2)

    def pdm_resume(self) -> None:
        # The neighbour below may be another one than when the state was saved.
        self._tell_parameters()
        self._tell_break()
        self._tell_lines()
        self.char_sendable()

    def pdm_info(self, arguments: str) -> str:
        baud, bits, parity, _ = line_settings(self.lcr, self.divisor)
        return (
            f"{self.config.uart_type.value} at {self.config.io_base:#x}, irq {self.config.irq}: "
            f"{baud} baud {bits}{parity}, "
            f"FIFO {'on' if self.fifo_enabled else 'off'}\n"
            f"IER {Registers.IER.describe(self.ier)}  IIR {self.iir:#04x}  "
            f"MCR {Registers.MCR.describe(self.mcr)}\n"
            f"LSR {Registers.LSR.describe(self.lsr)}  "
            f"MSR {Registers.MSR.describe(self._lines() | self.deltas)}\n"
            f"received {len(self.received)}, waiting to be sent {len(self.waiting)}"
            f"{', the stream does not take them' if self.stalled else ''}"
        )


@hookimpl
def vbox_register_devices(register: Callable[[DeviceType], None]) -> None:
    register(
        DeviceType(
            "serial", Serial, Config,
            device_class=DeviceClass.SERIAL, max_instances=4, summary="16550A UART",
        )
    )  # fmt: skip
