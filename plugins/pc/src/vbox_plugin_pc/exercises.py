"""What must work whatever happened to a chip before: short ways of a guest's driver through it, from its
initialisation on, for the conformance kit (`Setup.exercises`).

Each is a function of the device and its bench, and answers what did not come out; None when all is well.
"""

from __future__ import annotations

import struct
from typing import Any

MILLISECOND = 1_000_000
NOWHERE = 0x9000_0000
"""Where the machine has no memory."""
_ANSWER_TIME = 5
"""Milliseconds in which a mouse answers."""


# --- fw_cfg


def _carry_out(bench: Any, descriptor: int) -> int:
    """Start the transfer that a descriptor describes; its control word afterwards."""
    from vbox_plugin_pc.fwcfg import DMA_PORT

    bench.port_write(DMA_PORT, 4, 0)
    bench.port_write(DMA_PORT + 4, 4, int.from_bytes(descriptor.to_bytes(4, "big"), "little"))
    return int.from_bytes(bench.memory_read(descriptor, 4), "big")


def _directory(length: int, target: int) -> bytes:
    """A descriptor that selects the directory of files and reads its beginning."""
    from vbox_plugin_pc.fwcfg import CONTROL_READ, CONTROL_SELECT
    from vbox_plugin_pc.fwcfg_items import FILE_DIR

    return struct.pack(">IIQ", FILE_DIR << 16 | CONTROL_SELECT | CONTROL_READ, length, target)


def item_by_dma(device: Any, bench: Any) -> str | None:
    """The directory arrives where the descriptor says."""
    from vbox_plugin_pc.fwcfg_items import FILE_DIR

    bench.memory_write(0x3000, _directory(4, 0x4000))
    control, found = _carry_out(bench, 0x3000), bench.memory_read(0x4000, 4)
    right = bytes(device.items[FILE_DIR][:4])
    return None if (control, found) == (0, right) else f"{found!r} arrives, control is {control:#x}"


def dma_to_nowhere(device: Any, bench: Any) -> str | None:
    """A transfer to where no memory is has an error."""
    from vbox_plugin_pc.fwcfg import CONTROL_ERROR

    bench.memory_write(0x3000, _directory(16, NOWHERE))
    control = _carry_out(bench, 0x3000)
    return None if control & CONTROL_ERROR else f"control is {control:#x}"


def descriptor_cut_off(device: Any, bench: Any) -> str | None:
    """A descriptor of which a part lies outside of memory, which has 4 MiB, is not carried out."""
    half = (4 << 20) - 8  # the target is in the other one: it could be read as 0
    bench.memory_write(0, b"\x5a" * 64)
    bench.memory_write(half, _directory(64, 0)[:8])
    selector = device.selector
    _carry_out(bench, half)
    bench.memory_write(half, bytes(8))
    if device.selector != selector:
        return "it selected an item"
    return None if bench.memory_read(0, 64) == b"\x5a" * 64 else "it moved memory"


# --- clocks


def noon(device: Any, bench: Any) -> str | None:
    """A 12-hour clock shows 12 PM behind 11:59:59 AM, and 12 AM behind 11:59:59 PM."""
    base = device.config.base

    def put(index: int, value: int) -> None:
        bench.port_write(base, 1, index)
        bench.port_write(base + 1, 1, value)

    shown = []
    for hour in (0x0B, 0x8B):
        put(0x0B, 0x84)  # SET, binary, 12 hours
        put(0x0A, 0x26)
        for index, value in ((0, 59), (2, 59), (4, hour), (0x0B, 0x04)):
            put(index, value)
        bench.advance(1500 * MILLISECOND)
        bench.port_write(base, 1, 4)
        shown.append(bench.port_read(base + 1, 1))
    return None if shown == [0x8C, 0x0C] else f"it shows {shown[0]:#x} and {shown[1]:#x}"


def count_of_one(device: Any, bench: Any) -> str | None:
    """A rate generator that divides by 1, which the data sheet forbids, costs nobody anything."""
    for offset, value in ((3, 0x34), (0, 1), (0, 0)):
        bench.port_write(device.config.base + offset, 1, value)
    bench.advance(100 * MILLISECOND)
    return None


# --- DMA

_CLEAR = ((0x0D, 0), (0xDA, 0), (0x483, 0), (0x487, 0))
"""Both controllers, and the high pages of channels 0 and 1, where there are any."""


def byte_order(device: Any, bench: Any) -> str | None:
    """Address and count of a channel are written and read low byte first."""
    bench.port_write(0x0A, 1, 0x05)  # channel 1 is masked
    bench.port_write(0x0C, 1, 0)
    for port, value in ((2, 0x34), (2, 0x12), (3, 0x78), (3, 0x56)):
        bench.port_write(port, 1, value)
    bench.port_write(0x0C, 1, 0)
    found = [bench.port_read(port, 1) for port in (2, 2, 3, 3)]
    return None if found == [0x34, 0x12, 0x78, 0x56] else f"{bytes(found).hex(' ')} are read"


_ALL_BLOCKS = 1000 * MILLISECOND
"""Time for this transfer and for what a driver began before, on all channels."""


def block_over_the_end(device: Any, bench: Any) -> str | None:
    """A block of 16 bytes that reaches the end of its 64 KiB goes on at their beginning, and ends there."""
    first, page = 0xFFF8, 0x2_0000
    bench.memory_write(page, bytes(16))
    bench.memory_write(page + first, bytes(16))
    block = ((0x0B, 0x85), (0x83, page >> 16), (2, first & 0xFF), (2, first >> 8), (3, 15), (3, 0))
    cascade, request = ((0xD6, 0xC0), (0xD4, 0x00)), (0x09, 0x05)
    for port, value in (*_CLEAR, *block, *cascade, request):
        bench.port_write(port, 1, value)
    bench.advance(_ALL_BLOCKS)
    high, low = bench.memory_read(page + first, 16), bench.memory_read(page, 16)
    right = b"\1" * 8 + bytes(8)
    return None if high == low == right else f"there is {high.hex()}, and at the beginning {low.hex()}"


