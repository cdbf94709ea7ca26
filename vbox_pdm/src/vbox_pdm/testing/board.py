"""The bench's board: interrupt wires, PCI functions, and the roles that devices play for others.

Wires go to the taps first, then to the device that plays the interrupt controller or the PCI router.
While a state is loaded nothing may change on them; what does is a failure.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vbox_pdm.errors import PdmError
from vbox_pdm.helpers import Dmac, Rtc
from vbox_pdm.instance import Instance
from vbox_pdm.lines import WireHandle, Wires
from vbox_pdm.pci import PciFunction
from vbox_pdm.testing.backend import BenchTaps
from vbox_pdm.testing.bus import Bus


class Board:
    """`fail(title, where, error)` hears of what devices raise in their roles."""

    def __init__(self, taps: BenchTaps, bus: Bus, fail: Callable[[str, str, BaseException], None]) -> None:
        self.isa: Wires[int] = Wires(self._isa_changed, self._isa_pulsed)
        self.intx: Wires[tuple[int, int]] = Wires(self._intx_changed)
        self.functions: dict[tuple[int, int], PciFunction] = {}
        self.nmi_masked = False
        self.interrupt = False
        """INTR."""
        self.loading = False
        self._taps = taps
        self._bus = bus
        self._fail = fail
        self._roles: dict[str, tuple[Instance, Any]] = {}
        self._intx_handles: dict[tuple[PciFunction, int], WireHandle[tuple[int, int]]] = {}

    # --- roles

    def provide(self, role: str, instance: Instance, player: object) -> None:
        """A device plays a role."""
        if role in self._roles:
            raise PdmError(
                "VERR_ALREADY_EXISTS",
                f"{instance.title} wants to play the {role}, which {self._roles[role][0].title} plays",
                "Remove one of them",
            )
        self._roles[role] = (instance, player)

    def players(self) -> list[tuple[str, Instance]]:
        """Roles and the devices that play them."""
        return [(role, instance) for role, (instance, _) in self._roles.items()]

    def withdraw(self, instance: Instance) -> None:
        """A device is gone, and its roles with it."""
        self._roles = {role: entry for role, entry in self._roles.items() if entry[0] is not instance}

    @property
    def rtc(self) -> Rtc:
        """The device that owns CMOS, or the stand-in."""
        found: Rtc = self._player("rtc") or self._taps.rtc
        return found

    @property
    def dmac(self) -> Dmac:
        """The ISA DMA controller, or the stand-in."""
        found: Dmac = self._player("dmac") or self._taps.dmac
        return found

    def acknowledge(self) -> int:
        """INTA; -1 without an interrupt controller."""
        return int(self._ask("pic", "acknowledge", lambda pic: int(pic.acknowledge()) & 0xFF, -1))

    def fpu_error(self) -> None:
        """FERR#."""
        self._ask("fpu", "fpu_error", lambda board: board.fpu_error())

    def _player(self, role: str) -> Any:
        entry = self._roles.get(role)
        return entry[1] if entry is not None else None

    def _ask(self, role: str, where: str, action: Callable[[Any], Any], otherwise: Any = None) -> Any:
        """Call the player of a role, if there is one."""
        entry = self._roles.get(role)
        if entry is None:
            return otherwise
        try:
            return action(entry[1])
        except Exception as error:
            self._fail(entry[0].title, where, error)
            return otherwise

    # --- wires

    def reset(self) -> None:
        """RST#: functions, lines, NMI mask."""
        for function in self.functions.values():
            function.reset()
        self.isa.lower_all()
        self.nmi_masked = False

    def lower_all(self) -> None:
        """Power off."""
        for function in self.functions.values():
            function.set_irq(False)
        self.isa.lower_all()

    def intx_handle(self, function: PciFunction, pin: int) -> WireHandle[tuple[int, int]]:
        """A function's hold on a pin (1..4) of its slot."""
        key = (function, pin)
        if key not in self._intx_handles:
            self._intx_handles[key] = self.intx.handle((function.device, pin - 1))
        return self._intx_handles[key]

    def drop_function(self, function: PciFunction) -> None:
        """Its device is gone."""
        function.reset()
        self.functions.pop((function.device, function.function), None)
        for key in [key for key in self._intx_handles if key[0] is function]:
            self.intx.drop(self._intx_handles.pop(key))

    def set_interrupt(self, level: bool) -> None:
        """The interrupt controller drives INTR."""
        if level == self.interrupt:
            return
        self.interrupt = level
        if not self._refused("INTR"):
            self._taps.interrupt(level)

    def nmi(self) -> None:
        """An NMI edge."""
        if not self.nmi_masked and not self._refused("NMI"):
            self._taps.nmi()

    def message(self, address: int, data: int) -> None:
        """MSI or MSI-X."""
        if not self._refused(f"a message to {address:#x}"):
            self._taps.message(address, data)
            self._bus.message(address, data)

    def _isa_changed(self, line: int, level: bool) -> None:
        if not self._refused(f"ISA line {line}"):
            self._taps.isa_irq(line, level)
            self._ask("pic", f"set_irq({line}, {level})", lambda pic: pic.set_irq(line, level))

    def _isa_pulsed(self, line: int) -> None:
        if not self._refused(f"ISA line {line}"):
            self._taps.isa_irq(line, True)
            self._taps.isa_irq(line, False)
            self._ask("pic", f"pulse_irq({line})", lambda pic: pic.pulse_irq(line))

    def _intx_changed(self, wire: tuple[int, int], level: bool) -> None:
        device, pin = wire
        if not self._refused(f"INT{'ABCD'[pin]}# of slot {device}"):
            self._taps.intx(device, pin, level)
            where = f"route({device}, {pin}, {level})"
            self._ask("pci router", where, lambda router: router.route(device, pin, level))

    def _refused(self, what: str) -> bool:
        """Whether a state is being loaded: nothing may happen then."""
        if self.loading:
            self._fail(
                "saved state", "pdm_load", PdmError("VERR_WRONG_ORDER", f"{what} changed while loading")
            )
        return self.loading
