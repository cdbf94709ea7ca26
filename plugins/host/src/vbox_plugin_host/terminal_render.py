"""A guest's screen in a terminal: frames of cells, and the bytes that turn one into the next.

Only the cells that changed are sent.  Colours are those of the guest's palette by 24-bit escapes,
or the nearest of the terminal's 16.  Pictures are drawn with half blocks: two pixels in a cell.
A terminal that is too small shows the part around the cursor, and says so in its last line.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

from attrs import field, frozen

from vbox_pdm import Picture, TextScreen
from vbox_pdm.display import CP437

Rgb = tuple[int, int, int]
Cell = tuple[str, Rgb | None, Rgb | None, bool]
"""Character, foreground, background, blinking; None is the terminal's own colour."""
BLACK, GREY = (0, 0, 0), (0xAA, 0xAA, 0xAA)
BLANK: Cell = (" ", None, None, False)
"""What is left of a terminal that is larger than the screen."""
NORMAL = b"\x1b[0m"
ENTER = b"\x1b[?1049h\x1b[0m\x1b[2J\x1b[?25l"
"""The alternate screen, empty, without a cursor."""
LEAVE = b"\x1b[0m\x1b[?25h\x1b[?1049l"
"""Back to what the terminal showed before."""

_ANSI: tuple[Rgb, ...] = (
    (0x00, 0x00, 0x00), (0xAA, 0x00, 0x00), (0x00, 0xAA, 0x00), (0xAA, 0x55, 0x00),
    (0x00, 0x00, 0xAA), (0xAA, 0x00, 0xAA), (0x00, 0xAA, 0xAA), (0xAA, 0xAA, 0xAA),
    (0x55, 0x55, 0x55), (0xFF, 0x55, 0x55), (0x55, 0xFF, 0x55), (0xFF, 0xFF, 0x55),
    (0x55, 0x55, 0xFF), (0xFF, 0x55, 0xFF), (0x55, 0xFF, 0xFF), (0xFF, 0xFF, 0xFF),
)  # fmt: skip
"""The 16 colours of a terminal, in its order, as those of a PC in text mode."""


@frozen
class Size:
    """Of a terminal or a screen, in cells."""

    columns: int
    rows: int


@frozen
class Frame:
    """What a terminal should show.  `cells` row by row; `cursor` is (column, row)."""

    size: Size
    cells: Sequence[Cell]
    cursor: tuple[int, int] | None = None
    note: str = ""
    """Goes to the terminal's last line, whatever is there."""
    title: str = field(default="", kw_only=True)
    """What is shown, for the note of a terminal that is too small."""


def text_frame(screen: TextScreen) -> Frame:
    """A text mode."""
    colours = [(screen.palette[at], screen.palette[at + 1], screen.palette[at + 2]) for at in range(0, 48, 3)]
    looks = []
    for attribute in range(256):
        blink = screen.blinking and bool(attribute & 0x80)
        back = attribute >> 4 & (7 if screen.blinking else 15)
        looks.append((colours[attribute & 15], colours[back], blink))
    wanted = 2 * screen.columns * screen.rows
    raw = screen.cells[:wanted].ljust(wanted, b"\0")
    cells: list[Cell] = [
        (CP437[code], *looks[attribute]) for code, attribute in zip(raw[::2], raw[1::2], strict=True)
    ]
    size = Size(screen.columns, screen.rows)
    return Frame(size, cells, screen.cursor, title=f"{size.columns}x{size.rows} text")


def picture_frame(picture: Picture, terminal: Size) -> Frame:
    """A graphics mode, as large as the terminal allows, in proportion (pixels are square, and cells
    twice as high as wide)."""
    from PIL import Image  # takes its time, and text modes do without

    scale = min(terminal.columns / picture.width, 2 * terminal.rows / picture.height, 1.0)
    columns = max(1, int(picture.width * scale))
    rows = max(1, int(picture.height * scale / 2))
    image = Image.frombytes("RGB", (picture.width, picture.height), picture.rgb)
    data = image.resize((columns, 2 * rows), Image.Resampling.BOX).tobytes()
    stride = 3 * columns
    cells: list[Cell] = []
    for row in range(rows):
        upper, lower = 2 * row * stride, (2 * row + 1) * stride
        for at in range(0, stride, 3):
            top = (data[upper + at], data[upper + at + 1], data[upper + at + 2])
            bottom = (data[lower + at], data[lower + at + 1], data[lower + at + 2])
            cells.append(("\u2580", top, bottom, False))
    title = f"{picture.width}x{picture.height} graphics"
    return Frame(Size(columns, rows), cells, note=f"[{title}]", title=title)


