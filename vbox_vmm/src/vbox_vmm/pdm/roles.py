"""Roles: which device plays the interrupt controller, the host bridge, the owner of CMOS and so on."""

from __future__ import annotations

from typing import Any

from vbox_pdm.errors import PdmError
from vbox_pdm.instance import Instance

PIC, PCI_BUS, PCI_ROUTER, RTC, DMAC, FPU = "PIC", "PCI_BUS", "PCI_ROUTER", "RTC", "DMAC", "FPU"
_MISSING = {
    PIC: ("VERR_PDM_NO_PIC_INSTANCE", "an interrupt controller"),
    PCI_BUS: ("VERR_PDM_NO_PCI_BUS", "a PCI host bridge"),
    PCI_ROUTER: ("VERR_PDM_NO_PCI_BUS", "a PCI interrupt router"),
    RTC: ("VERR_PDM_NO_RTC_INSTANCE", "a real-time clock"),
    DMAC: ("VERR_PDM_NO_DMAC_INSTANCE", "an ISA DMA controller"),
    FPU: ("VERR_NOT_FOUND", "the board's answer to FPU errors"),
}


class Roles:
    """Who plays what in one VM."""

    def __init__(self) -> None:
        self._players: dict[str, tuple[Instance | None, Any]] = {}

    def provide(self, role: str, instance: Instance, player: object) -> None:
        """`instance` plays `role`.  VERR_ALREADY_EXISTS when another device does."""
        held = self._players.get(role)
        if held is not None and held[0] is not None:
            raise PdmError(
                "VERR_ALREADY_EXISTS",
                f"{instance.title} wants to be {_MISSING[role][1]}, which {held[0].title} is already",
                "Remove one of them",
            )
        self._players[role] = (instance, player)

    def stand_in(self, role: str, player: object) -> None:
        """Who is asked while no device plays `role`."""
        self._players.setdefault(role, (None, player))

    def player(self, role: str) -> Any:
        """Who plays `role`, or None."""
        held = self._players.get(role)
        return held[1] if held is not None else None

    def owner(self, role: str) -> Instance | None:
        """The device that plays `role`."""
        held = self._players.get(role)
        return held[0] if held is not None else None

    def require(self, role: str, who: str) -> Any:
        """Who plays `role`; VERR_PDM_NO_* when nobody does.  `who` needs it."""
        held = self._players.get(role)
        if held is None:
            status, name = _MISSING[role]
            raise PdmError(status, f"{who} needs {name} and there is none", "Add such a device")
        return held[1]

    def release(self, instance: Instance) -> list[str]:
        """The instance is gone; returns what it played."""
        gone = [role for role, (owner, _) in self._players.items() if owner is instance]
        for role in gone:
            del self._players[role]
        return gone
