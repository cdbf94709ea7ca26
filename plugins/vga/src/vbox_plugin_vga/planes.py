"""The memory of a VGA behind 0xA0000 to 0xBFFFF: planes, write and read modes, latches, windows.

IBM Personal System/2 Hardware Interface Technical Reference, Video Subsystem (May 1992), "Graphics
Controller Registers" and "Display Memory Addressing".

The four planes of 64 KiB lie interleaved at the beginning of VRAM: plane p of planar address a is byte
4 * a + p, so that one dword holds what the latches hold.  What a CPU address becomes:

* chain 4 (SR4 bit 3): bits 0 and 1 choose the plane, the planar address is the rest with bits 0 and 1
  zero, as in the chip.  Pixels of mode 13h are four planar addresses apart, CRTC's doubleword mode finds
  them there, and programs that turn chain 4 off find what the chip would show; through the linear frame
  buffer, which VGA knows nothing of, they are not packed;
* odd/even (SR4 bit 2 zero): bit 0 chooses between planes 0 and 2, and 1 and 3, for writes;  GR5 bit 4
  does so for reads; GR6 bit 1 takes bit 0 out of the planar address;
* a DISPI mode of 8 bits and more: the 64 KiB at 0xA0000 are bytes of VRAM at the bank, nothing else;
* a DISPI mode of 4 bits: planar, with a bank of 64 Ki planar addresses.

In the window of 128 KiB address bit 16 stands in for the bits that odd/even and chain 4 take out.  The page
select of the miscellaneous output register is stored and has no effect: on a card of 256 KiB software sees
no difference as long as it leaves it alone.

Traps
- A read loads all four latches, whatever it answers; wide reads leave the latches of their last byte.
- Write mode 3 rotates, then ANDs with the bit mask; the function select applies to it as to 0 and 2.
- Write mode 1 ignores rotation, function and bit mask, but not the map mask.
- Colour compare (read mode 1) with no plane cared for answers all ones.

Guests scroll by moving thousands of words: in an ordinary text mode a store is one store into VRAM.
"""

from __future__ import annotations

from collections.abc import Callable

PLANE = 0x10000
"""Planar addresses of a VGA."""
WINDOW = 0xA0000
WINDOW_SIZE = 0x20000
ODD_EVEN_OFF, CHAIN4 = 0x04, 0x08  # SR4
READ_COMPARE, READ_ODD_EVEN = 0x08, 0x10  # GR5
CHAIN_ODD_EVEN = 0x02  # GR6
_MAPS = ((0, 0x20000), (0, 0x10000), (0x10000, 0x18000), (0x18000, 0x20000))

EXPAND = tuple(sum(0xFF << 8 * p for p in range(4) if nibble >> p & 1) for nibble in range(16))
"""All bits of the planes whose bits are set."""
_REPEAT = 0x01010101
_ALL = 0xFFFFFFFF
_EVEN, _ODD = EXPAND[0b0101], EXPAND[0b1010]