def note_frame(text: str) -> Frame:
    """Nothing but a line of text."""
    return Frame(Size(1, 1), [BLANK], note=text)


class Painter:
    """Knows what the terminal shows, and what to send to change that."""

    def __init__(self, true_colour: bool) -> None:
        self._true_colour = true_colour
        self._size: Size | None = None
        self._shown: list[list[Cell]] = []

    def forget(self) -> None:
        """The terminal may show anything: everything is sent next time."""
        self._size = None

    def paint(self, frame: Frame, terminal: Size) -> bytes:
        """The bytes that make a terminal of that size show `frame`."""
        out: list[bytes] = []
        if terminal != self._size:
            self._size = terminal
            self._shown = [[BLANK] * terminal.columns for _ in range(terminal.rows)]
            out.append(NORMAL + b"\x1b[2J")
        rows, cursor = compose(frame, terminal)
        changed = [self._row(at, row) for at, row in enumerate(rows) if row != self._shown[at]]
        if changed:
            out += [b"\x1b[?25l", *changed, NORMAL]
        if cursor is None:
            out.append(b"\x1b[?25l")
        else:
            out.append(b"\x1b[%d;%dH\x1b[?25h" % (cursor[1] + 1, cursor[0] + 1))
        return b"".join(out)

    def _row(self, at: int, row: list[Cell]) -> bytes:
        """The cells of a row that changed, in runs; short gaps are sent along."""
        out: list[str] = []
        shown, follows = self._shown[at], -1
        style: tuple[Rgb | None, Rgb | None, bool] | None = None
        for column, cell in enumerate(row):
            if cell == shown[column]:
                continue
            if column != follows:
                out.append(f"\x1b[{at + 1};{column + 1}H")
            follows = column + 1
            if cell[1:] != style:
                style = cell[1:]
                out.append(self._style(*style))
            out.append(cell[0])
        self._shown[at] = row
        return "".join(out).encode()

    def _style(self, fore: Rgb | None, back: Rgb | None, blink: bool) -> str:
        if fore is None or back is None:
            return "\x1b[0m"
        blinks = ";5" if blink else ""
        if self._true_colour:
            return f"\x1b[0{blinks};38;2;{fore[0]};{fore[1]};{fore[2]};48;2;{back[0]};{back[1]};{back[2]}m"
        front, behind = nearest(fore), nearest(back)
        front_code = 30 + front if front < 8 else 82 + front
        back_code = 40 + behind if behind < 8 else 92 + behind
        return f"\x1b[0{blinks};{front_code};{back_code}m"


def compose(frame: Frame, terminal: Size) -> tuple[list[list[Cell]], tuple[int, int] | None]:
    """The rows of a terminal that shows `frame`, and where its cursor is."""
    size, note = frame.size, frame.note
    clipped = size.columns > terminal.columns or size.rows > terminal.rows
    if clipped and not note:
        note = f"[{frame.title}; enlarge this {terminal.columns}x{terminal.rows} terminal to see all of it]"
    room = max(1, terminal.rows - 1) if note and size.rows >= terminal.rows else terminal.rows
    left, top = _view(frame.cursor, size, Size(terminal.columns, room))
    rows: list[list[Cell]] = []
    for row in range(top, min(top + room, size.rows)):
        start = row * size.columns + left
        cells = list(frame.cells[start : start + min(terminal.columns, size.columns - left)])
        rows.append(cells + [BLANK] * (terminal.columns - len(cells)))
    rows += [[BLANK] * terminal.columns for _ in range(terminal.rows - len(rows))]
    if note:
        text = note[: terminal.columns].ljust(terminal.columns)
        rows[-1] = [(character, BLACK, GREY, False) for character in text]
    cursor = None
    if frame.cursor is not None:
        column, row = frame.cursor[0] - left, frame.cursor[1] - top
        if 0 <= column < terminal.columns and 0 <= row < room:
            cursor = (column, row)
    return rows, cursor


def _view(cursor: tuple[int, int] | None, size: Size, room: Size) -> tuple[int, int]:
    """(column, row) of the screen that is shown at the top left: the cursor is in view."""
    column, row = cursor if cursor is not None else (0, 0)
    left = max(0, min(column - room.columns + 1, size.columns - room.columns))
    top = max(0, min(row - room.rows + 1, size.rows - room.rows))
    return left, top


@functools.lru_cache(4096)
def nearest(colour: Rgb) -> int:
    """The colour of a terminal's 16 that is nearest, by the eye's weights."""

    def distance(other: Rgb) -> int:
        red, green, blue = (a - b for a, b in zip(colour, other, strict=True))
        return 3 * red * red + 6 * green * green + blue * blue

    return min(range(16), key=lambda at: distance(_ANSI[at]))
