"""From registers and VRAM to what a screen shows: text, and pixels.

Text modes with both fonts of plane 2, planar modes of 16 colours, the two bits a pixel of CGA, 256 colours,
and DISPI's depths.  Nothing but slices, translations and tables of bytes: a text screen of 80 by 25 takes a
few milliseconds.

Blinking is not drawn: what blinks, and the cursor, are shown.  DISPI's horizontal offset moves a planar mode
by eight pixels at a time.  A picture is never larger than `MOST_PIXELS`; what would be is cut at the bottom.
"""

from __future__ import annotations

import sys
from array import array

from attrs import frozen

from vbox_pdm import Picture, TextScreen
from vbox_plugin_vga.dispi import VIRT_WIDTH, X_OFFSET, XRES, Y_OFFSET, YRES, Dispi
from vbox_plugin_vga.geometry import SYNC_ON, Frame, frame
from vbox_plugin_vga.registers import GRAPHICS, SHIFT256, SHIFT_PAIRS

MOST_PIXELS = 1 << 25
PAS = 0x20  # attribute index
SCREEN_OFF = 0x20  # SR1
LINE_GRAPHICS, BLINK, P54S = 0x04, 0x08, 0x80  # AR10
CURSOR_OFF = 0x20  # CR0A
FONT_HEIGHT = 32
"""Bytes of a character in plane 2, whatever the height of characters is."""
_FONT_MAPS = (0x0000, 0x4000, 0x8000, 0xC000, 0x2000, 0x6000, 0xA000, 0xE000)

# By a byte of a glyph: its eight dots as bytes 0 and 1; with a ninth that is blank, or like the eighth.
_DOTS8 = tuple(bytes(bits >> 7 - dot & 1 for dot in range(8)) for bits in range(256))
_DOTS9 = tuple(dots + b"\0" for dots in _DOTS8)
_DOTS9_LINE = tuple(dots + dots[7:] for dots in _DOTS8)


def _spread(bits: int, positions: tuple[int, ...]) -> int:
    """Move bit 7, 6, ... of a byte to the given positions."""
    return sum((bits >> 7 - at & 1) << position for at, position in enumerate(positions))


