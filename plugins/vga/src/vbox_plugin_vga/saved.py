"""The saved state of the adapter, but for what the host saves: VRAM, PCI configuration, the timer."""

from __future__ import annotations

from attrs import frozen

from vbox_pdm import State
from vbox_plugin_vga.dac import DacState
from vbox_plugin_vga.dispi import DispiState


@frozen
class VgaState(State, version=1):
    """The registers."""

    misc: int
    feature: int
    subsystem: int
    sequencer: bytes
    sequencer_index: int
    graphics: bytes
    graphics_index: int
    crtc: bytes
    crtc_index: int
    attribute: bytes
    attribute_index: int
    flip_flop: bool
    latch: int
    dac: DacState
    dispi: DispiState
