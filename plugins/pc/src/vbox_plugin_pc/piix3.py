"""ISA bridge Intel 82371SB (PIIX3), slot 1 function 0.  Data sheet 290550, "82371FB (PIIX) and
82371SB (PIIX3)" (April 1997).

Modelled: the configuration registers with their read-only bits, the routing of PIRQA#..PIRQD# to
ISA interrupt lines, the reset control (CF9), and the APM control and status ports (B2, B3).

Not modelled here: the ISA devices that the chip contains and IDE and USB, which are devices of
their own (so ELCR is with the interrupt controllers); X-bus chip selects, recovery times, type F
DMA, fast-off and throttling (their bits are kept); SMI#: APMC sets its status bit and nothing more.

Traps
- Slots are swizzled over the PIRQ lines: (slot + pin - 1) mod 4, with pins from 0.
- Several PIRQ lines may share an interrupt: the line is their OR, and has to be worked out anew
  when the routing changes.
- Interrupts 0, 1, 2, 8 and 13 cannot be routed to; bit 7 disables a route.
- Port CF9 resets when bit 2 goes from 0 to 1; bit 1 of the same write says which kind.
- Bits of SMIREQ are cleared by zeros, those of PCISTS by ones.
"""

from __future__ import annotations

from collections.abc import Callable

from attrs import frozen

from vbox_pdm import (
    Device,
    DeviceClass,
    DeviceType,
    NoConfig,
    PciIdentity,
    Ports,
    Reg8,
    Reg16,
    Reg32,
    RegisterMap,
    ResetSource,
    State,
    Width,
    hookimpl,
)
from vbox_plugin_pc.conformance import vbox_conformance_setup as vbox_conformance_setup

PIRQRC, SMICNTL, SMIEN, SMIREQ = 0x60, 0xA0, 0xA2, 0xAA
ROUTE_DISABLED = 0x80
ROUTABLE = (3, 4, 5, 6, 7, 9, 10, 11, 12, 14, 15)
RESET_HARD, RESET_CPU = 2, 4
SMI_APMC = 1 << 7


class Registers(RegisterMap):
    """Port CF9."""

    RC = Reg8(0, bits=0x06, fields={"HARD": 1, "RESET": 2}, effect="writes of RESET 0 -> 1 reset")


class ApmRegisters(RegisterMap):
    """Ports B2 and B3."""

    APMC = Reg8(0, effect="writes ask for SMI#, where SMIEN allows")
    APMS = Reg8(1)


class Configuration(RegisterMap):
    """Configuration registers of function 0."""

    PCICMD = Reg16(0x04, reset=0x0007)
    PCISTS = Reg16(0x06, reset=0x0200, effect="bits are cleared by ones")
    IORT = Reg8(0x4C, reset=0x4D)
    XBCS = Reg16(0x4E, reset=0x0003)
    PIRQRC = Reg8(PIRQRC, reset=0x80, count=4, stride=1, fields={"IRQ": (0, 3), "DISABLED": 7})
    TOM = Reg8(0x69, reset=0x02)
    MSTAT = Reg16(0x6A)
    MBIRQ0 = Reg8(0x70, reset=0x80)
    MBDMA = Reg8(0x76, reset=0x0C, count=2, stride=1)
    PCSC = Reg16(0x78, reset=0x0002)
    APICBASE = Reg8(0x80)
    DLC = Reg8(0x82)
    SMICNTL = Reg8(SMICNTL, reset=0x08)
    SMIEN = Reg16(SMIEN)
    SEE = Reg32(0xA4)
    FTMR = Reg8(0xA8, reset=0x0F)
    SMIREQ = Reg16(SMIREQ, effect="bits are cleared by zeros")
    CTLTMR = Reg8(0xAC)
    CTHTMR = Reg8(0xAE)


# (offset, reset value, writable bits, bits cleared by ones)
_CONFIGURATION = (
    (0x04, b"\x07\x00", b"\x08\x01", b""),  # special cycles, SERR#; the rest is hardwired
    (0x06, b"\x00\x02", b"\x00\x00", b"\x00\x78"),
    (0x0C, b"\x00\x00", b"\x00\x00", b""),
    (0x3C, b"\x00\x00", b"\x00\x00", b""),
    (0x4C, b"\x4d", b"\xff", b""),
    (0x4E, b"\x03\x00", b"\xff\x01", b""),
    (PIRQRC, b"\x80" * 4, b"\x8f" * 4, b""),
    (0x69, b"\x02", b"\xfe", b""),
    (0x6A, b"\x00\x00", b"\xd1\x00", b"\x00\x80"),
    (0x70, b"\x80", b"\xef", b""),
    (0x76, b"\x0c\x0c", b"\x8f\x8f", b""),
    (0x78, b"\x02\x00", b"\xff\xff", b""),
    (0x80, b"\x00", b"\x7f", b""),
    (0x82, b"\x00", b"\x0f", b""),
    (SMICNTL, b"\x08", b"\x1f", b""),
    (SMIEN, b"\x00\x00", b"\xff\x01", b""),
    (0xA4, bytes(4), b"\xfb\xff\xff\xef", b""),
    (0xA8, b"\x0f", b"\xff", b""),
    (SMIREQ, b"\x00\x00", b"\xff\x01", b""),  # zeros clear: see _smireq_changed
    (0xAC, b"\x00", b"\xff", b""),
    (0xAE, b"\x00", b"\xff", b""),
)


