"""Bochs' VBE display interface (DISPI): modes beyond VGA by ten registers behind two ports.

The interface as Bochs documents it (vbe_display_api), versions B0C0 to B0C5, with VirtualBox's behaviour
where the two differ: a mode is set by every write of ENABLE with bit 0 (not only by the first), XRES sets
VIRT_WIDTH, values beyond the maxima are ignored, a mode that does not fit into VRAM is ignored.

Modelled: the handshake by ID, modes of 4 (planar), 8, 15, 16, 24 and 32 bits, banks, the linear frame
buffer, virtual size and panning, GETCAPS, the 8-bit DAC, the size of VRAM (register 0A, and a dword read of
the data port), the upper half of the frame buffer's address (register 0B).

Not modelled: VirtualBox's own interfaces.  A guest asks for HGSMI, VBox video, "any X" and the
configuration register by writing BE00 to BE03 into ID; these are refused, the old value is read back, and
VirtualBox's guest drivers leave the device alone, as they do on a host that is too old for them.

Traps
- In register 0A VirtualBox sees its video mode and Bochs the size of VRAM in 64 KiB; the VGA BIOS for
  Bochs and its relatives needs the latter, and so does everybody while BE00 is refused.
- Asking for capabilities (bit 1 of ENABLE) and going back from it is no mode set: firmware does it at any
  time, and the picture has to stay.
- The ports are words; two bytes written are taken high byte first.
"""

from __future__ import annotations

from attrs import frozen

from vbox_pdm import State
from vbox_plugin_vga.geometry import SYNC_ON
from vbox_plugin_vga.registers import GRAPHICS, LINE_COMPARE8, PROTECT, SHIFT256, SHIFT_PAIRS

ID, XRES, YRES, BPP, ENABLE, BANK = range(6)
VIRT_WIDTH, VIRT_HEIGHT, X_OFFSET, Y_OFFSET, VIDEO_MEMORY, FB_BASE_HIGH = range(6, 12)
COUNT = 10
"""Registers with a value of their own."""
ENABLED, GETCAPS, DAC8, LFB, NOCLEARMEM = 1, 2, 0x20, 0x40, 0x80
_ENABLE_BITS = ENABLED | GETCAPS | DAC8 | LFB | NOCLEARMEM
VERSIONS = range(0xB0C0, 0xB0C6)
MOST = 16384
"""Largest XRES and YRES."""
DEPTHS = (4, 8, 15, 16, 24, 32)
BANK_SIZE = 0x10000


@frozen
class DispiState(State, version=1):
    """Registers 0 to 9, the index, and bytes that wait for their other half (-1: none)."""

    registers: tuple[int, ...]
    index: int
    index_high: int
    data_high: int
    low_next: int


