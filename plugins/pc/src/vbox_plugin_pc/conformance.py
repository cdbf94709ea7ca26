"""What the conformance kit cannot guess of the board's devices; their modules have the hook from here.

`prepare` is what a guest's driver does first: random accesses hardly write four command words in order.
The invariants say what is true after every step, most of all that an interrupt line is what the registers
say: a line that was forgotten shows in none of them.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vbox_pdm import hookimpl
from vbox_plugin_pc import exercises

if TYPE_CHECKING:
    from vbox_pdm.testing.conformance import Setup

Check = Callable[[Any, Any], str | None]
"""Of a device and its bench.  None: it holds."""
Call = tuple[Any, ...]


@hookimpl
def vbox_conformance_setup(name: str, folder: Path) -> Setup | None:
    """By type."""
    from vbox_pdm.testing.conformance import Setup

    describe = _TYPES.get(name)
    return Setup(**describe()) if describe is not None else None


def same(one: Callable[[Any], object], other: Callable[[Any], object]) -> Check:
    """Two things of a device are equal."""

    def check(device: Any, bench: Any) -> str | None:
        is_, must = one(device), other(device)
        return None if is_ == must else f"it is {is_!r}, and must be {must!r}"

    return check


def true(condition: Callable[[Any], bool]) -> Check:
    """Something of a device holds."""
    return lambda device, bench: None if condition(device) else "it is not so"


def out(*writes: tuple[int, int]) -> list[Call]:
    """(port, byte)."""
    return [("port_write", port, 1, value) for port, value in writes]


# --- chips with interrupts


def serial() -> dict[str, Any]:
    """115200 8N1, FIFO, all interrupts."""
    from vbox_plugin_pc.serial import IIR_NONE, LSR_DR, LSR_THRE, MCR_OUT2

    return {
        "prepare": out(
            (0x3FB, 0x83), (0x3F8, 1), (0x3F9, 0), (0x3FB, 3), (0x3FA, 0x07), (0x3FC, 0x0B), (0x3F9, 0x0F)
        ),
        "invariants": {
            "the line is what pends, let out by OUT2": same(
                lambda uart: uart.irq.level,
                lambda uart: uart._highest() != IIR_NONE and bool(uart.mcr & MCR_OUT2),
            ),
            "DR says whether a character is there": same(
                lambda uart: bool(uart.lsr & LSR_DR), lambda uart: bool(uart.received)
            ),
            "THRE says whether nothing waits": same(
                lambda uart: bool(uart.lsr & LSR_THRE), lambda uart: not uart.waiting
            ),
            "a FIFO has 16 places": true(lambda uart: max(len(uart.received), len(uart.waiting)) <= 16),
            "each character has its errors": same(
                lambda uart: len(uart.received), lambda uart: len(uart.received_errors)
            ),
        },
        "exercises": {
            "a loopback takes 16 characters": exercises.fifo_of_16,
            "a divisor of 0": exercises.divisor_of_zero,
        },
    }  # fmt: skip


def i8259() -> dict[str, Any]:
    """As on every PC: vectors from 0x08 and 0x70 on, the slave on IR2, nothing masked."""
    return {
        "prepare": out(
            (0x20, 0x11), (0x21, 0x08), (0x21, 0x04), (0x21, 0x01), (0x21, 0x00),
            (0xA0, 0x11), (0xA1, 0x70), (0xA1, 0x02), (0xA1, 0x01), (0xA1, 0x00),
        ),
        "invariants": {
            "INT is what IRR, ISR and IMR say": same(
                lambda pair: (pair.master.out, pair.slave.out),
                lambda pair: (pair.master.asks(), pair.slave.asks()),
            ),
            "IR2 is the slave's INT": same(
                lambda pair: bool(pair.master.pins & 4), lambda pair: pair.slave.out
            ),
            "INTR is the master's INT": lambda pair, bench: (
                None if bench.intr == pair.master.out else f"INTR is {bench.intr}"
            ),
        },
    }  # fmt: skip


def i8254() -> dict[str, Any]:
    """A square wave on counter 0, counter 2 gated."""

    def out_0(pit: Any) -> bool:
        counter = pit.counters[0]
        # Modes 2 and 4 have a pulse of one clock, which the line makes at its end; a period of 1 is illegal.
        followed = counter.mode in (0, 1, 3, 5) and counter.period > 1 and counter.count > 1
        return bool(counter.level(pit.clock()) if followed else pit.irq.level)

    return {
        "prepare": out((0x43, 0x36), (0x40, 0x20), (0x40, 0), (0x43, 0xB0), (0x42, 0), (0x42, 1), (0x61, 1)),
        "invariants": {
            "IRQ 0 is OUT 0": same(lambda pit: pit.irq.level, out_0),
            "GATE 2 is bit 0 of port 0x61": same(
                lambda pit: [counter.gate for counter in pit.counters],
                lambda pit: [True, True, bool(pit.control & 1)],
            ),
        },
        "exercises": {"a rate generator divides by 1": exercises.count_of_one},
    }


def mc146818() -> dict[str, Any]:
    """All interrupts; also a moment without a rate, and one with an alarm that never comes.  Register C is
    what the next read reads."""
    from vbox_plugin_pc.rtc import _ENABLES, PIE, REG_A, REG_B, SET, UIE, rate_of

    def pending(rtc: Any) -> bool:
        return bool(rtc.flags & rtc.cmos[REG_B] & _ENABLES)

    def waits(rtc: Any, enable: int) -> bool:
        return bool(rtc.cmos[REG_B] & enable) and rtc.held < 0 and not pending(rtc)

    registers = ((0x0B, 0x72), (0x0A, 0x20), (0x0A, 0x26), (1, 0x99), (1, 0xC0), (3, 0xC0), (5, 0xC0))
    return {
        "prepare": [
            *(call for index, value in registers for call in out((0x70, index), (0x71, value))),
            *out((0x70, 0x0C)),
        ],
        "invariants": {
            "IRQ 8 is what flags and enables say": same(lambda rtc: rtc.irq.level, pending),
            "the periodic timer runs while its interrupt may come": same(
                lambda rtc: rtc.periodic.active,
                lambda rtc: waits(rtc, PIE) and rate_of(rtc.cmos[REG_A]) > 0,
            ),
            "an update is waited for when its interrupt may come": true(
                lambda rtc: rtc.updates.active or not waits(rtc, UIE) or bool(rtc.cmos[REG_B] & SET)
            ),
        },
        "exercises": {"a clock of 12 hours passes noon and midnight": exercises.noon},
    }  # fmt: skip


def pckbd() -> dict[str, Any]:
    """Translation, both interrupts, the mouse on."""
    from vbox_plugin_pc import kbc, ps2_keyboard, ps2_mouse

    def lines(device: Any) -> tuple[bool, bool]:
        full, aux = device.status & kbc.STATUS_FULL, device.status & kbc.STATUS_AUX
        return (
            bool(full and not aux and device.mode & kbc.MODE_KEYBOARD_IRQ),
            bool(full and aux and device.mode & kbc.MODE_AUX_IRQ),
        )

    def stuck(device: Any) -> bool:
        if device.status & kbc.STATUS_FULL or device.wire_timer.active:
            return False
        keys = device.keyboard.has_data and not device.mode & kbc.MODE_KEYBOARD_OFF
        motion = device.mouse.has_data and not device.mode & kbc.MODE_AUX_OFF
        return bool(device.answers or keys or motion)

    def forgotten(device: Any) -> bool:
        keyboard, mouse = device.keyboard, device.mouse
        keys = keyboard.refused and not keyboard.releases and keyboard._room()
        return bool(keys or (mouse.refused and len(mouse.events) < ps2_mouse.EVENTS))

    return {
        "prepare": [
            *out((0x64, 0x60), (0x60, 0x47), (0x64, 0xD4), (0x60, 0xF4)),
            ("port_read", 0x60, 1), ("advance", kbc.BYTE_TIME),
        ],
        "invariants": {
            "the lines are what the buffer and the command byte say": same(
                lambda device: (device.keyboard_irq.level, device.aux_irq.level), lines
            ),
            "registers have their width": true(
                lambda device: 0 <= device.mode <= kbc.MODE_BITS and 0 <= device.status <= 0xFF
            ),
            "what can go into the buffer does": true(lambda device: not stuck(device)),
            "who was refused hears of room": true(lambda device: not forgotten(device)),
            "the keyboard's buffer has 16 places": true(
                lambda device: len(device.keyboard.codes) - device.keyboard.overrun
                <= ps2_keyboard.BUFFER_SIZE
            ),
            "a packet has at most 4 bytes": true(lambda device: len(device.mouse.packet) <= 4),
        },
        "exercises": {
            "a driver finds a mouse with a wheel": exercises.mouse_is_found,
            "a mouse that was refused hears of room": exercises.refused_mouse_hears,
        },
    }  # fmt: skip


# --- DMA, bridges


def i8237() -> dict[str, Any]:
    """Channel 4 cascades; channels 1 and 5 have blocks in memory, and are not masked."""

    def fit(dma: Any) -> bool:
        words = [n for c in dma.channels for n in (c.base_address, c.base_count, c.address, c.count)]
        nibbles = [n for c in dma.controllers for n in (c.mask, c.done, c.software, c.lines)]
        return all(0 <= n <= 0xFFFF for n in words) and all(0 <= n <= 0x0F for n in nibbles)

    return {
        "prepare": out(
            (0xD6, 0xC0), (0xD4, 0x00), (0x0C, 0), (0x0B, 0x45), (0x02, 0x00), (0x02, 0x20), (0x03, 0x3F),
            (0x03, 0x00), (0x83, 0x00), (0x0A, 0x01), (0xD8, 0), (0xD6, 0x45), (0xC4, 0x00), (0xC4, 0x20),
            (0xC6, 0x3F), (0xC6, 0x00), (0x8B, 0x00), (0xD4, 0x01),
        ),
        "invariants": {"registers have their width": true(fit)},
        "exercises": {
            "address and count of channel 1 read as written": exercises.byte_order,
            "a block over the end of 64 KiB": exercises.block_over_the_end,
            "memory is copied": exercises.memory_to_memory,
        },
    }  # fmt: skip


def i440fx() -> dict[str, Any]:
    """SMRAM is open, and the attribute map is addressed."""
    from vbox_plugin_pc.i440fx import PAM, SMRAM, TRC

    return {
        "prepare": [("pci_write", 0, 0, SMRAM, 1, 0x4A), ("port_write", 0xCF8, 4, 0x80000058)],
        "invariants": {
            "what is in effect is what configuration space says": same(
                lambda bridge: [*bridge.pam, bridge.smram, bridge.turbo_reset],
                lambda bridge: [
                    bridge.pci.config_read(at, 1) for at in (*range(PAM, PAM + 7), SMRAM, TRC)
                ],
            ),
        },
    }  # fmt: skip


def piix3() -> dict[str, Any]:
    """Two PIRQ lines share an interrupt, one has its own, one has none; it was different before."""
    from vbox_plugin_pc.piix3 import PIRQRC, SMIEN, SMIREQ

    def lines(bridge: Any) -> dict[int, bool]:
        return {
            line: any(bridge.asserted[at] for at in range(4) if bridge.routes[at] == line)
            for line in bridge.lines
        }

    return {
        "prepare": [
            ("pci_write", 1, 0, PIRQRC, 4, 0x0A0B0905),
            ("pci_write", 1, 0, PIRQRC, 4, 0x800B0A0A),
            ("pci_write", 1, 0, SMIEN, 2, 0x80),
        ],
        "invariants": {
            "an interrupt is the OR of what is routed to it": same(
                lambda bridge: {line: handle.level for line, handle in bridge.lines.items()}, lines
            ),
            "what is in effect is what configuration space says": same(
                lambda bridge: (bridge.routes, bridge.smi_requests),
                lambda bridge: (
                    bridge.pci.config_read(PIRQRC, 4).to_bytes(4, "little"),
                    bridge.pci.config_read(SMIREQ, 2),
                ),
            ),
        },
    }  # fmt: skip


# --- firmware, debug ports


def pcbios() -> dict[str, Any]:
    """Images: of the usual size, the smallest, and one that no ROM can have."""
    from vbox_plugin_pc.pcbios import CHECKED, CHECKSUM, KIB, SMALLEST

    def checksum(device: Any, bench: Any) -> str | None:
        cmos = bench.cmos
        told = cmos[CHECKSUM] << 8 | cmos[CHECKSUM + 1]
        right = sum(cmos.get(index, 0) for index in CHECKED) & 0xFFFF
        return None if told == right else f"it is {told:#x}, and must be {right:#x}"

    def vector(device: Any, bench: Any) -> str | None:
        found = [bench.memory_read(end - 16, 16) for end in (1 << 20, 4 << 30)]
        return None if found == [b"\xf4" * 16] * 2 else f"{found} are there"

    sizes = {"bios-256k.bin": 256 * KIB, "small.bin": SMALLEST, "odd.bin": 4 * KIB, "uneven.bin": 68 * KIB}
    return {
        "keys": {"bios_rom": ["bios-256k.bin", "small.bin"]},
        "refuses": [{"bios_rom": "odd.bin"}, {"bios_rom": "uneven.bin"}],
        "files": {name: b"\xf4" * size for name, size in sizes.items()},
        "invariants": {"CMOS has its checksum": checksum, "the ROM is at both its places": vector},
    }


def qemu_fw_cfg() -> dict[str, Any]:
    """With a kernel that is a header and nothing else, and what may go with one.  The guest has fetched
    the directory by DMA."""
    from vbox_plugin_pc import bzimage
    from vbox_plugin_pc.fwcfg import CONTROL_READ, CONTROL_SELECT, DMA_PORT
    from vbox_plugin_pc.fwcfg_items import FILE_DIR

    descriptor = struct.pack(">IIQ", FILE_DIR << 16 | CONTROL_SELECT | CONTROL_READ, 64, 0x2000)
    return {
        "config": {"kernel": "kernel"},
        "keys": {
            "kernel": [""],
            "initrd": ["initrd"],
            "append": ["console=ttyS0 vga=ask"],
            "boot_order": ["/rom@genroms/linuxboot.bin|HALT"],
            "files": ["opt/org.example/file=initrd"],
            "texts": ["opt/org.example/text=some text"],
            "uuid": ["01234567-89ab-cdef-0123-456789abcdef"],
        },
        "configs": [{"initrd": "initrd", "append": "console=ttyS0", "boot_menu": True}],
        "refuses": [
            {"kernel": "initrd"},
            {"kernel": "", "append": "console=ttyS0"},
            {"kernel": "", "initrd": "initrd"},
            {"files": "no pair"},
            {"texts": "a=b;no pair"},
            {"uuid": "none"},
        ],
        "files": {"kernel": bzimage.smallest(), "initrd": bytes(range(256)) * 20},
        "prepare": [
            ("memory_write", 0x1000, descriptor),
            ("port_write", DMA_PORT + 4, 4, 0x00100000),
        ],
        "invariants": {
            "the position is in the item": true(lambda device: 0 <= device.offset <= len(device.content)),
            "the item is the selected one": same(
                lambda device: bytes(device.content),
                lambda device: bytes(device.items.get(device.selector, b"")),
            ),
        },
        "exercises": {
            "the directory is fetched by DMA": exercises.item_by_dma,
            "a transfer by DMA to nowhere": exercises.dma_to_nowhere,
            "a descriptor at the end of memory": exercises.descriptor_cut_off,
        },
        "ram": 4 << 20,
    }  # fmt: skip


def debugcon() -> dict[str, Any]:
    """Nothing to begin with."""
    from vbox_plugin_pc.debugcon import BACKLOG

    return {"invariants": {"the backlog is bounded": true(lambda device: len(device.backlog) <= BACKLOG)}}


def debug_exit() -> dict[str, Any]:
    """Nothing to begin with."""

    def odd(device: Any, bench: Any) -> str | None:
        code = bench.exit_code
        return None if code is None or (0 < code <= 0xFF and code & 1) else f"it is {code}"

    return {"invariants": {"an exit code is an odd byte": odd}}


_TYPES: dict[str, Callable[[], dict[str, Any]]] = {
    "serial": serial,
    "i8259": i8259,
    "i8254": i8254,
    "mc146818": mc146818,
    "pckbd": pckbd,
    "i8237": i8237,
    "i440fx": i440fx,
    "piix3": piix3,
    "pcbios": pcbios,
    "qemu-fw-cfg": qemu_fw_cfg,
    "debugcon": debugcon,
    "isa-debug-exit": debug_exit,
}