class Planes:
    """The memory as the CPU sees it through the window.  `offset` counts from 0xA0000.

    `listening` is set by whoever wants to hear of the next store by `stored`; it stays the owner's."""

    transient = frozenset({"bytes", "words", "dwords"})
    """VRAM: the host saves it, and a reset leaves it alone."""

    def __init__(self, vram: memoryview, stored: Callable[[], None]) -> None:
        self.bytes = vram
        self.words = vram.cast("H")
        self.dwords = vram.cast("I")
        self.listening = False
        self.stored = stored
        self.latch = 0
        self.configure(bytes(5), bytes(9), False, 0, 0)

    def release(self) -> None:
        """Let go of VRAM; no access may follow."""
        self.words.release()
        self.dwords.release()

    def configure(self, sequencer: bytes, graphics: bytes, enabled: bool, linear: int, bank: int) -> None:
        """Take over registers.  `enabled`: whether the window answers at all; `linear` is 8 and more
        in a DISPI mode of so many bits, 4 in a planar one, else 0; `bank` in units of 64 KiB."""
        mode, memory = graphics[5], sequencer[4]
        number = graphics[6] >> 2 & 3
        self.low, self.high = _MAPS[number] if not linear else _MAPS[1]
        if not enabled:
            self.low = self.high = 0
        self.bank = bank * PLANE
        self.linear = linear >= 8
        self.wide = number == 0 and not linear
        self.chain4 = bool(memory & CHAIN4) and not linear
        self.odd_even = not memory & (ODD_EVEN_OFF | CHAIN4) and not linear
        self.odd_even_read = bool(mode & READ_ODD_EVEN) and not self.chain4 and not linear
        self.fold = bool(graphics[6] & CHAIN_ODD_EVEN) and not self.chain4 and not linear
        self.mask = EXPAND[sequencer[2] & 15]
        self.write_mode = mode & 3
        self.compare = bool(mode & READ_COMPARE)
        enabled_planes = EXPAND[graphics[1] & 15]
        self.set_reset = EXPAND[graphics[0] & 15]
        self.from_cpu = _REPEAT * 0xFF & ~enabled_planes
        self.from_set = self.set_reset & enabled_planes
        self.rotate = graphics[3] & 7
        self.function = graphics[3] >> 3 & 3
        self.wanted = EXPAND[graphics[2] & 15]
        self.care = EXPAND[graphics[7] & 15]
        self.read_plane = graphics[4] & 3
        plain = not linear and self.write_mode == 0 and not self.rotate and not self.function
        inside = not self.wide and self.low < self.high
        # Character and attribute at even planar addresses of planes 0 and 1, and nothing in between.
        self._text_plain = (
            plain
            and self.odd_even
            and self.fold
            and inside
            and sequencer[2] & 15 == 3
            and not graphics[1] & 3
        )
        self._chain4_plain = plain and self.chain4 and sequencer[2] & 15 == 15 and not graphics[1] & 15
        self.text_read = (
            inside and self.fold and self.odd_even_read and not self.compare and not self.read_plane & 2
        )
        self.set_bit_mask(graphics[8])

    def set_bit_mask(self, value: int) -> None:
        """Take over GR8 alone."""
        self.bits = value * _REPEAT
        self.text_write = value == 0xFF and self._text_plain
        self.chain4_write = value == 0xFF and self._chain4_plain

    # --- the window

    def write(self, offset: int, size: int, value: int) -> None:
        """A store of 1, 2, 4 or 8 bytes; dropped outside of the window that GR6 chooses."""
        if self.listening:
            self.stored()
        if self.text_write and self.low <= offset < self.high:
            at = offset - self.low
            if size == 2:
                if not at & 1:
                    self.words[at << 1] = value
                    return
            elif size == 1:
                self.bytes[(at & ~1) << 2 | at & 1] = value
                return
            elif not at & size - 1:
                for index in range(at << 1, at + size << 1, 4):
                    self.words[index] = value & 0xFFFF
                    value >>= 16
                return
        elif self.linear and size <= self.high - offset:
            at = self.bank + offset
            self.bytes[at : at + size] = value.to_bytes(size, "little")
            return
        elif size == 4 and self.chain4_write and self.low <= offset < self.high and not offset & 3:
            at = offset - self.low
            self.dwords[at & 0xFFFC | at >> 16] = value
            return
        for at in range(offset - self.low, offset - self.low + size):
            if 0 <= at < self.high - self.low:
                self.put(at, value & 0xFF)
            value >>= 8

    def read(self, offset: int, size: int) -> int:
        """A load of 1, 2, 4 or 8 bytes; all ones outside of the window."""
        if self.text_read and self.low <= offset < self.high:
            at = offset - self.low
            if size == 2:
                if not at & 1:
                    self.latch = cell = self.dwords[at]
                    return cell & 0xFFFF
            elif size == 1:
                self.latch = cell = self.dwords[at & ~1]
                return cell >> 8 & 0xFF if at & 1 else cell & 0xFF
            elif not at & size - 1:
                value = 0
                for step in range(0, size, 2):
                    cell = self.dwords[at + step]
                    value |= (cell & 0xFFFF) << 8 * step
                self.latch = cell
                return value
        elif self.linear and size <= self.high - offset:
            at = self.bank + offset
            return int.from_bytes(self.bytes[at : at + size], "little")
        value = 0
        first = offset - self.low
        for index in range(size):
            inside = 0 <= first + index < self.high - self.low
            value |= (self.get(first + index) if inside else 0xFF) << 8 * index
        return value

    # --- one byte, `at` counts from the beginning of the window

    def put(self, at: int, byte: int) -> None:
        """Store a byte as the registers say."""
        mask = self.mask
        if self.chain4:
            mask &= 0xFF << 8 * (at & 3)
            address = at & 0xFFFC | at >> 16
        elif self.linear:
            self.bytes[self.bank + at] = byte
            return
        else:
            if self.odd_even:
                mask &= _ODD if at & 1 else _EVEN
            address = (at & 0xFFFE | at >> 16 if self.fold else at & 0xFFFF) + self.bank
        latch = self.latch
        if self.write_mode == 1:
            value = latch
        else:
            bits = self.bits
            if self.write_mode == 0:
                if self.rotate:
                    byte = (byte >> self.rotate | byte << 8 - self.rotate) & 0xFF
                value = byte * _REPEAT & self.from_cpu | self.from_set
            elif self.write_mode == 2:
                value = EXPAND[byte & 15]
            else:
                bits &= ((byte >> self.rotate | byte << 8 - self.rotate) & 0xFF) * _REPEAT
                value = self.set_reset
            if self.function:
                if self.function == 1:
                    value &= latch
                elif self.function == 2:
                    value |= latch
                else:
                    value ^= latch
            if bits != _ALL:
                value = value & bits | latch & ~bits
        if mask != _ALL:
            value = value & mask | self.dwords[address] & ~mask
        self.dwords[address] = value

    def get(self, at: int) -> int:
        """Load a byte as the registers say."""
        if self.chain4:
            plane = at & 3
            address = at & 0xFFFC | at >> 16
        elif self.linear:
            return self.bytes[self.bank + at]
        else:
            plane = self.read_plane & 2 | at & 1 if self.odd_even_read else self.read_plane
            address = (at & 0xFFFE | at >> 16 if self.fold else at & 0xFFFF) + self.bank
        self.latch = latch = self.dwords[address]
        if self.compare:
            differ = (latch ^ self.wanted) & self.care
            differ |= differ >> 16
            return ~(differ | differ >> 8) & 0xFF
        return latch >> 8 * plane & 0xFF