@frozen
class Piix3State(State, version=1):
    """Besides the configuration space: what drives PIRQ lines, and the ports."""

    asserted: tuple[int, ...]
    routes: bytes
    reset_control: int
    apm_control: int
    apm_status: int
    smi_requests: int


class Piix3(Device[NoConfig]):
    """The bridge between PCI and ISA."""

    asserted: list[int]  # by PIRQ line: the slots that drive it, a bit each
    routes: bytes  # PIRQRC
    reset_control: int
    apm_control: int
    apm_status: int
    smi_requests: int  # SMIREQ

    def pdm_construct(self) -> None:
        helpers = self.helpers
        self.lines = {line: helpers.isa_irq(line) for line in ROUTABLE}
        self._power_on_values()
        self.pci = helpers.pci(
            PciIdentity(0x8086, 0x7000, class_code=0x060100, multifunction=True, pin=0), device=1
        )
        changed = {PIRQRC: self._routes_changed, SMIREQ: self._smireq_changed}
        for offset, reset, mask, w1c in _CONFIGURATION:
            self.pci.custom(offset, reset, mask, w1c=w1c, changed=changed.get(offset))
        helpers.provide_pci_router(self)
        helpers.map_ports(
            0xCF9,
            Ports("reset control", 1, self.read_reset, self.write_reset, registers=Registers, claims=1),
        )
        helpers.map_ports(
            0xB2, Ports("apm", 2, self.read_apm, self.write_apm, registers=ApmRegisters, width=Width.BYTE)
        )

    def pdm_reset(self) -> None:
        self._power_on_values()
        self.pci.set_config(PIRQRC, self.routes)
        for line in self.lines.values():
            line.set(False)

    # --- ports

    def read_reset(self, offset: int, size: int) -> int:
        """CF9."""
        return self.reset_control

    def write_reset(self, offset: int, size: int, value: int) -> None:
        """CF9: an edge of bit 2 resets, hard or soft by bit 1."""
        before, self.reset_control = self.reset_control, value & (RESET_HARD | RESET_CPU)
        if value & ~before & RESET_CPU:
            self.helpers.reset_vm(ResetSource.PCI, soft=not value & RESET_HARD)

    def read_apm(self, offset: int, size: int) -> int:
        """B2, B3."""
        return self.apm_status if offset else self.apm_control

    def write_apm(self, offset: int, size: int, value: int) -> None:
        """B2, B3."""
        if offset:
            self.apm_status = value
            return
        self.apm_control = value
        if self.pci.config_read(SMIEN, 2) & SMI_APMC:
            self._set_smi_requests(self.smi_requests | SMI_APMC)

    # --- PIRQ lines

    def route(self, device: int, pin: int, level: bool) -> None:
        """A slot drives INTA#..INTD# (0..3)."""
        index = device + pin - 1 & 3
        before = self.asserted[index]
        # For one slot, each pin leads to another PIRQ line: the slot's bit is enough.
        after = before | 1 << device if level else before & ~(1 << device)
        self.asserted[index] = after
        if (before == 0) != (after == 0):
            self._drive(self.routes[index])

    def _routes_changed(self, offset: int, size: int) -> None:
        before, self.routes = self.routes, self.pci.config_read(PIRQRC, 4).to_bytes(4, "little")
        for old, new in zip(before, self.routes, strict=True):
            if old != new:
                self._drive(old)
                self._drive(new)

    def _drive(self, route: int) -> None:
        """Work out the interrupt line that `route` names."""
        handle = None if route & ROUTE_DISABLED else self.lines.get(route)
        if handle is not None:
            handle.set(any(self.asserted[index] for index in range(4) if self.routes[index] == route))

    # --- system management

    def _smireq_changed(self, offset: int, size: int) -> None:
        self._set_smi_requests(self.smi_requests & self.pci.config_read(SMIREQ, 2))

    def _set_smi_requests(self, requests: int) -> None:
        self.smi_requests = requests
        self.pci.set_config(SMIREQ, requests.to_bytes(2, "little"))

    # --- state

    def _power_on_values(self) -> None:
        self.asserted = [0] * 4
        self.routes = bytes([ROUTE_DISABLED] * 4)
        self.reset_control = 0
        self.apm_control = 0
        self.apm_status = 0
        self.smi_requests = 0

    def pdm_save(self) -> Piix3State:
        return Piix3State(
            asserted=tuple(self.asserted),
            routes=self.routes,
            reset_control=self.reset_control,
            apm_control=self.apm_control,
            apm_status=self.apm_status,
            smi_requests=self.smi_requests,
        )

    def pdm_load(self, state: Piix3State) -> None:
        self.asserted = list(state.asserted)
        self.routes = state.routes
        self.reset_control = state.reset_control
        self.apm_control = state.apm_control
        self.apm_status = state.apm_status
        self.smi_requests = state.smi_requests

    def pdm_info(self, arguments: str) -> str:
        out = []
        for index, route in enumerate(self.routes):
            where = "nowhere" if route & ROUTE_DISABLED or route not in ROUTABLE else f"irq {route}"
            slots = [str(slot) for slot in range(32) if self.asserted[index] >> slot & 1]
            state = f"asserted by slot {', '.join(slots)}" if slots else "idle"
            out.append(f"PIRQ{'ABCD'[index]}# -> {where}: {state}")
        return "\n".join(out)


@hookimpl
def vbox_register_devices(register: Callable[[DeviceType], None]) -> None:
    register(
        DeviceType(
            "piix3", Piix3,
            device_class=DeviceClass.BUS_ISA, max_instances=1, summary="ISA bridge Intel 82371SB",
        )
    )  # fmt: skip
