"""What the conformance kit cannot guess of the adapter, and what must be true of it at any time."""

from __future__ import annotations

from typing import Any

from vbox_pdm import RegisterMap, optionrom
from vbox_pdm.testing.conformance import Setup
from vbox_plugin_vga import dispi
from vbox_plugin_vga.planes import PLANE, WINDOW, WINDOW_SIZE
from vbox_plugin_vga.registers import (
    AttributeController,
    CrtController,
    GraphicsController,
    Sequencer,
    stored_bits,
)
from vbox_plugin_vga.vga import FEATURE_BITS, MIB, MISC_BITS, Vga

_PLANES = ((0x3C2, 0x63), (0x3C4, 0x0F02), (0x3C4, 0x0604), (0x3CE, 0x0506), (0x3CE, 0xFF08))
_DISPI = ((dispi.XRES, 64), (dispi.YRES, 64), (dispi.BPP, 32))


def setup() -> Setup:
    """A ROM that only returns, little memory to be saved; the guest's driver makes planes that can be
    written and read, and prepares a DISPI mode that a write of ENABLE sets."""
    rom = optionrom.with_checksum(optionrom.padded(b"\x55\xaa\x00\xcb"))
    return Setup(
        {"vram_size": MIB},
        keys={"bios_rom": ("", "no-rom.bin"), "vram_size": (2 * MIB,)},
        files={"vgabios-stdvga.bin": rom},
        prepare=(
            *(("port_write", port, 2 if value > 0xFF else 1, value) for port, value in _PLANES),
            ("mmio_write", WINDOW, 4, 0x12345678),
            ("mmio_read", WINDOW, 1),
            *(("port_write", 0x1CE + at, 2, pair[at]) for pair in _DISPI for at in range(2)),
            ("port_write", 0x1CE, 2, dispi.ENABLE),
        ),
        invariants={
            "registers have no bits but their own": _odd_bits,
            "the window and its bank lie within memory": _window_outside,
            "what a DISPI mode shows lies within memory": _mode_outside,
        },
        exercises={
            "a mode that is larger than memory is refused": _large_mode,
            "the last bank ends where memory does": _last_bank,
            "all indexes of the attribute controller": _attributes,
        },
    )


def _odd_bits(card: Vga, bench: Any) -> str | None:
    held: tuple[tuple[type[RegisterMap], bytearray], ...] = (
        (Sequencer, card.sequencer),
        (GraphicsController, card.graphics),
        (CrtController, card.crtc),
        (AttributeController, card.attribute),
    )
    for registers, values in held:
        for index, (value, bits) in enumerate(zip(values, stored_bits(registers), strict=True)):
            if value & ~bits:
                return f"{registers.__name__} {index:#x} holds {value:#x}, and has {bits:#x}"
    if card.misc & ~MISC_BITS or card.feature & ~FEATURE_BITS:
        return f"miscellaneous output holds {card.misc:#x}, feature control {card.feature:#x}"
    dac = card.dac
    if not (0 <= dac.address < 256 and 0 <= dac.component < 3):
        return f"the DAC is at component {dac.component} of colour {dac.address}"
    return None


def _window_outside(card: Vga, bench: Any) -> str | None:
    planes = card.planes
    size = len(planes.bytes) if planes.linear else len(planes.dwords)
    if 0 <= planes.low <= planes.high <= WINDOW_SIZE and 0 <= planes.bank <= size - PLANE:
        return None
    return f"window {planes.low:#x} to {planes.high:#x}, bank at {planes.bank:#x} of {size:#x}"


def _mode_outside(card: Vga, bench: Any) -> str | None:
    mode = card.dispi
    registers = mode.registers
    pitch = mode.pitch(registers[dispi.VIRT_WIDTH])
    bottom = registers[dispi.Y_OFFSET] + registers[dispi.YRES]
    right = registers[dispi.X_OFFSET] + registers[dispi.XRES]
    if not mode.enabled or (right <= registers[dispi.VIRT_WIDTH] and pitch * bottom <= mode.vram_size):
        return None
    return (
        f"{registers[dispi.XRES]} x {registers[dispi.YRES]} in lines of {pitch} bytes, down to line {bottom}"
    )


def _dispi(bench: Any, *writes: tuple[int, int]) -> None:
    for index, value in writes:
        bench.port_write(0x1CE, 2, index)
        bench.port_write(0x1CF, 2, value)


def _large_mode(card: Vga, bench: Any) -> str | None:
    """1600 x 1200 in 32 bits are more than 2 MiB."""
    wanted = ((dispi.ENABLE, 0), (dispi.XRES, 1600), (dispi.YRES, 1200), (dispi.BPP, 32), (dispi.ENABLE, 1))
    _dispi(bench, *wanted)
    return "it is on" if card.dispi.enabled and card.dispi.vram_size <= 2 * MIB else None


def _attributes(card: Vga, bench: Any) -> str | None:
    """Also those where no register is."""
    for index in range(0x20):
        bench.port_read(0x3DA, 1)
        bench.port_read(0x3BA, 1)
        bench.port_write(0x3C0, 1, index)
        bench.port_write(0x3C0, 1, 0)
    bench.port_write(0x3C0, 1, 0x20)
    return None


def _last_bank(card: Vga, bench: Any) -> str | None:
    """Of a linear mode; what a store at the end of the window has too much does not show in the next bank."""
    for port, value in ((0x3C3, 1), (0x3C2, 0x63)):  # the adapter and its memory answer
        bench.port_write(port, 1, value)
    mode = ((dispi.ENABLE, 0), (dispi.XRES, 64), (dispi.YRES, 64), (dispi.BPP, 8), (dispi.ENABLE, 1))
    _dispi(bench, *mode, (dispi.BANK, 1))
    bench.mmio_write(WINDOW, 4, 0)
    _dispi(bench, (dispi.BANK, 0))
    bench.mmio_write(WINDOW + 0xFFFE, 4, 0xFFFFFFFF)
    _dispi(bench, (dispi.BANK, 1))
    spilt = bench.mmio_read(WINDOW, 4)
    _dispi(bench, (dispi.BANK, 0xFFFF))
    bank = card.dispi.registers[dispi.BANK]
    if spilt:
        return f"a store at the end of bank 0 makes {spilt:#x} of the beginning of bank 1"
    return None if bank < card.dispi.most_banks else f"bank {bank:#x} of {card.dispi.most_banks:#x}"
