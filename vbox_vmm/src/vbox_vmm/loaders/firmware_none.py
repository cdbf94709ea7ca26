"""No firmware: what it would have done to the board, done by the VMM.

Reference: PCI Local Bus 3.0 chapter 6; 82441FX (PAM registers 59h..5Fh); 82371SB (PIRQ registers
60h..63h, ELCR 4D0h and 4D1h, IDETIM 40h..43h); PCI Firmware 3.0 for the order of things.  Everything is
done by the accesses that firmware would make: port reads and writes, so that it works with any devices.

BARs of functions on bus 0 get addresses, the largest first: I/O from C000h, memory in the hole below
FEC00000h, 64-bit ones above the RAM when that is full.  Functions behind PCI-to-PCI bridges are left
to the guest.  What finds no room stays unassigned, and is logged.

Traps: sizing a BAR needs decoding switched off; a 64-bit BAR takes two registers; a single-function
device may answer for all eight functions; a BAR of a legacy-mode IDE function sizes as 0.
"""

from __future__ import annotations

import logging
import struct

from attrs import define, field, frozen

from vbox_pdm.pci import (
    BAR0,
    COMMAND,
    COMMAND_IO,
    COMMAND_MEMORY,
    HEADER_TYPE,
    INTERRUPT_LINE,
    INTERRUPT_PIN,
    ROM_BAR,
    VENDOR,
)
from vbox_vmm.loaders import pir
from vbox_vmm.loaders.memory import LOW_END, GuestMemory, PortBus, low_ram_end

log = logging.getLogger("vbox.FW")

ADDRESS, DATA = 0xCF8, 0xCFC
IO_FIRST, IO_END = 0xC000, 0x10000
MEMORY_FIRST, MEMORY_END = 0xC0000000, 0xFEC00000
PAM0, PAM6 = 0x59, 0x5F
IDE_CLASS, IDETIM, IDE_DECODE = 0x0101, (0x40, 0x42), 0x8000
TABLES = 0xF0000
IRET = 0xFFF53
"""Where the unused interrupt vectors point, as in every PC BIOS."""


@frozen
class Bar:
    """A BAR as it was sized.  `wide` is a 64-bit one."""

    register: int
    size: int
    io: bool
    wide: bool


@define
class Function:
    """A PCI function that was found."""

    device: int
    function: int
    vendor: int
    device_id: int
    class_code: int
    pin: int
    bars: list[Bar] = field(factory=list)
    line: int | None = None


class ConfigSpace:
    """Configuration mechanism 1."""

    def __init__(self, bus: PortBus) -> None:
        self._bus = bus

    def read(self, device: int, function: int, register: int, size: int) -> int:
        """A register of a function of bus 0."""
        self._select(device, function, register)
        return self._bus.port_read(DATA + (register & 3), size)

    def write(self, device: int, function: int, register: int, size: int, value: int) -> None:
        """The same, written."""
        self._select(device, function, register)
        self._bus.port_write(DATA + (register & 3), size, value)

    def _select(self, device: int, function: int, register: int) -> None:
        self._bus.port_write(ADDRESS, 4, 1 << 31 | device << 11 | function << 8 | register & 0xFC)


def set_up(memory: GuestMemory, bus: PortBus) -> list[Function]:
    """All of it; the functions that were found, with what they were given."""
    bus.port_write(0x92, 1, bus.port_read(0x92, 1) & 0xFE | 2)  # A20 on, no reset
    config = ConfigSpace(bus)
    functions = find_functions(config)
    _shadow_to_ram(config, functions)
    _assign(config, functions, memory)
    _enable_ide(config, functions)
    _set_up_legacy(bus)
    _route_interrupts(config, bus, functions)
    _write_tables(memory, functions)
    _shadow_read_only(config, functions)
    return functions


def find_functions(config: ConfigSpace) -> list[Function]:
    """The functions of bus 0, by address."""
    found = []
    for device in range(32):
        for number in range(8):
            identity = config.read(device, number, VENDOR, 4)
            if identity & 0xFFFF in (0, 0xFFFF):
                if number == 0:
                    break
                continue
            found.append(
                Function(
                    device,
                    number,
                    identity & 0xFFFF,
                    identity >> 16,
                    config.read(device, number, 8, 4) >> 8,
                    config.read(device, number, INTERRUPT_PIN, 1),
                )
            )
            if number == 0 and not config.read(device, 0, HEADER_TYPE, 1) & 0x80:
                break
    return found


def size_bars(config: ConfigSpace, function: Function) -> list[Bar]:
    """Find out what a function's BARs want; decoding is off while it lasts."""
    at = (function.device, function.function)
    if config.read(*at, HEADER_TYPE, 1) & 0x7F:
        return []  # a bridge: its windows are the guest's business
    command = config.read(*at, COMMAND, 2)
    config.write(*at, COMMAND, 2, command & ~(COMMAND_IO | COMMAND_MEMORY))
    bars = []
    register = BAR0
    while register < BAR0 + 24:
        kind = config.read(*at, register, 4)
        io, wide = bool(kind & 1), kind & 7 == 4
        value = _probe(config, at, register, 0xFFFFFFFC if io else 0xFFFFFFF0)
        if wide:
            value |= _probe(config, at, register + 4, 0xFFFFFFFF) << 32
            mask = (1 << 64) - 1
        else:
            mask = 0xFFFF if io else 0xFFFFFFFF
        if value & mask:
            bars.append(Bar(register, -value & mask, io, wide))
        register += 8 if wide else 4
    if value := _probe(config, at, ROM_BAR, 0xFFFFF800):
        bars.append(Bar(ROM_BAR, -value & 0xFFFFFFFF, False, False))
    config.write(*at, COMMAND, 2, command)
    return bars