def memory_to_memory(device: Any, bench: Any) -> str | None:
    """Channels 0 and 1 copy 4 bytes; the last one stays in the temporary register."""
    page, text = 0x2_0000, b"\x11\x22\x33\x44"
    bench.memory_write(page + 0x100, text + bytes(0xFC) + bytes(8))
    source = ((0x0B, 0x88), (0x87, page >> 16), (0, 0x00), (0, 0x01), (1, 3), (1, 0))
    target = ((0x0B, 0x85), (0x83, page >> 16), (2, 0x00), (2, 0x02), (3, 3), (3, 0))
    request = ((0xD6, 0xC0), (0xD4, 0x00), (0x08, 0x01), (0x09, 0x04))
    for port, value in (*_CLEAR, *source, *target, *request):
        bench.port_write(port, 1, value)
    bench.advance(_ALL_BLOCKS)
    copied = bench.memory_read(page + 0x200, 8)
    shown = [bench.port_read(0x0D, 1) for _ in range(2)]
    right = copied == text + bytes(4) and shown == [0x44, 0x44]
    return None if right else f"{copied.hex(' ')} arrives, {bytes(shown).hex(' ')} stays"


# --- serial


def divisor_of_zero(device: Any, bench: Any) -> str | None:
    """A driver that probes writes all kinds of divisors."""
    base = device.config.io_base
    for offset, value in ((3, 0x83), (0, 0), (1, 0), (3, 3)):
        bench.port_write(base + offset, 1, value)
    return None


def fifo_of_16(device: Any, bench: Any) -> str | None:
    """In a loopback 16 characters are received, the next one is an overrun."""
    from vbox_plugin_pc.serial import UartType

    if device.config.uart_type is not UartType.UART_16550A:
        return None
    base = device.config.io_base
    for offset, value in ((3, 0x83), (0, 1), (1, 0), (3, 3), (1, 0), (4, 0x10), (2, 0xC7)):
        bench.port_write(base + offset, 1, value)
    for _ in range(10):  # what was on its way goes at the rate of its beginning: 6 seconds at the slowest
        if bench.port_read(base + 5, 1) & 0x40:
            break
        bench.advance(1000 * MILLISECOND)
    bench.port_write(base + 2, 1, 0xC7)
    bench.port_read(base + 5, 1)
    status = 0
    for value in range(17):
        bench.port_write(base, 1, value)
        bench.advance(MILLISECOND // 4)
        if value == 15:
            status = bench.port_read(base + 5, 1)
    overrun = bench.port_read(base + 5, 1)
    found = bytes(bench.port_read(base, 1) for _ in range(16))
    if found != bytes(range(16)):
        return f"{found.hex(' ')} are received"
    return None if not status & 2 and overrun & 2 else f"LSR is {status:#x}, behind one more {overrun:#x}"


# --- keyboard controller


def _mouse_alone(bench: Any) -> None:
    """The keyboard is off, the mouse on, and reset; there are no interrupts and no translation."""
    for port, value in ((0x64, 0x60), (0x60, 0x20), (0x64, 0xAD), (0x64, 0xA8)):
        bench.port_write(port, 1, value)
    _drain(bench)
    _mouse_answers(bench, 0xFF)  # and what it had seen before


def refused_mouse_hears(device: Any, bench: Any) -> str | None:
    """A source of motion that is refused is told when a guest has read what was there."""
    source = bench.link(device, 1).lower
    if source is None:
        return None
    _mouse_alone(bench)
    _mouse_answers(bench, 0xF4)  # what moves from now on is reported
    taken = 0
    while device.mouse.mouse_event(1, 0, 0, 0, taken & 1):
        taken += 1
        if taken > 4096:
            return "it never refuses"
    before = len(source.trace)
    _drain(bench, 20)  # it samples 100 times a second
    heard = ("mouse_ready",) in source.trace[before:]
    return None if heard else f"it took {taken} events, and does not say that there is room again"


def mouse_is_found(device: Any, bench: Any) -> str | None:
    """A driver resets a mouse, finds that it refuses an odd rate, and turns its wheel on."""
    _mouse_alone(bench)
    talk = [((0xFF,), "fa aa 00"), ((0xF3, 0), "fa fe"), ((0xF5,), "fa")]
    talk += [((0xF3, rate), "fa fa") for rate in (200, 100, 80)]
    for sent, right in [*talk, ((0xF2,), "fa 03")]:
        found = b"".join(_mouse_answers(bench, byte) for byte in sent).hex(" ")
        if found != right:
            return f"{bytes(sent).hex(' ')} is answered by {found}"
    return None


def _mouse_answers(bench: Any, byte: int) -> bytes:
    bench.port_write(0x64, 1, 0xD4)
    bench.port_write(0x60, 1, byte)
    return _drain(bench)


def _drain(bench: Any, quiet: int = _ANSWER_TIME) -> bytes:
    """All that comes from the controller until it has been `quiet` for so many milliseconds."""
    found, silent = bytearray(), 0
    while silent < quiet and len(found) < 256:
        if bench.port_read(0x64, 1) & 1:
            found.append(bench.port_read(0x60, 1))
            silent = 0
        else:
            bench.advance(MILLISECOND)
            silent += 1
    return bytes(found)
