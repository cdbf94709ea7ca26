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

What the registers say is resolved when they change.  Four things make up nearly all traffic, and have a path
of their own in `read` and `write`:

* a byte to all planes alike, and a byte from one plane, at the planar address that is the offset;
* a byte of an ordinary text mode or of chain 4, which is a byte of VRAM, and several of them at once;
* the bytes of a DISPI mode.

Everything else is put together from bytes by `put` and `get`.
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
_ALL = 0xFFFFFFFF
_EVEN, _ODD = EXPAND[0b0101], EXPAND[0b1010]
_REPEATED = tuple(byte * 0x01010101 for byte in range(256))
_ROTATED = tuple(
    tuple(_REPEATED[(byte >> count | byte << 8 - count) & 0xFF] for byte in range(256)) for count in range(8)
)
"""By rotation and byte: the byte in each plane."""
_COLOURS = EXPAND * 16
"""By byte: the planes that its low bits name."""


class Planes:
    """The memory as the CPU sees it through the window.  `offset` counts from 0xA0000.

    `listening` is set by whoever wants to hear of the next store by `stored`; it stays the owner's.  `latch`
    holds the four latches, plane 0 in the low byte.  The window is `low` <= offset < `high`."""

    __slots__ = (
        "_care", "_chain4", "_compare", "_copies", "_fixed", "_fold", "_from_cpu", "_from_set", "_function",
        "_held", "_loads", "_map_mask", "_may_copy", "_may_pack", "_odd_even", "_odd_even_read",
        "_read_plane", "_set_reset", "_shift", "_source", "_taken", "_unit_read", "_unit_write", "_wanted",
        "_whole", "_write_mode", "bank", "bytes", "dwords", "high", "latch", "linear", "listening", "low",
        "stored", "words",
    )  # fmt: skip
    _whole: memoryview[int] | None
    """VRAM by planar address, where that is the offset in the window; None where it is not."""
    _loads: memoryview[int] | None
    """The same where, besides, a load gives a byte of one plane, always the same."""
    _copies: bool
    """Whether, besides, a store changes all planes, whatever they and the latches hold."""
    _unit_read: int
    _unit_write: int
    """How many bytes lie at a planar address as at VRAM's: 2 where characters and attributes do, 4 for
    chain 4, one address in as many being used; 0 where a store is not just that or a load not one byte."""
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
        self._whole = None
        self._loads = None
        self.words.release()
        self.dwords.release()

    def configure(self, sequencer: bytes, graphics: bytes, enabled: bool, linear: int, bank: int) -> None:
        """Take over registers.  `enabled`: whether the window answers at all; `linear` is 8 and more
        in a DISPI mode of so many bits, 4 in a planar one, else 0; `bank` in units of 64 KiB."""
        reset, enabled_planes, wanted, rotate, read_plane, mode, window, care, _ = graphics
        memory, mask = sequencer[4], sequencer[2] & 15
        vga = not linear
        low, high = _MAPS[window >> 2 & 3 if vga else 1] if enabled else (0, 0)
        chain4 = vga and memory & CHAIN4 != 0
        odd_even = vga and not memory & (ODD_EVEN_OFF | CHAIN4)
        odd_even_read = vga and mode & READ_ODD_EVEN != 0 and not chain4
        fold = vga and window & CHAIN_ODD_EVEN != 0 and not chain4
        write_mode, function = mode & 3, rotate >> 3 & 3
        compare = mode & READ_COMPARE != 0
        self.low, self.high = low, high
        self.bank = bank * PLANE
        self.linear = linear >= 8
        self._chain4, self._odd_even, self._odd_even_read, self._fold = chain4, odd_even, odd_even_read, fold
        self._write_mode, self._function, self._compare = write_mode, function, compare
        self._map_mask = EXPAND[mask]
        self._source = _ROTATED[rotate & 7] if write_mode != 2 else _COLOURS
        self._set_reset = EXPAND[reset & 15]
        self._from_cpu, self._from_set = _ALL, 0
        if write_mode == 0:
            self._from_set = EXPAND[enabled_planes & reset & 15]
            self._from_cpu = EXPAND[enabled_planes & 15] ^ _ALL
        self._wanted, self._care = EXPAND[wanted & 15], EXPAND[care & 15]
        self._read_plane = read_plane & 3
        self._shift = 8 * self._read_plane

        # Which accesses have a path of their own; bit 16 of the address plays a part in none of them.
        inside = low < high <= low + PLANE
        flat = inside and not (low or self.linear or chain4 or odd_even or fold)
        self._whole = self.dwords[self.bank : self.bank + PLANE] if flat else None
        self._loads = self._whole if not compare and not odd_even_read else None
        self._may_copy = (
            flat and mask == 15 and not function and not write_mode & 1 and self._from_cpu == _ALL
        )
        self._may_pack = 0
        if inside and not (write_mode or rotate & 31):
            if odd_even and fold and mask == 3 and not enabled_planes & 3:
                self._may_pack = 2
            elif chain4 and mask == 15 and not enabled_planes & 15:
                self._may_pack = 4
        self._unit_read = 0
        if inside and not compare:
            if chain4:
                self._unit_read = 4
            elif odd_even_read and fold and not read_plane & 2:
                self._unit_read = 2
        self.set_bit_mask(graphics[8])

    def set_bit_mask(self, value: int) -> None:
        """Take over GR8 alone."""
        bits = _REPEATED[value]
        self._held = bits ^ _ALL
        self._taken = bits & self._from_cpu
        self._fixed = bits & self._from_set
        every = value == 0xFF
        self._copies = every and self._may_copy
        self._unit_write = self._may_pack if every else 0

    # --- the window

    def write(self, offset: int, size: int, value: int) -> None:
        """A store of 1, 2, 4 or 8 bytes; dropped outside of the window that GR6 chooses."""
        if self.listening:
            self.stored()
        if size == 1:
            whole = self._whole
            if whole is not None:
                try:
                    if self._copies:
                        whole[offset] = self._source[value]
                        return
                    word, mask = self._combined(value), self._map_mask
                    whole[offset] = word if mask == _ALL else word & mask | whole[offset] & ~mask
                except IndexError:
                    pass  # above the window
            elif self.low <= offset < self.high:
                at, unit = offset - self.low, self._unit_write
                if unit:
                    self.bytes[(at & -unit) << 2 | at & unit - 1] = value
                else:
                    self.put(at, value)
            return
        if size == self._unit_write and self.low <= offset < self.high and not offset & size - 1:
            at = offset - self.low
            if size == 2:
                self.words[at << 1] = value
            else:
                self.dwords[at] = value
            return
        self._write_wide(offset, size, value)

    def _write_wide(self, offset: int, size: int, value: int) -> None:
        """A store of several bytes that is not one store into VRAM."""
        if self.low <= offset <= self.high - size:
            at = offset - self.low
            if self.linear:
                at += self.bank
                self.bytes[at : at + size] = value.to_bytes(size, "little")
                return
            if self._copies and self._whole is not None:
                for index in range(at, at + size):
                    self._whole[index] = self._source[value & 0xFF]
                    value >>= 8
                return
            if self._unit_write == 2 and not at & 1:
                for index in range(at << 1, at + size << 1, 4):
                    self.words[index] = value & 0xFFFF
                    value >>= 16
                return
        for at in range(offset, offset + size):
            self.write(at, 1, value & 0xFF)
            value >>= 8

    def read(self, offset: int, size: int) -> int:
        """A load of 1, 2, 4 or 8 bytes; all ones outside of the window."""
        if size == 1:
            loads = self._loads
            if loads is not None:
                try:
                    self.latch = latch = loads[offset]
                except IndexError:
                    return 0xFF  # above the window
                return latch >> self._shift & 0xFF
            if not self.low <= offset < self.high:
                return 0xFF
            at, unit = offset - self.low, self._unit_read
            if not unit:
                return self.get(at)
            self.latch = latch = self.dwords[at & -unit]
            return latch >> 8 * (at & unit - 1) & 0xFF
        if size == self._unit_read and self.low <= offset < self.high and not offset & size - 1:
            self.latch = latch = self.dwords[offset - self.low]
            return latch & 0xFFFF if size == 2 else latch
        return self._read_wide(offset, size)

    def _read_wide(self, offset: int, size: int) -> int:
        """A load of several bytes that is not one load from VRAM."""
        value = latch = 0
        if self.low <= offset <= self.high - size:
            at = offset - self.low
            if self.linear:
                at += self.bank
                return int.from_bytes(self.bytes[at : at + size], "little")
            if self._loads is not None:
                for step in range(size):
                    latch = self._loads[at + step]
                    value |= (latch >> self._shift & 0xFF) << 8 * step
                self.latch = latch
                return value
            if self._unit_read == 2 and not at & 1:
                for step in range(0, size, 2):
                    latch = self.dwords[at + step]
                    value |= (latch & 0xFFFF) << 8 * step
                self.latch = latch
                return value
        for step in range(size):
            value |= self.read(offset + step, 1) << 8 * step
        return value

    # --- one byte, `at` counts from the beginning of the window

    def put(self, at: int, byte: int) -> None:
        """Store a byte as the registers say."""
        if self.linear:
            self.bytes[self.bank + at] = byte
            return
        mask = self._map_mask
        if self._chain4:
            mask &= 0xFF << 8 * (at & 3)
            address = at & 0xFFFC | at >> 16
        else:
            if self._odd_even:
                mask &= _ODD if at & 1 else _EVEN
            address = (at & 0xFFFE | at >> 16 if self._fold else at & 0xFFFF) + self.bank
        word = self._combined(byte)
        self.dwords[address] = word if mask == _ALL else word & mask | self.dwords[address] & ~mask

    def _combined(self, byte: int) -> int:
        """What write mode, function and bit mask make of a byte and the latches, for all planes."""
        mode, latch = self._write_mode, self.latch
        if mode == 1:
            return latch
        value = self._source[byte] & self._taken
        if mode == 3:
            value, held = value & self._set_reset, value ^ _ALL
        else:
            value, held = value | self._fixed, self._held
        function = self._function
        if not function:
            return value | latch & held
        if function == 1:
            return (value | held) & latch
        return value | latch if function == 2 else value ^ latch

    def get(self, at: int) -> int:
        """Load a byte as the registers say."""
        if self.linear:
            return self.bytes[self.bank + at]
        if self._chain4:
            plane = at & 3
            address = at & 0xFFFC | at >> 16
        else:
            plane = self._read_plane & 2 | at & 1 if self._odd_even_read else self._read_plane
            address = (at & 0xFFFE | at >> 16 if self._fold else at & 0xFFFF) + self.bank
        self.latch = latch = self.dwords[address]
        if self._compare:
            differ = (latch ^ self._wanted) & self._care
            differ |= differ >> 16
            return ~(differ | differ >> 8) & 0xFF
        return latch >> 8 * plane & 0xFF