# By a byte of a plane: its eight pixels as bytes of a little-endian qword, for plane 0.
_PLANAR = tuple(_spread(bits, tuple(8 * at for at in range(8))) for bits in range(256))
# By a byte: its four pixels of two bits as bytes of a little-endian dword.
_PAIRS = tuple(_spread(bits, tuple(8 * (at // 2) + (1 - at % 2) for at in range(8))) for bits in range(256))


@frozen
class Registers:
    """What a picture depends on, but for VRAM.  `rgb` has three bytes for each of 256 pixel values
    behind the DAC's mask."""

    sequencer: bytes
    graphics: bytes
    crtc: bytes
    attribute: bytes
    attribute_index: int
    rgb: bytes
    dispi: Dispi

    @property
    def scanning(self) -> bool:
        """Whether a mode is set at all."""
        return self.dispi.enabled or bool(self.crtc[0x17] & SYNC_ON)

    @property
    def is_text(self) -> bool:
        """Whether a text mode is set."""
        return self.scanning and not self.dispi.enabled and not self.graphics[6] & GRAPHICS

    @property
    def blanked(self) -> bool:
        """Whether nothing but black is shown."""
        return not self.attribute_index & PAS or bool(self.sequencer[1] & SCREEN_OFF)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the picture in pixels; 0, 0 without a mode."""
        if not self.scanning:
            return 0, 0
        if self.dispi.enabled:
            width, height = self.dispi.registers[XRES], self.dispi.registers[YRES]
            return width, min(height, MOST_PIXELS // width)
        shown = frame(self.crtc)
        if self.is_text:
            return shown.columns * self.dots, len(shown.text_rows()) * shown.height
        dots = 4 if self.graphics[5] & SHIFT256 else 8
        return shown.columns * dots, len(shown.graphics_lines())

    def describe(self) -> str:
        """The mode for people."""
        if not self.scanning:
            return "no mode is set"
        kind = f"DISPI {self.dispi.depth} bpp" if self.dispi.enabled else "graphics"
        width, height = self.size
        shown = ", blanked" if self.blanked else ""
        return f"{'text' if self.is_text else kind} mode, {width} x {height}{shown}"

    def pixel(self, colour: int) -> int:
        """What the attribute controller makes of one of 16 colours: an index for the DAC."""
        attribute = self.attribute
        value = attribute[colour & attribute[0x12] & 15]
        if attribute[0x10] & P54S:
            value = value & 0x0F | (attribute[0x14] & 3) << 4
        return value | (attribute[0x14] & 0x0C) << 4

    def palette(self) -> bytes:
        """The 16 colours as RGB bytes."""
        pixels = [self.pixel(colour) for colour in range(16)]
        return b"".join(self.rgb[3 * pixel : 3 * pixel + 3] for pixel in pixels)

    @property
    def dots(self) -> int:
        """Dots of a character: 8 or 9."""
        return 8 if self.sequencer[1] & 1 else 9


def picture(registers: Registers, memory: memoryview, dwords: memoryview) -> Picture | None:
    """Whatever is shown; None without a mode.  `memory` and `dwords` are both VRAM."""
    if not registers.scanning:
        return None
    if registers.blanked:
        width, height = registers.size
        return Picture(width, height, bytes(3 * width * height))
    if registers.dispi.enabled:
        return dispi_picture(registers, memory)
    return text_picture(registers, dwords) if registers.is_text else graphics_picture(registers, dwords)


# --- text


def cursor_lines(crtc: bytes) -> range:
    """The scan lines of a character that the cursor covers; empty where it is off."""
    first, last = crtc[0x0A] & 0x1F, crtc[0x0B] & 0x1F
    if crtc[0x0A] & CURSOR_OFF:
        return range(0)
    return range(first, min(last, crtc[9] & 0x1F) + 1)


def _cursor(shown: Frame, rows: list[int], crtc: bytes) -> tuple[int, int] | None:
    if not cursor_lines(crtc):
        return None
    for row, counter in enumerate(rows):
        column = shown.cursor - counter & 0xFFFF
        if column < shown.columns:
            return column, row
    return None


def text_screen(registers: Registers, memory: memoryview) -> TextScreen:
    """The screen of a text mode; `memory` is VRAM as dwords."""
    shown = frame(registers.crtc)
    rows = shown.text_rows()
    cells = bytearray(2 * shown.columns * len(rows))
    planes = b"".join(shown.fetch(memory, counter, shown.columns) for counter in rows)
    cells[0::2] = planes[0::4]
    cells[1::2] = planes[1::4]
    return TextScreen(
        columns=shown.columns,
        rows=len(rows),
        cells=bytes(cells),
        cursor=_cursor(shown, rows, registers.crtc),
        palette=registers.palette(),
        blinking=bool(registers.attribute[0x10] & BLINK),
    )


def fonts(registers: Registers, memory: memoryview) -> tuple[bytes, bytes]:
    """The glyphs, 32 bytes for each code, for attributes with bit 3 clear and set (SR3)."""
    select = registers.sequencer[3]
    clear = select & 3 | select >> 2 & 4
    chosen = select >> 2 & 3 | select >> 3 & 4
    found = []
    for number in (clear, chosen):
        first = _FONT_MAPS[number]
        found.append(memory[first : first + 256 * FONT_HEIGHT].tobytes()[2::4])
    return found[0], found[1]


class _Glyphs:
    """The characters of a screen as rows of colour numbers, made when they are first met."""

    def __init__(self, registers: Registers, memory: memoryview) -> None:
        self.fonts = fonts(registers, memory)
        self.height = (registers.crtc[9] & 0x1F) + 1
        self.underline = registers.crtc[0x14] & 0x1F
        mode = registers.attribute[0x10]
        self.dots = _DOTS8 if registers.dots == 8 else _DOTS9
        self.line_dots = _DOTS9_LINE if registers.dots == 9 and mode & LINE_GRAPHICS else self.dots
        self.background = 7 if mode & BLINK else 15
        self.known: dict[tuple[int, int], list[bytes]] = {}
        self.colours: dict[int, bytes] = {}

    def get(self, code: int, attribute: int) -> list[bytes]:
        """A row of 8 or 9 bytes for each scan line."""
        found = self.known.get((code, attribute))
        if found is None:
            found = self.known[code, attribute] = self._draw(code, attribute)
        return found

    def _draw(self, code: int, attribute: int) -> list[bytes]:
        dots = self.line_dots if 0xC0 <= code <= 0xDF else self.dots
        font = self.fonts[attribute >> 3 & 1]
        bits = bytearray(font[FONT_HEIGHT * code : FONT_HEIGHT * code + self.height])
        colours = self._colours(attribute)
        rows = [dots[row].translate(colours) for row in bits]
        if attribute & 0x77 == 1 and self.underline < self.height:
            rows[self.underline] = self.solid(attribute)
        return rows

    def solid(self, attribute: int) -> bytes:
        """A row in the foreground's colour."""
        return bytes([attribute & 15]) * len(self.dots[0])

    def _colours(self, attribute: int) -> bytes:
        found = self.colours.get(attribute)
        if found is None:
            pair = bytes([attribute >> 4 & self.background, attribute & 15])
            found = self.colours[attribute] = pair + bytes(254)
        return found


def text_picture(registers: Registers, memory: memoryview) -> Picture:
    """A text mode as pixels."""
    screen = text_screen(registers, memory)
    glyphs = _Glyphs(registers, memory)
    covered = cursor_lines(registers.crtc)
    lines: list[bytes] = []
    for row in range(screen.rows):
        cells = screen.cells[2 * screen.columns * row : 2 * screen.columns * (row + 1)]
        drawn = [glyphs.get(*cell) for cell in zip(cells[0::2], cells[1::2], strict=True)]
        if screen.cursor is not None and screen.cursor[1] == row:
            column = screen.cursor[0]
            block = glyphs.solid(cells[2 * column + 1])
            drawn[column] = [block if at in covered else line for at, line in enumerate(drawn[column])]
        lines += map(b"".join, zip(*drawn, strict=True))
    width = screen.columns * registers.dots
    return _coloured(width, len(lines), b"".join(lines), screen.palette)


# --- graphics


def graphics_picture(registers: Registers, memory: memoryview) -> Picture:
    """A graphics mode of VGA as pixels."""
    shown = frame(registers.crtc)
    lines = shown.graphics_lines()
    mode = registers.graphics[5]
    fetched = [shown.fetch(memory, counter, shown.columns, scan) for counter, scan in lines]
    if mode & SHIFT256:
        width, pixels, palette = 4 * shown.columns, b"".join(fetched), registers.rgb
    else:
        width, palette = 8 * shown.columns, registers.palette()
        pixels = _pairs(b"".join(fetched)) if mode & SHIFT_PAIRS else _planar(b"".join(fetched))
    return _coloured(width, len(lines), pixels, palette)


def _planar(data: bytes) -> bytes:
    """Four planes, interleaved by bytes, as eight pixels of four bits for each dword."""
    table = _PLANAR
    groups = zip(data[0::4], data[1::4], data[2::4], data[3::4], strict=True)
    return _qwords([table[a] | table[b] << 1 | table[c] << 2 | table[d] << 3 for a, b, c, d in groups])


def _pairs(data: bytes) -> bytes:
    """The same with two bits a pixel: four pixels of planes 0 and 2, then four of planes 1 and 3."""
    table = _PAIRS
    groups = zip(data[0::4], data[1::4], data[2::4], data[3::4], strict=True)
    return _qwords([table[a] | table[c] << 2 | (table[b] | table[d] << 2) << 32 for a, b, c, d in groups])


def _qwords(values: list[int]) -> bytes:
    made = array("Q", values)
    if sys.byteorder == "big":
        made.byteswap()
    return made.tobytes()


def _coloured(width: int, height: int, pixels: bytes, palette: bytes) -> Picture:
    """Pixels of one byte each through a palette of RGB bytes."""
    rgb = bytearray(3 * width * height)
    for component in range(3):
        table = palette[component::3]
        rgb[component::3] = pixels.translate(table + bytes(256 - len(table)))
    return Picture(width, height, bytes(rgb))


# --- DISPI


def dispi_picture(registers: Registers, memory: memoryview) -> Picture:
    """A DISPI mode as pixels; `memory` is VRAM as bytes."""
    dispi = registers.dispi
    values, depth = dispi.registers, dispi.depth
    width, height = registers.size
    pitch = dispi.pitch(values[VIRT_WIDTH])
    first = values[Y_OFFSET] * pitch
    if depth == 4:
        count = -(-width // 8) * 4
        first += values[X_OFFSET] // 8 * 4
        data = _lines(memory, first, pitch, count, height)
        pixels = _planar(data)
        if width % 8:
            wide = 2 * count
            pixels = b"".join(pixels[at : at + width] for at in range(0, wide * height, wide))
        return _coloured(width, height, pixels, registers.palette())
    size = (depth + 7) // 8
    data = _lines(memory, first + values[X_OFFSET] * size, pitch, width * size, height)
    if size == 1:
        return _coloured(width, height, data, registers.rgb)
    rgb = bytearray(3 * width * height)
    if size >= 3:
        for component in range(3):
            rgb[component::3] = data[2 - component :: size]
    else:
        for component, (low, high) in enumerate(_TABLES[depth]):
            rgb[component::3] = _either(data[0::2].translate(low), data[1::2].translate(high))
    return Picture(width, height, bytes(rgb))


def _lines(memory: memoryview, first: int, pitch: int, count: int, height: int) -> bytes:
    """`height` lines of `count` bytes, `pitch` apart; zeros where VRAM ends."""
    data = b"".join(
        [memory[at : at + count] for at in range(first, first + pitch * height, pitch)] if pitch else []
    )
    return data.ljust(count * height, b"\0")


def _either(one: bytes, other: bytes) -> bytes:
    """Both ORed."""
    both = int.from_bytes(one, "little") | int.from_bytes(other, "little")
    return both.to_bytes(len(one), "little")


def _tables(green_bits: int) -> tuple[tuple[bytes, bytes], ...]:
    """For red, green and blue of a pixel of 15 or 16 bits: what its low and its high byte contribute to
    the eight bits of the component.  They can be ORed, as expansion repeats bits and adds none."""

    def component(value: int, first: int, bits: int) -> int:
        part = value >> first & (1 << bits) - 1
        return part << 8 - bits | part >> 2 * bits - 8

    spans = ((5 + green_bits, 5), (5, green_bits), (0, 5))
    return tuple(
        (
            bytes(component(low, first, bits) for low in range(256)),
            bytes(component(high << 8, first, bits) for high in range(256)),
        )
        for first, bits in spans
    )


_TABLES = {15: _tables(5), 16: _tables(6)}