def _probe(config: ConfigSpace, at: tuple[int, int], register: int, mask: int) -> int:
    before = config.read(*at, register, 4)
    config.write(*at, register, 4, mask)
    value = config.read(*at, register, 4) & mask
    config.write(*at, register, 4, before)
    return value


def _assign(config: ConfigSpace, functions: list[Function], memory: GuestMemory) -> None:
    wanted = []
    for function in functions:
        function.bars = size_bars(config, function)
        wanted += [(bar, function) for bar in function.bars]
    wanted.sort(key=lambda item: -item[0].size)  # stable: equal sizes stay in order of address
    io, low = IO_FIRST, max(MEMORY_FIRST, low_ram_end(memory))
    high = max(1 << 32, memory.ram_ranges()[-1][1])
    for bar, function in wanted:
        at = (function.device, function.function)
        if bar.io:
            address, end = _align(io, bar.size), IO_END
        else:
            address, end = _align(low, bar.size), MEMORY_END
        if address + bar.size > end and bar.wide:
            address, end = _align(high, bar.size), 1 << 40
            high = address + bar.size
        elif address + bar.size > end:
            log.warning("no room for BAR %#x of %02x.%x (%#x bytes)", bar.register, *at, bar.size)
            continue
        elif bar.io:
            io = address + bar.size
        else:
            low = address + bar.size
        config.write(*at, bar.register, 4, address & 0xFFFFFFFF)
        if bar.wide:
            config.write(*at, bar.register + 4, 4, address >> 32)
        if bar.register != ROM_BAR:  # a ROM is switched on by who wants to read it
            enable = COMMAND_IO if bar.io else COMMAND_MEMORY
            config.write(*at, COMMAND, 2, config.read(*at, COMMAND, 2) | enable)


def _enable_ide(config: ConfigSpace, functions: list[Function]) -> None:
    """Intel's IDE controllers in legacy mode decode their fixed ports once IDETIM says so (290550)."""
    for function in functions:
        if function.vendor == 0x8086 and function.class_code >> 8 == IDE_CLASS:
            at = (function.device, function.function)
            for register in IDETIM:
                config.write(*at, register, 2, config.read(*at, register, 2) | IDE_DECODE)
            config.write(*at, COMMAND, 2, config.read(*at, COMMAND, 2) | COMMAND_IO)


def _route_interrupts(config: ConfigSpace, bus: PortBus, functions: list[Function]) -> None:
    router = _router(functions)
    if router is not None:
        for pirq, line in enumerate(pir.PIRQ_LINES):
            config.write(router.device, router.function, pir.FIRST_LINK + pirq, 1, line)
    levels = 0
    for line in pir.PIRQ_LINES:
        levels |= 1 << line
    bus.port_write(0x4D0, 1, levels & 0xFF)
    bus.port_write(0x4D1, 1, levels >> 8)
    for function in functions:
        if 1 <= function.pin <= 4:
            function.line = pir.PIRQ_LINES[pir.pirq_of(function.device, function.pin - 1)]
            config.write(function.device, function.function, INTERRUPT_LINE, 1, function.line)


def _set_up_legacy(bus: PortBus) -> None:
    """PIC with the BIOS's vectors and everything masked, PIT at 18.2 Hz, RTC counting, the keyboard
    controller translating to scan code set 1."""
    for port, value in (
        *((0x20, 0x11), (0x21, 0x08), (0x21, 0x04), (0x21, 0x01)),
        *((0xA0, 0x11), (0xA1, 0x70), (0xA1, 0x02), (0xA1, 0x01)),
        *((0x21, 0xFF), (0xA1, 0xFF)),
        *((0x43, 0x36), (0x40, 0x00), (0x40, 0x00)),
        *((0x64, 0x60), (0x60, 0x45)),
        *((0x70, 0x0A), (0x71, 0x26), (0x70, 0x0B), (0x71, 0x02), (0x70, 0x0D)),
    ):
        bus.port_write(port, 1, value)
    bus.port_read(0x71, 1)


def _write_tables(memory: GuestMemory, functions: list[Function]) -> None:
    memory.write(0, struct.pack("<HH", IRET & 0xFFFF, 0xF000) * 256)
    memory.write(IRET, b"\xcf")
    # BIOS data area: the EBDA's segment, kilobytes of conventional memory.
    memory.write(0x400, bytes(256))
    memory.write(0x40E, struct.pack("<H", LOW_END >> 4))
    memory.write(0x413, struct.pack("<H", LOW_END >> 10))
    memory.write(LOW_END, b"\x01" + bytes(1023))
    if _router(functions) is not None:
        memory.write(TABLES, pir.build(f.device for f in functions if f.pin))


def _router(functions: list[Function]) -> Function | None:
    for function in functions:
        if function.class_code >> 8 == 0x0601:
            return function
    return None


def _shadow_to_ram(config: ConfigSpace, functions: list[Function]) -> None:
    for register in range(PAM0, PAM6 + 1) if _has_pam(functions) else ():
        config.write(0, 0, register, 1, 0x30 if register == PAM0 else 0x33)


def _shadow_read_only(config: ConfigSpace, functions: list[Function]) -> None:
    if _has_pam(functions):
        config.write(0, 0, PAM0, 1, 0x10)


def _has_pam(functions: list[Function]) -> bool:
    return any(f.device == 0 and (f.vendor, f.device_id) == (0x8086, 0x1237) for f in functions)


def _align(address: int, size: int) -> int:
    return (address + size - 1) & ~(size - 1)
