"""The helpers of devices (`vbox_pdm.helpers.DeviceHelpers`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from vbox_pdm.helpers import (
    Dmac,
    DmaChannel,
    DmaTransfer,
    FpuErrors,
    Mapping,
    PciBusHelpers,
    PciRouter,
    Pic,
    PicHelpers,
    ResetSource,
    Rtc,
    ShadowMode,
)
from vbox_pdm.layers import Layer
from vbox_pdm.pci import AnyCapability, PciFunction, PciIdentity
from vbox_pdm.regions import Mmio, Ports, Ram, Rom
from vbox_vmm.dma import DmaHandle
from vbox_vmm.hostmem import PAGE
from vbox_vmm.layout import Block, Kind, Rank
from vbox_vmm.pdm import roles
from vbox_vmm.pdm.driver_helpers import InstanceHelpers
from vbox_vmm.pdm.lines import ISA_LINES
from vbox_vmm.pdm.owned import Owned
from vbox_vmm.pdm.pcibus import FunctionHost
from vbox_vmm.pdm.wires import IsaHandle
from vbox_vmm.pgm import BlockMapping

if TYPE_CHECKING:
    from vbox_vmm.pdm.manager import Pdm

B = TypeVar("B")
A = TypeVar("A")
DMA_CHANNELS = (0, 1, 2, 3, 5, 6, 7)


class DeviceHelpers(InstanceHelpers):
    """What a device has."""

    def __init__(self, pdm: Pdm, owned: Owned) -> None:
        super().__init__(pdm, owned)
        self._pgm = pdm.services.pgm
        self._function_host = FunctionHost(pdm.bus, owned)
        self.memory_read = self._pgm.read
        self.memory_write = self._pgm.write
        self.current_cpu = pdm.services.current_cpu

    def read_host_file(self, name: str, *, most: int) -> bytes:
        """A file that the configuration names.  VERR_FILE_NOT_FOUND, VERR_ACCESS_DENIED,
        VERR_FILE_TOO_BIG."""
        self._owned.creating("a copy of a file")
        return self._pdm.read_host_file(name, most)

    # --- regions

    def map_ports(self, port: int, region: Ports) -> Mapping:
        """Fixed ports.  VERR_IOM_IOPORT_RANGE_CONFLICT names both owners."""
        self._owned.creating("ports")
        return self._pdm.services.iom.map(self._owned.instance, port, region)

    def map_mmio(self, address: int, region: Mmio) -> Mapping:
        """Fixed registers in memory.  VERR_IOM_MMIO_RANGE_CONFLICT names both owners."""
        self._owned.creating("registers")
        return self._pdm.services.iom.map(self._owned.instance, address, region)

    def ram(self, region: Ram) -> Ram:
        """Back device RAM, zeroed."""
        owned = self._owned
        owned.creating("RAM")
        if region.size <= 0 or region.size % PAGE:
            raise owned.invalid(f"asks for {region.size} bytes of RAM, which are no whole pages")
        if any(known is region for known, _ in owned.rams):
            return region
        memory = self._pgm.new_memory(f"{owned.instance.title}: {region.name}", region.size)
        region.view = memory.view
        owned.rams.append((region, memory))
        return region

    def map_ram(self, address: int, region: Ram) -> Mapping:
        """Device RAM at a fixed address.  VERR_PGM_RAM_CONFLICT."""
        owned = self._owned
        owned.creating("a mapping")
        memory = next((memory for known, memory in owned.rams if known is region), None)
        if memory is None:
            raise owned.invalid(f"maps RAM '{region.name}' that helpers.ram has not made")
        title = f"{owned.instance.title}: {region.name}"
        return self._map(Block(Kind.DEVICE_RAM, address, memory.size, Rank.FIXED, title, memory=memory))

    def map_rom(self, address: int, region: Rom) -> Mapping:
        """ROM at a fixed address.  VERR_PGM_RAM_CONFLICT."""
        owned = self._owned
        owned.creating("a mapping")
        if not region.data:
            raise owned.invalid(f"maps ROM '{region.name}' without any data")
        title = f"{owned.instance.title}: {region.name}"
        memory = self._pgm.new_memory(title, len(region.data))
        owned.roms.append(memory)
        memory.view[: len(region.data)] = region.data
        memory.view[len(region.data) :] = b"\xff" * (memory.size - len(region.data))
        return self._map(Block(Kind.ROM, address, memory.size, Rank.FIXED, title, memory=memory))

    def _map(self, block: Block) -> BlockMapping:
        mapping = BlockMapping(self._pgm, block)
        mapping.replace(block)
        self._owned.mappings.append(mapping)
        return mapping

    def shadow(self, address: int, size: int, mode: ShadowMode) -> None:
        """Where accesses to whole pages of 0xA0000..0xFFFFF go."""
        self._pgm.shadow(address, size, mode)

    # --- interrupts, PCI, LUNs

    def isa_irq(self, line: int) -> IsaHandle:
        """A handle on an ISA line."""
        owned = self._owned
        owned.creating("an interrupt line")
        if not 0 <= line < ISA_LINES:
            raise owned.invalid(f"asks for ISA interrupt {line}, which is not 0..15")
        handle = self._pdm.isa.handle(line)
        owned.irqs.append(handle)
        return handle

    def pci(
        self,
        identity: PciIdentity,
        *,
        capabilities: Sequence[AnyCapability] = (),
        device: int | None = None,
        function: int = 0,
    ) -> PciFunction:
        """A PCI function.  VERR_PDM_TOO_PCI_MANY_DEVICES, VERR_PDM_BAD_PCI_CONFIG."""
        owned = self._owned
        owned.creating("a PCI function")
        slot, number = self._pdm.bus.place(owned, device, function)
        host = self._function_host
        made = PciFunction(host, identity, capabilities, slot, number, owned.instance.title)
        self._pdm.bus.add(made)
        if not owned.functions:
            owned.pci_suggested = device
        owned.functions.append(made)
        return made

    def lun(self, number: int, layer: Layer[B, A], description: str, above: object | None = None) -> B:
        """A LUN and what the configuration hangs there.  VERR_INVALID_PARAMETER without a
        description, VERR_PDM_DRIVER_ALREADY_ATTACHED when there is such a LUN, errors of the chain."""
        owned = self._owned
        owned.creating("a LUN")
        if not description or number < 0:
            raise owned.invalid(f"describes LUN {number} by {description!r}")
        target = owned.instance.object if above is None else above
        below: B = self._pdm.make_lun(owned, number, layer, description, target).link.below
        return below

    # --- memory

    def dma(self, address: int, length: int, *, write: bool = False) -> DmaHandle:
        """Guest memory for a transfer."""
        return self._pgm.dma(address, length, write)

    def dma_list(self, pieces: Sequence[tuple[int, int]], *, write: bool = False) -> DmaHandle:
        """Scattered guest memory for a transfer."""
        return self._pgm.dma_list(pieces, write)

    @property
    def ram_size(self) -> int:
        """Bytes of guest RAM."""
        return self._pgm.ram_size

    @property
    def ram_below_4g(self) -> int:
        """Bytes of it below the hole under 4 GiB."""
        return self._pgm.ram_below_4g

    # --- the machine

    def a20(self) -> bool:
        """Whether address bit 20 passes."""
        return self._pgm.a20

    def set_a20(self, enabled: bool) -> None:
        """Pass or mask address bit 20."""
        self._pgm.set_a20(enabled)

    def reset_vm(self, source: ResetSource, *, soft: bool = False) -> None:
        """Ask for a hard reset, or a CPU INIT."""
        self._pdm.services.request_reset(source, soft)

    def nmi(self) -> None:
        """One NMI edge, unless masked."""
        self._pdm.nmi()

    def mask_nmi(self, masked: bool) -> None:
        """Port 0x70 bit 7."""
        self._pdm.nmi_masked = bool(masked)

    # --- roles

    def cmos_read(self, index: int) -> int:
        """A byte of CMOS (VERR_PDM_NO_RTC_INSTANCE)."""
        rtc: Rtc = self._pdm.roles.require(roles.RTC, self._owned.instance.title)
        return rtc.cmos_read(index)

    def cmos_write(self, index: int, value: int) -> None:
        """Set a byte of CMOS (VERR_PDM_NO_RTC_INSTANCE)."""
        rtc: Rtc = self._pdm.roles.require(roles.RTC, self._owned.instance.title)
        rtc.cmos_write(index, value)

    def dma_channel(self, channel: int, transfer: DmaTransfer) -> DmaChannel:
        """A channel of the ISA DMA controller (VERR_PDM_NO_DMAC_INSTANCE)."""
        owned = self._owned
        if channel not in DMA_CHANNELS:
            raise owned.invalid(f"asks for DMA channel {channel}, which is none of 0..3, 5..7")
        dmac: Dmac = self._pdm.roles.require(roles.DMAC, owned.instance.title)
        return dmac.attach(channel, transfer)

    def provide_pic(self, pic: Pic) -> PicHelpers:
        """Play the interrupt controller."""
        self._pdm.roles.provide(roles.PIC, self._owned.instance, pic)
        self._pdm.connect_pic(pic)
        return self._pdm.intr

    def provide_pci_bus(self) -> PciBusHelpers:
        """Play the host bridge."""
        self._pdm.roles.provide(roles.PCI_BUS, self._owned.instance, self._owned.instance.object)
        return self._pdm.bus

    def provide_pci_router(self, router: PciRouter) -> None:
        """Play the router from INTx to lines."""
        self._pdm.roles.provide(roles.PCI_ROUTER, self._owned.instance, router)
        self._pdm.intx.connect(router)

    def provide_rtc(self, rtc: Rtc) -> None:
        """Play the owner of CMOS."""
        self._pdm.roles.provide(roles.RTC, self._owned.instance, rtc)

    def provide_dmac(self, dmac: Dmac) -> None:
        """Play the ISA DMA controller."""
        self._pdm.roles.provide(roles.DMAC, self._owned.instance, dmac)

    def provide_fpu_errors(self, board: FpuErrors) -> Callable[[], None]:
        """Play the board's answer to FERR#."""
        self._pdm.roles.provide(roles.FPU, self._owned.instance, board)
        return self._pdm.services.ignore_fpu_errors
