"""PCI bus 0: who is in which slot, and what functions need of their host.

The configuration mechanism itself belongs to the host bridge, a device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from vbox_pdm.errors import PdmError
from vbox_pdm.helpers import Dma, Mapping
from vbox_pdm.pci import BarRegion, PciFunction
from vbox_pdm.regions import Ram, Rom
from vbox_vmm.dma import scratch_handle
from vbox_vmm.iom import Iom
from vbox_vmm.layout import Block, Kind, Rank
from vbox_vmm.pdm.lines import IntxPins
from vbox_vmm.pdm.owned import Owned
from vbox_vmm.pgm import BlockMapping

FIRST_FREE_SLOT = 1  # slot 0 is the host bridge's
SLOTS, FUNCTIONS = 32, 8


class PciBus:
    """Bus 0 of one VM.  It is the `PciBusHelpers` of the host bridge.

    `message(address, data)` is told of MSI and MSI-X messages before they are written to memory,
    `wrong(text)` of those that are sent while a state is loaded."""

    def __init__(
        self,
        iom: Iom,
        intx: IntxPins,
        wrong: Callable[[str], None],
        message: Callable[[int, int], None] | None = None,
    ) -> None:
        self.iom = iom
        self.intx = intx
        self.functions: dict[tuple[int, int], PciFunction] = {}
        self.loading = False
        """While a state is loaded no message is sent."""
        self._message = message
        self._wrong = wrong

    def function(self, device: int, function: int) -> PciFunction | None:
        """Who is at an address, or None."""
        return self.functions.get((device, function))

    def all(self) -> list[PciFunction]:
        """All functions by address."""
        return [self.functions[at] for at in sorted(self.functions)]

    def place(self, owned: Owned, device: int | None, function: int) -> tuple[int, int]:
        """Where a new function of an instance goes.

        Raises PdmError VERR_PDM_TOO_PCI_MANY_DEVICES, VERR_PDM_BAD_PCI_CONFIG (somebody is there)."""
        slot = device
        if not owned.functions:
            slot = owned.pci_device if owned.pci_device is not None else device
            function = owned.pci_function if owned.pci_function is not None else function
        elif owned.pci_device is not None and device == owned.pci_suggested:
            slot = owned.functions[0].device  # the configuration moved the whole device
        if slot is None:
            again = owned.functions and function != 0
            slot = owned.functions[-1].device if again else self._free_slot(owned)
        if not (0 <= slot < SLOTS and 0 <= function < FUNCTIONS):
            raise owned.invalid(f"asks for PCI address {slot}.{function}")
        other = self.functions.get((slot, function))
        if other is not None:
            raise PdmError(
                "VERR_PDM_BAD_PCI_CONFIG",
                f"{owned.instance.title} asks for PCI address {slot}.{function}, which {other.name} has",
                "Set PCIDeviceNo of one of them",
            )
        return slot, function

    def _free_slot(self, owned: Owned) -> int:
        used = {slot for slot, _ in self.functions}
        for slot in range(FIRST_FREE_SLOT, SLOTS):
            if slot not in used:
                return slot
        raise PdmError(
            "VERR_PDM_TOO_PCI_MANY_DEVICES",
            f"{owned.instance.title} finds no free PCI slot",
            "Remove a PCI device",
        )

    def add(self, function: PciFunction) -> None:
        """A function is there."""
        self.functions[function.device, function.function] = function

    def remove(self, function: PciFunction) -> None:
        """Its owner is gone: it decodes nothing and drives nothing."""
        function.reset()
        self.intx.set(function, function.device, 0, False)
        self.functions.pop((function.device, function.function), None)

    def load_levels(self) -> None:
        """After functions were loaded: the pins are what they drive; nobody hears of it."""
        self.intx.load(
            {
                function: (function.device, function.identity.pin - 1 & 3)
                for function in self.functions.values()
                if function.driven
            }
        )

    def send(self, address: int, data: int) -> None:
        """A message: a write of a dword."""
        if self.loading:
            self._wrong("A message was sent")
            return
        if self._message is not None:
            self._message(address, data)
        self.iom.mmio_write(address, 4, data)


class FunctionHost:
    """What the functions of one instance need of their host (`vbox_pdm.pci.PciHost`)."""

    def __init__(self, bus: PciBus, owned: Owned) -> None:
        self._bus = bus
        self._owned = owned

    def bar_map(self, function: PciFunction, region: BarRegion | Rom, address: int) -> Mapping:
        """Where the guest put a BAR.  Never raises."""
        owned = self._owned
        mapping: Mapping | None = owned.bars.get(region)
        if mapping is None:
            mapping = self._new(function, region)
            owned.bars[region] = mapping
        mapping.move(address)
        return mapping

    def _new(self, function: PciFunction, region: BarRegion | Rom) -> Mapping:
        owned, iom = self._owned, self._bus.iom
        instance = owned.instance
        order = (function.device, function.function, region.name)  # history must not matter
        title = f"{instance.title}: {region.name}"
        if isinstance(region, Rom):
            size = max(2048, 1 << (len(region.data) - 1).bit_length())
            memory = iom.pgm.new_memory(title, size)
            memory.view[: len(region.data)] = region.data
            memory.view[len(region.data) :] = b"\xff" * (memory.size - len(region.data))
            owned.roms.append(memory)
            return self._memory(Block(Kind.ROM, 0, size, Rank.BAR, title, order, memory))
        if isinstance(region, Ram):
            backing = next((memory for ram, memory in owned.rams if ram is region), None)
            if backing is None:  # a device that forgot helpers.ram
                backing = iom.pgm.new_memory(title, region.size)
                region.view = backing.view
                owned.rams.append((region, backing))
            return self._memory(Block(Kind.DEVICE_RAM, 0, backing.size, Rank.BAR, title, order, backing))
        return iom.bar(instance, function, region, order)

    def _memory(self, block: Block) -> BlockMapping:
        mapping = BlockMapping(self._bus.iom.pgm, block)
        self._owned.mappings.append(mapping)
        return mapping

    def intx(self, function: PciFunction, pin: int, level: bool) -> None:
        """A pin (1..4) of the function changed."""
        if 1 <= pin <= 4:
            self._bus.intx.set(function, function.device, pin - 1, level)

    def message(self, function: PciFunction, address: int, data: int) -> None:
        """MSI or MSI-X."""
        self._bus.send(address, data)

    def dma(self, address: int, length: int, write: bool, allowed: bool) -> Dma:
        """Guest memory, or scratch for who may not."""
        if allowed:
            return self._bus.iom.pgm.dma(address, length, write)
        return scratch_handle(length, write)

    def dma_list(self, pieces: Sequence[tuple[int, int]], write: bool, allowed: bool) -> Dma:
        """The same of several pieces."""
        if allowed:
            return self._bus.iom.pgm.dma_list(pieces, write)
        return scratch_handle(sum(length for _, length in pieces), write)