class Dispi:
    """The registers.  `write_register` says what has to follow."""

    def __init__(self, vram_size: int) -> None:
        self.vram_size = vram_size
        self.reset()

    def reset(self) -> None:
        """Power on: no mode, version B0C0."""
        self.registers = [0] * COUNT
        self.registers[ID] = VERSIONS[0]
        self.index = 0
        self.index_high = -1
        self.data_high = -1
        self.low_next = -1

    # --- what is set

    @property
    def enabled(self) -> bool:
        return bool(self.registers[ENABLE] & ENABLED)

    @property
    def depth(self) -> int:
        """Bits of a pixel: 4, 8, 15, 16, 24 or 32."""
        return self.registers[BPP] or 8

    def pitch(self, width: int) -> int:
        """Bytes of VRAM from one line to the next."""
        if self.depth == 4:
            return (width + 7) // 8 * 4
        return width * ((self.depth + 7) // 8)

    @property
    def most_banks(self) -> int:
        size = BANK_SIZE * 4 if self.depth == 4 else BANK_SIZE
        return max(1, self.vram_size // size)

    # --- the registers

    def read_register(self, index: int, framebuffer: int) -> int:
        """Any index; `framebuffer` is where the BAR decodes, 0 where it does not."""
        if self.registers[ENABLE] & GETCAPS and XRES <= index <= BPP:
            return 32 if index == BPP else MOST
        if index < COUNT:
            return self.registers[index]
        if index == VIDEO_MEMORY:
            return self.vram_size // BANK_SIZE & 0xFFFF
        if index == FB_BASE_HIGH:
            return framebuffer >> 16 & 0xFFFF
        return 0

    def write_register(self, index: int, value: int) -> bool:
        """Any index, any value of 16 bits.  True when ENABLE was written: see `set_mode`."""
        registers = self.registers
        if index == ID:
            if value in VERSIONS:
                registers[ID] = value
        elif index in (XRES, YRES):
            if value <= MOST:
                registers[index] = value
                if index == XRES:
                    registers[VIRT_WIDTH] = value
                self._fit()
        elif index == BPP:
            value = value or 8
            if value in DEPTHS:
                registers[BPP] = value
                self._fit()
        elif index == ENABLE:
            return True
        elif index == BANK:
            if self.most_banks < 256:
                value &= 0xFF
            registers[BANK] = min(value, self.most_banks - 1)
        elif index == VIRT_WIDTH:
            registers[VIRT_WIDTH] = max(value, registers[XRES])
            self._fit()
        elif index in (X_OFFSET, Y_OFFSET):
            registers[index] = value
            self._fit()
        return False

    def set_mode(self, value: int) -> tuple[bool, int]:
        """A write of ENABLE: whether a mode was set now, and how many bytes of VRAM it clears."""
        registers = self.registers
        value &= _ENABLE_BITS
        before = registers[ENABLE]
        caps_only = (value ^ before) & ~GETCAPS == 0 and (value | before) & GETCAPS
        if caps_only or not value & ENABLED:
            registers[ENABLE] = value
            if not value & ENABLED:
                registers[BANK] = 0
            return False, 0
        width, height = registers[XRES], registers[YRES]
        if not width or not height or self.pitch(width) * height > self.vram_size:
            return False, 0
        registers[ENABLE] = value
        registers[X_OFFSET] = registers[Y_OFFSET] = 0
        registers[BANK] = 0
        registers[VIRT_WIDTH] = max(registers[VIRT_WIDTH], width)
        self._fit()
        return True, 0 if value & NOCLEARMEM else self.pitch(registers[VIRT_WIDTH]) * height

    def program_vga(
        self, sequencer: bytearray, graphics: bytearray, crtc: bytearray, attribute: bytearray
    ) -> None:
        """The VGA's registers as after setting a graphics mode of that size, for whoever reads them."""
        values, planar = self.registers, self.depth == 4
        width, last = values[XRES], values[YRES] - 1
        graphics[6] = graphics[6] & ~0x0E | 0x04 | GRAPHICS
        graphics[5] = graphics[5] & ~(SHIFT256 | SHIFT_PAIRS | 0x13)
        graphics[3] = 0
        graphics[8] = 0xFF
        sequencer[2] = 0x0F
        sequencer[4] = 0x06 if planar else 0x0E
        if not planar:
            graphics[5] |= SHIFT256
        attribute[0x10] |= 1
        crtc[0x11] &= ~PROTECT
        crtc[0x17] |= SYNC_ON | 3
        crtc[0x01] = max(0, width // 8 - 1) & 0xFF
        crtc[0x13] = self.pitch(values[VIRT_WIDTH]) >> 3 & 0xFF
        crtc[0x12] = last & 0xFF
        crtc[0x07] = crtc[7] & ~0x42 | last >> 7 & 2 | last >> 3 & 0x40 | LINE_COMPARE8
        crtc[0x09] = crtc[9] & ~0x9F | 0x40
        crtc[0x18] = 0xFF
        crtc[0x0C] = crtc[0x0D] = 0

    def _fit(self) -> None:
        """Virtual size and offsets such that all that is visible lies in VRAM."""
        registers = self.registers
        width, height = registers[XRES], registers[YRES]
        virtual = max(registers[VIRT_WIDTH], width)
        if height and virtual and self.pitch(virtual) * height > self.vram_size:
            virtual = width
        registers[VIRT_WIDTH] = virtual
        pitch = self.pitch(virtual)
        lines = self.vram_size // pitch if pitch else 0
        if self.enabled and (not width or not height or lines < height):
            registers[ENABLE] &= ~ENABLED  # what is set now shows nothing any more
        registers[VIRT_HEIGHT] = min(lines, 0xFFFF)
        registers[X_OFFSET] = min(registers[X_OFFSET], max(0, virtual - width))
        registers[Y_OFFSET] = min(registers[Y_OFFSET], max(0, lines - height))
        registers[BANK] = min(registers[BANK], self.most_banks - 1)

    # --- halves of words

    def take_index(self, size: int, value: int) -> None:
        """A write to 1CE of 1 byte or 2."""
        if size == 1:
            if self.index_high < 0:
                self.index_high = value
                return
            value |= self.index_high << 8
        self.index = value
        self.index_high = self.data_high = self.low_next = -1

    def take_data(self, size: int, value: int) -> int | None:
        """A write to 1CF of 1 byte or 2: the word, once it is complete."""
        if size == 1:
            if self.data_high < 0:
                self.data_high = value
                return None
            value |= self.data_high << 8
        self.data_high = -1
        return value

    def give(self, size: int, word: int) -> int:
        """A read of 1 byte or 2 of `word`; of two bytes the high one comes first."""
        if size != 1:
            return word
        if self.low_next >= 0:
            low, self.low_next = self.low_next, -1
            return low
        self.low_next = word & 0xFF
        return word >> 8

    # --- state

    def save(self) -> DispiState:
        return DispiState(
            registers=tuple(self.registers),
            index=self.index,
            index_high=self.index_high,
            data_high=self.data_high,
            low_next=self.low_next,
        )

    def load(self, state: DispiState) -> None:
        """Numbers out of range are brought into it; a mode that does not fit is none."""
        values = [int(v) for v in state.registers[:COUNT]]
        values += [0] * (COUNT - len(values))
        registers = [min(max(v, 0), 0xFFFF) for v in values]
        if registers[ID] not in VERSIONS:
            registers[ID] = VERSIONS[0]
        for index in (XRES, YRES):
            registers[index] = min(registers[index], MOST)
        if registers[BPP] not in (0, *DEPTHS):
            registers[BPP] = 8
        registers[ENABLE] &= _ENABLE_BITS
        self.registers = registers
        self._fit()
        self.index = state.index & 0xFFFF
        self.index_high = min(max(state.index_high, -1), 0xFF)
        self.data_high = min(max(state.data_high, -1), 0xFF)
        self.low_next = min(max(state.low_next, -1), 0xFF)
