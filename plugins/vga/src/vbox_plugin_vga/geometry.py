"""What the CRT controller makes of its registers: size, addresses, and when the beam is where.

IBM Personal System/2 Hardware Interface Technical Reference, Video Subsystem (May 1992), "CRT Controller
Registers".

An address counter of 16 bits steps with each character clock; memory sees it as it is (byte mode), or
rotated by one bit (word mode) or two (doubleword mode), with row scan bits in place of bits 13 and 14 for
compatibility with CGA and Hercules.  Offset counts in two character clocks of the byte mode.

A number of lines is what the vertical display end says; double scanning, and repeated lines in graphics
modes, are taken out of pictures: 320 x 200 is 320 x 200, though the beam draws 400 lines.

Modelled: display ends, start address, offset, line compare, maximum scan line, double scan, all three
address modes, count by 2 and 4, byte panning, row scan bits; of the timing the totals, display ends and
retraces.  Not modelled: preset row scan, pixel panning, skews, the picture's place within blanking.

Nothing here grows beyond 256 characters by 1024 lines, whatever the registers hold.
"""

from __future__ import annotations

from array import array

from attrs import frozen

COUNTER = 0xFFFF
SYNC_ON = 0x80  # CR17
CLOCKS = (25_175_000, 28_322_000, 25_175_000, 25_175_000)
"""Hz by the clock select of the miscellaneous output register; 2 and 3 have no crystal."""
_STANDARD = (480, 490, 492, 525, 25_422, 31_778)  # 640 x 480, 60 Hz, of VESA


def vertical_display_end(crtc: bytes) -> int:
    """The last line that is displayed, 0..1023."""
    return crtc[0x12] | (crtc[7] & 2) << 7 | (crtc[7] & 0x40) << 3


@frozen
class Frame:
    """What is displayed.  Counters are those of the address counter.

    `columns` characters by `lines` scan lines; `height` scan lines of a character, each twice where
    `doubled`; `split` is the last line before the counter starts again at 0."""

    columns: int
    lines: int
    height: int
    doubled: bool
    start: int
    pitch: int
    split: int
    cursor: int
    step: int
    wrap: int
    divide: int
    cga: bool
    hercules: bool

    @property
    def repeat(self) -> int:
        """Scan lines of the beam for one row of characters."""
        return self.height << self.doubled

    def address(self, counter: int, row_scan: int) -> int:
        """The planar address that the counter stands for in line `row_scan` of a row."""
        if self.step == 1:
            at = counter & COUNTER
        elif self.step == 2:
            at = counter << 1 & 0xFFFE | counter >> self.wrap & 1
        else:
            at = counter << 2 & 0xFFFC | counter >> 14 & 3
        if self.cga:
            at = at & ~0x2000 | (row_scan & 1) << 13
        if self.hercules:
            at = at & ~0x4000 | (row_scan & 2) << 13
        return at

    def text_rows(self) -> list[int]:
        """The counter at the beginning of each row of characters, at least one row."""
        return self._rows(max(1, self.lines // self.repeat))

    def graphics_lines(self) -> list[tuple[int, int]]:
        """(counter, row scan) of each line of the picture."""
        rows = self._rows(-(-self.lines // self.repeat))
        if not (self.cga or self.hercules):
            return [(counter, 0) for counter in rows]
        every = [(counter, scan) for counter in rows for scan in range(self.height)]
        return every[: max(1, self.lines >> self.doubled)]

    def _rows(self, count: int) -> list[int]:
        rows = []
        counter, split = self.start, False
        for row in range(count):
            if not split and row * self.repeat > self.split:
                counter, split = 0, True
            rows.append(counter)
            counter = counter + self.pitch & COUNTER
        return rows

    def fetch(self, memory: memoryview, counter: int, count: int, row_scan: int = 0) -> bytes:
        """`count` character clocks from `memory` (dwords, one for each planar address): four bytes
        each, planes 0 to 3."""
        first = self.address(counter, row_scan)
        last = self.address(counter + count - 1 & COUNTER, row_scan)
        if self.divide == 1 and last - first == self.step * (count - 1):
            return memory[first : last + 1 : self.step].tobytes()
        cells = [memory[self.address(counter + at // self.divide & COUNTER, row_scan)] for at in range(count)]
        return array("I", cells).tobytes()


def frame(crtc: bytes) -> Frame:
    """The frame that CR0 to CR18 describe."""
    mode, underline = crtc[0x17], crtc[0x14]
    step = 4 if underline & 0x40 else 1 if mode & 0x40 else 2
    start = (crtc[0x0C] << 8 | crtc[0x0D]) + (crtc[8] >> 5 & 3)
    return Frame(
        columns=crtc[1] + 1,
        lines=vertical_display_end(crtc) + 1,
        height=(crtc[9] & 0x1F) + 1,
        doubled=bool(crtc[9] & 0x80),
        start=start & COUNTER,
        pitch=crtc[0x13] * 2,
        split=crtc[0x18] | (crtc[7] & 0x10) << 4 | (crtc[9] & 0x40) << 3,
        cursor=crtc[0x0E] << 8 | crtc[0x0F],
        step=step,
        wrap=15 if mode & 0x20 else 13,
        divide=4 if underline & 0x20 else 2 if mode & 8 else 1,
        cga=not mode & 1,
        hercules=not mode & 2,
    )


@frozen
class Timing:
    """When the beam is where, in ns of a frame: lines 0..`visible` show something, retrace is in lines
    `retrace` to `retrace_end`; a line shows something for its first `shown` ns."""

    visible: int
    retrace: int
    retrace_end: int
    total: int
    shown: int
    line: int

    def status(self, now: int) -> int:
        """Bits 0 (not displaying) and 3 (vertical retrace) of input status 1 at a time in ns."""
        line, within = divmod(now, self.line)
        line %= self.total
        if line < self.visible:
            return int(within >= self.shown)
        return 9 if self.retrace <= line < self.retrace_end else 1

    @property
    def frequency(self) -> float:
        """Frames a second."""
        return 1e9 / (self.line * self.total)


def timing(crtc: bytes, sequencer: bytes, misc: int, driven: bool) -> Timing:
    """The timing that the registers describe.  Where they do not describe any (sync held in reset,
    ends behind the total, a mode of which the CRT controller does not know: not `driven`) a
    standard one, so that whoever waits for the beam does not wait for ever."""
    if driven and crtc[0x17] & SYNC_ON:
        dots = (8 if sequencer[1] & 1 else 9) << (sequencer[1] >> 3 & 1)
        overflow = crtc[7]
        characters = crtc[0] + 5
        displayed = crtc[1] + 1
        total = (crtc[6] | (overflow & 1) << 8 | (overflow & 0x20) << 4) + 2
        visible = vertical_display_end(crtc) + 1
        retrace = crtc[0x10] | (overflow & 4) << 6 | (overflow & 0x80) << 2
        length = (crtc[0x11] - retrace & 15) or 16
        if visible <= retrace < total and displayed < characters:
            clock = CLOCKS[misc >> 2 & 3]
            line = characters * dots * 10**9 // clock
            shown = displayed * dots * 10**9 // clock
            return Timing(visible, retrace, min(retrace + length, total), total, shown, line)
    return Timing(*_STANDARD)
