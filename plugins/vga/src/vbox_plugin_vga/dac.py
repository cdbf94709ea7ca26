"""The colour look-up table of a VGA: INMOS IMS G171, and the 8-bit mode of Bochs' DISPI.

IMS G171 data sheet (INMOS, 1988): PEL address, PEL mask, one holding register for a colour.

Trap: there is one address register for both directions.  A read address (3C7) loads the holding register
and steps at once; a write (3C8) steps after the third component, which is when the colour changes.

Components are kept with 8 bits: six bits written are the upper six, so that switching between 6 and 8
bits loses nothing, and a picture spreads six bits over the range of eight.
"""

from __future__ import annotations

from attrs import frozen

from vbox_pdm import State, StateError

COLOURS = 256
READING, WRITING = 3, 0  # what 3C7 reads


@frozen
class DacState(State, version=1):
    """All of it; `wide` is the 8-bit mode."""

    colours: bytes
    mask: int
    address: int
    state: int
    component: int
    holding: bytes
    wide: bool


class Dac:
    """The chip, register by register."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Power on: all black, all bits of the mask set."""
        self.colours = bytearray(3 * COLOURS)
        self.mask = 0xFF
        self.address = 0
        self.state = WRITING
        self.component = 0
        self.holding = bytearray(3)
        self.wide = False

    def write_read_address(self, value: int) -> None:
        """3C7."""
        self.address = value
        self.state = READING
        self.component = 0
        self._load()

    def write_address(self, value: int) -> None:
        """3C8."""
        self.address = value
        self.state = WRITING
        self.component = 0

    def read_data(self) -> int:
        """3C9."""
        value = self.holding[self.component]
        self._step()
        if not self.component:
            self._load()
        return value if self.wide else value >> 2

    def write_data(self, value: int) -> bool:
        """3C9.  Whether a colour changed."""
        self.holding[self.component] = value if self.wide else value << 2 & 0xFF
        self._step()
        if self.component:
            return False
        self.colours[3 * self.address : 3 * self.address + 3] = self.holding
        self.address = self.address + 1 & 0xFF
        return True

    def rgb(self) -> bytes:
        """Three bytes for each of 256 pixel values, the mask applied: what the screen shows."""
        colours = self.colours
        shown = colours if self.wide else bytes(c & 0xFC | c >> 6 for c in colours)
        if self.mask == 0xFF:
            return bytes(shown)
        return b"".join(shown[3 * at : 3 * at + 3] for at in (value & self.mask for value in range(COLOURS)))

    def _step(self) -> None:
        self.component = (self.component + 1) % 3

    def _load(self) -> None:
        self.holding[:] = self.colours[3 * self.address : 3 * self.address + 3]
        self.address = self.address + 1 & 0xFF

    def save(self) -> DacState:
        return DacState(
            colours=bytes(self.colours),
            mask=self.mask,
            address=self.address,
            state=self.state,
            component=self.component,
            holding=bytes(self.holding),
            wide=self.wide,
        )

    def load(self, state: DacState) -> None:
        """StateError for sizes that do not fit; numbers are cut to their range."""
        if len(state.colours) != 3 * COLOURS or len(state.holding) != 3:
            raise StateError(
                "VERR_SSM_UNEXPECTED_DATA", "The colours of the saved VGA are not 256 times three"
            )
        self.colours = bytearray(state.colours)
        self.mask = state.mask & 0xFF
        self.address = state.address & 0xFF
        self.state = state.state & 3
        self.component = state.component % 3
        self.holding = bytearray(state.holding)
        self.wide = state.wide
