"""What the helpers of one instance made: to be saved with it, and to be freed after it."""

from __future__ import annotations

from collections.abc import Mapping as MappingABC
from typing import Any

from attrs import define, field

from vbox_pdm.chains import Chain
from vbox_pdm.errors import PdmError
from vbox_pdm.instance import Instance, Phase
from vbox_pdm.pci import PciFunction
from vbox_pdm.regions import Ram
from vbox_pdm.workers import WorkerThread
from vbox_vmm.hostmem import HostMemory
from vbox_vmm.pdm.queues import PdmQueue
from vbox_vmm.pdm.wires import IsaHandle
from vbox_vmm.pgm import BlockMapping
from vbox_vmm.tm import Timer


@define(eq=False)
class Owned:
    """The record of one instance; also the owner of its timers, which TM names in its texts."""

    instance: Instance
    unit: str
    """What its units in saved states are called."""
    timers: dict[str, Timer] = field(factory=dict)
    queues: dict[str, PdmQueue[Any]] = field(factory=dict)
    irqs: list[IsaHandle] = field(factory=list)
    functions: list[PciFunction] = field(factory=list)
    rams: list[tuple[Ram, HostMemory]] = field(factory=list)
    roms: list[HostMemory] = field(factory=list)
    mappings: list[BlockMapping] = field(factory=list)
    bars: dict[Any, Any] = field(factory=dict)
    """BAR region -> its mapping, kept while it is unmapped."""
    workers: list[WorkerThread] = field(factory=list)
    error_text: str = ""
    chains: dict[int, Chain] = field(factory=dict)
    """What the configuration hangs below LUNs that were not made yet."""
    pci_device: int | None = None
    """Where the configuration wants its first function."""
    pci_function: int | None = None
    pci_suggested: int | None = None
    """Where the device itself wanted it."""
    powered: bool = False
    """Whether pdm_power_on was called."""

    def __str__(self) -> str:
        return self.instance.title

    def creating(self, what: str) -> None:
        """Raise VERR_WRONG_ORDER unless the instance may still make things."""
        if self.instance.phase not in (Phase.NEW, Phase.CONSTRUCTED):
            raise PdmError(
                "VERR_WRONG_ORDER",
                f"{self.instance.title} asks for {what} while it is {self.instance.phase.value}",
                "Create everything in pdm_construct",
            )

    def invalid(self, text: str) -> PdmError:
        """The error for a wrong argument of a helper."""
        return PdmError("VERR_INVALID_PARAMETER", f"{self.instance.title} {text}")


@define(eq=False)
class Plan:
    """A device that is to be built."""

    type: Any
    number: int
    config: MappingABC[str, object]
    chains: dict[int, Chain]
    distribution: str = ""
    pci_device: int | None = None
    pci_function: int | None = None
