"""A VGA on a bench, as a guest's BIOS and programs see it."""

from __future__ import annotations

from typing import Any

from vbox_pdm.testing import Bench
from vbox_pdm.testing.fake_display import FakeDisplay

WINDOW = 0xA0000
_TEXT_PALETTE = "000102030405140738393a3b3c3d3e3f"
_ZEROS = "00" * 6


class Mode:
    """Registers of a mode of the BIOS, in hexadecimal: miscellaneous output, SR1 on, CR, GR, AR."""

    def __init__(self, misc: int, sequencer: str, crtc: str, graphics: str, attribute: str) -> None:
        self.misc = misc
        self.sequencer, self.crtc = bytes.fromhex(sequencer), bytes.fromhex(crtc)
        self.graphics, self.attribute = bytes.fromhex(graphics), bytes.fromhex(attribute)
        assert [len(self.sequencer), len(self.crtc), len(self.graphics), len(self.attribute)] == [
            4,
            25,
            9,
            21,
        ]


MODES = {
    0x03: Mode(
        0x67, "00030002",
        "5f4f50825581bf1f004f0d0e00000000 9c8e8f281f96b9a3ff",
        "0000000000100e00ff", _TEXT_PALETTE + "0c000f0800",
    ),
    0x01: Mode(
        0x67, "08030002",
        "2d2728902ba0bf1f004f0d0e00000000 9c8e8f141f96b9a3ff",
        "0000000000100e00ff", _TEXT_PALETTE + "0c000f0800",
    ),
    0x04: Mode(
        0x63, "09030002",
        "2d2728902b80bf1f00c1" + _ZEROS + "9c8e8f140096b9a2ff",
        "0000000000300f00ff", "00131517020406071011121314151617" + "0100030000",
    ),
    0x06: Mode(
        0x63, "01010006",
        "5f4f50825480bf1f00c1" + _ZEROS + "9c8e8f280096b9c2ff",
        "0000000000000d00ff", "00" + "17" * 15 + "0100010000",
    ),
    0x07: Mode(
        0xA6, "00030002",
        "5f4f50825581bf1f004f0d0e00000000 9c8e8f280d96b9a3ff",
        "0000000000100a00ff", "00" + "08" * 7 + "10" + "18" * 7 + "0e000f0800",
    ),
    0x0D: Mode(
        0x63, "090f0006",
        "2d2728902b80bf1f00c0" + _ZEROS + "9c8e8f140096b9e3ff",
        "000000000000050fff", "00010203040506071011121314151617" + "01000f0000",
    ),
    0x12: Mode(
        0xE3, "010f0006",
        "5f4f508254800b3e0040" + _ZEROS + "ea8cdf2800e704e3ff",
        "000000000000050fff", _TEXT_PALETTE + "01000f0000",
    ),
    0x13: Mode(
        0x63, "010f000e",
        "5f4f50825480bf1f0041" + _ZEROS + "9c8e8f284096b9a3ff",
        "000000000040050fff", "000102030405060708090a0b0c0d0e0f" + "41000f0000",
    ),
}  # fmt: skip


class Card:
    """The adapter alone on a bench, without a BIOS."""

    def __init__(self, **config: Any) -> None:
        self.screen = FakeDisplay()
        self.bench = Bench()
        self.device = self.bench.add("vga", lun0=self.screen, **{"bios_rom": "", **config})
        self.crtc = 0x3D4

    # --- registers

    def get(self, port: int, size: int = 1) -> int:
        return self.bench.port_read(port, size)

    def put(self, port: int, value: int, size: int = 1) -> None:
        self.bench.port_write(port, size, value)

    def set_indexed(self, port: int, index: int, value: int) -> None:
        self.put(port, value << 8 | index, 2)

    def get_indexed(self, port: int, index: int) -> int:
        self.put(port, index)
        return self.get(port + 1)

    def sr(self, index: int, value: int) -> None:
        self.set_indexed(0x3C4, index, value)

    def gr(self, index: int, value: int) -> None:
        self.set_indexed(0x3CE, index, value)

    def cr(self, index: int, value: int) -> None:
        self.set_indexed(self.crtc, index, value)

    def ar(self, index: int, value: int) -> None:
        """An attribute register; the screen stays on."""
        self.get(self.crtc + 6)
        self.put(0x3C0, index | 0x20)
        self.put(0x3C0, value)

    def get_ar(self, index: int) -> int:
        self.get(self.crtc + 6)
        self.put(0x3C0, index | 0x20)
        value = self.get(0x3C1)
        self.get(self.crtc + 6)
        return value

    def dispi(self, index: int, value: int) -> None:
        self.put(0x1CE, index, 2)
        self.put(0x1CF, value, 2)

    def get_dispi(self, index: int) -> int:
        self.put(0x1CE, index, 2)
        return self.get(0x1CF, 2)

    # --- what a BIOS does

    def set_mode(self, number: int) -> None:
        """Program a mode; palette entry n of the DAC becomes `colour(n)`."""
        mode = MODES[number]
        self.put(0x3C2, mode.misc)
        self.crtc = 0x3D4 if mode.misc & 1 else 0x3B4
        self.sr(0, 3)
        for index, value in enumerate(mode.sequencer, 1):
            self.sr(index, value)
        self.cr(0x11, 0)
        for index, value in enumerate(mode.crtc):
            self.cr(index, value)
        for index, value in enumerate(mode.graphics):
            self.gr(index, value)
        for index, value in enumerate(mode.attribute):
            self.ar(index, value)
        self.put(0x3C8, 0)
        for entry in range(256):
            for component in dac_entry(entry):
                self.put(0x3C9, component)

    def load_font(self, glyphs: dict[int, bytes], font: int = 0) -> None:
        """Put characters into plane 2, as Linux and BIOSes do it; font 0..7 in order of SR3's numbers."""
        first = (0x0000, 0x4000, 0x8000, 0xC000, 0x2000, 0x6000, 0xA000, 0xE000)[font]
        before = [(0x3C4, at, self.get_indexed(0x3C4, at)) for at in (2, 4)]
        before += [(0x3CE, at, self.get_indexed(0x3CE, at)) for at in (4, 5, 6)]
        for index, value in ((2, 4), (4, 7)):
            self.sr(index, value)
        for index, value in ((4, 2), (5, 0), (6, 0)):
            self.gr(index, value)
        for code, rows in glyphs.items():
            for row, bits in enumerate(rows):
                self.store(first + 32 * code + row, 1, bits)
        for port, index, value in before:
            self.set_indexed(port, index, value)

    def type(self, column: int, row: int, text: str, attribute: int = 7, width: int = 80) -> None:
        """Characters into the text buffer at B8000."""
        for at, character in enumerate(text.encode("cp437")):
            self.store(0x18000 + 2 * (row * width + column + at), 2, character | attribute << 8)

    # --- memory

    def store(self, offset: int, size: int, value: int) -> None:
        self.bench.mmio_write(WINDOW + offset, size, value)

    def load(self, offset: int, size: int = 1) -> int:
        return self.bench.mmio_read(WINDOW + offset, size)

    @property
    def vram(self) -> memoryview:
        return memoryview(self.device.vram.view)


def dac_entry(number: int) -> tuple[int, int, int]:
    """Three components of six bits, different for each entry."""
    return number & 0x3F, number >> 2 & 0x3F, (number * 7) & 0x3F


def colour(number: int) -> tuple[int, int, int]:
    """What the screen shows of an entry."""
    red, green, blue = (c << 2 | c >> 4 for c in dac_entry(number))
    return red, green, blue
