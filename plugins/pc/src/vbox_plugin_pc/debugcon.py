"""The debug console of PC firmware: a port whose bytes go to a character stream.

Not a chip: firmware (SeaBIOS at port 0x402, Bochs and many kernels at port 0xE9) writes its log there one
byte at a time, and recognises the port by reading 0xE9 from it.

Modelled: all of it, in both places.  A stream that accepts no more holds the bytes back, up to BACKLOG of
them; then the newest are lost, since a guest cannot be told to wait.
"""

from __future__ import annotations

from collections.abc import Callable

from attrs import frozen

from vbox_pdm import (
    CharStream,
    Device,
    DeviceClass,
    DeviceType,
    Ports,
    Reg8,
    RegisterMap,
    State,
    Width,
    hookimpl,
    key,
)
from vbox_plugin_pc.conformance import vbox_conformance_setup as vbox_conformance_setup

READBACK = 0xE9
BACKLOG = 0x10000


class Registers(RegisterMap):
    """The port."""

    DATA = Reg8(0, "rw", reset=READBACK, bits=0, effect="writes go to the stream; reads 0xE9")


@frozen
class Config:
    io_base: int = key(0x402, span=(0, 0xFFFF), help="the port; 0xE9 for guests that expect Bochs's")


@frozen
class DebugConsoleState(State, version=1):
    """What the stream has not accepted yet."""

    backlog: bytes


class DebugConsole(Device[Config]):
    """One port and its stream."""

    def pdm_construct(self) -> None:
        self.backlog = bytearray()
        self.stream = self.helpers.lun(0, CharStream, "debug console")
        region = Ports("debugcon", 1, self.read, self.write, registers=Registers, width=Width.BYTE)
        self.helpers.map_ports(self.config.io_base, region)

    def pdm_reset(self) -> None:
        self.backlog.clear()

    def read(self, offset: int, size: int) -> int:
        return READBACK

    def write(self, offset: int, size: int, value: int) -> None:
        if not self.backlog and self.stream.char_send(bytes((value,))):
            return
        if len(self.backlog) < BACKLOG:
            self.backlog.append(value)

    # --- the stream calls up

    def char_sendable(self) -> None:
        while self.backlog:
            sent = self.stream.char_send(bytes(self.backlog))
            if sent <= 0:
                return
            del self.backlog[:sent]

    def char_room(self) -> int:
        return 0  # nothing can be typed here

    def char_received(self, data: bytes) -> None:
        """Dropped: the port has no input."""

    def pdm_attach(self, lun: int) -> None:
        self.char_sendable()

    def pdm_detach(self, lun: int) -> None:
        self.backlog.clear()  # an open end takes all

    def pdm_resume(self) -> None:
        # The stream below may be another one than when the state was saved.
        self.char_sendable()

    # --- state

    def pdm_save(self) -> DebugConsoleState:
        return DebugConsoleState(bytes(self.backlog))

    def pdm_load(self, state: DebugConsoleState) -> None:
        self.backlog[:] = state.backlog[:BACKLOG]


@hookimpl
def vbox_register_devices(register: Callable[[DeviceType], None]) -> None:
    register(
        DeviceType(
            "debugcon",
            DebugConsole,
            Config,
            device_class=DeviceClass.MISC,
            summary="debug console port of PC firmware",
        )
    )
