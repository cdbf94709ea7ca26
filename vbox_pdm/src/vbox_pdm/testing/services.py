"""The helpers that the bench gives to devices and drivers.

`DeviceHelpers` and `DriverHelpers` of the contract, over a `Machine` (what `host.BenchHost` is to
them).  Whatever a helper makes is noted in the instance's `Owned` record, so that the host can save
it and free it.
"""

from __future__ import annotations

import logging
import mmap
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from attrs import define, field

from vbox_pdm.dmaviews import DmaHandle
from vbox_pdm.engine import Exit
from vbox_pdm.errors import PdmError
from vbox_pdm.helpers import (
    Dmac,
    DmaChannel,
    DmaTransfer,
    FpuErrors,
    Mapping,
    PciRouter,
    Pic,
    PicHelpers,
    ResetSource,
    Rtc,
    RuntimeErrorFlags,
    ShadowMode,
    Worker,
)
from vbox_pdm.helpers import PciBusHelpers as PciBusHelpersProtocol
from vbox_pdm.instance import Instance, Phase
from vbox_pdm.layers import Layer
from vbox_pdm.lines import WireHandle
from vbox_pdm.pci import AnyCapability, BarRegion, PciFunction, PciIdentity
from vbox_pdm.readout import Readout
from vbox_pdm.regions import Mmio, Ports, Ram, Region, Rom
from vbox_pdm.tables import BAR, FIXED
from vbox_pdm.testing.clock import BenchTimer
from vbox_pdm.testing.memory import PAGE
from vbox_pdm.testing.queues import BenchQueue
from vbox_pdm.timers import NS_PER_SECOND, Clock
from vbox_pdm.workers import WorkerThread

if TYPE_CHECKING:
    from vbox_pdm.testing.host import BenchHost

T = TypeVar("T")
B = TypeVar("B")
A = TypeVar("A")


@define(eq=False)
class RegionOwner:
    """Who stands behind a row of an exit table."""

    instance: Instance
    region: Region

    @property
    def title(self) -> str:
        """For errors."""
        return f"region '{self.region.name}' of {self.instance.title}"


@define(eq=False)
class Owned:
    """What the helpers of one instance made."""

    instance: Instance
    unit: str
    """The name of its unit in saved states."""
    timers: dict[str, BenchTimer] = field(factory=dict)
    queues: dict[str, BenchQueue] = field(factory=dict)
    irqs: list[WireHandle[int]] = field(factory=list)
    functions: list[PciFunction] = field(factory=list)
    rams: list[Ram] = field(factory=list)
    mappings: list[Mapping] = field(factory=list)
    workers: list[WorkerThread] = field(factory=list)
    error_text: str = ""
    pci_device: int | None = None
    pci_function: int | None = None
    pci_suggested: int | None = None


class HostHelpers:
    """What every instance has."""

    def __init__(self, host: BenchHost, owned: Owned) -> None:
        self._host = host
        self._owned = owned
        self._log: logging.LoggerAdapter[logging.Logger] | None = None

    @property
    def log(self) -> logging.LoggerAdapter[logging.Logger]:
        """The release log."""
        if self._log is None:
            self._log = logging.LoggerAdapter(self._host.logger(self._owned.instance.title), None)
        return self._log

    def timer(self, name: str, clock: Clock, callback: Callable[[], None]) -> BenchTimer:
        """A one-shot timer."""
        self._creating("a timer")
        if name in self._owned.timers:
            raise self._invalid(f"has two timers named '{name}'")
        timer = self._host.clocks.create(name, clock, callback)
        self._owned.timers[name] = timer
        return timer

    def now(self, clock: Clock) -> int:
        """The time of a clock."""
        return self._host.clocks.now(clock)

    def reader(self, clock: Clock, hz: int = NS_PER_SECOND) -> Callable[[], int]:
        """What gives the time of a clock."""
        return self._host.clocks.reader(clock, hz)

    def readout(self, look: Callable[[int, int], int], clock: Clock, hz: int = NS_PER_SECOND) -> Readout:
        """What answers by the time of a clock."""
        return self._host.clocks.readout(look, clock, hz)

    def utc_now(self) -> int:
        """The wall clock."""
        return self._host.utc + self._host.clocks.now(Clock.REAL)

    def random(self) -> float:
        """0 <= x < 1."""
        return self._host.random.random()

    def random_bytes(self, length: int) -> bytes:
        """From the seed."""
        return self._host.random.randbytes(length)

    def queue(self, name: str, consumer: Callable[[Any], None], capacity: int = 1024) -> BenchQueue:
        """A queue."""
        self._creating("a queue")
        if name in self._owned.queues:
            raise self._invalid(f"has two queues named '{name}'")
        queue = BenchQueue(self._host.inbox, self._owned.instance.title, name, consumer, capacity)
        self._owned.queues[name] = queue
        return queue

    def set_runtime_error(self, flags: RuntimeErrorFlags, error_id: str, text: str) -> None:
        """Tell the user."""
        self._host.taps.runtime_error(self._owned.instance.title, flags, error_id, text)

    def set_async_notification(self, done: Callable[[], bool]) -> None:
        """Not done yet."""
        self._host.notifier.defer(self._owned.instance, done)

    def async_notification_completed(self) -> None:
        """Ask again now."""
        self._host.inbox.nudge()

    def power_off_vm(self, exit_code: int = 0) -> None:
        """Ask for power off."""
        self._host.taps.power_off_requested(exit_code)

    def _creating(self, what: str) -> None:
        instance = self._owned.instance
        if instance.phase not in (Phase.NEW, Phase.CONSTRUCTED):
            raise PdmError(
                "VERR_WRONG_ORDER",
                f"{instance.title} asks for {what} while it is {instance.phase.value}",
                "Create everything in pdm_construct",
            )

    def _invalid(self, text: str) -> PdmError:
        return PdmError("VERR_INVALID_PARAMETER", f"{self._owned.instance.title} {text}")


class HostDriverHelpers(HostHelpers):
    """What a driver has besides."""

    at_once = False

    def worker(self, name: str, run: Callable[[Worker], None], wake: Callable[[], None]) -> Worker:
        """A thread."""
        self._creating("a worker")
        host, title = self._host, self._owned.instance.title
        worker = WorkerThread(f"{title} {name}", run, wake, host.from_thread(title, f"worker {name}"))
        self._owned.workers.append(worker)
        return worker

    def set_error(self, text: str) -> None:
        """Words for the user when construction fails."""
        self._owned.error_text = text


class HostDeviceHelpers(HostHelpers):
    """What a device has."""

    def read_host_file(self, name: str, *, most: int) -> bytes:
        """A file that the test gave."""
        self._creating("a copy of a file")
        return self._host.taps.host_file(name, most)

    # --- regions

    def map_ports(self, port: int, region: Ports) -> Mapping:
        """Fixed ports."""
        return self._map(self._host.bus.ports, port, region)

    def map_mmio(self, address: int, region: Mmio) -> Mapping:
        """Fixed MMIO."""
        return self._map(self._host.memory.mmio, address, region)

    def ram(self, region: Ram) -> Ram:
        """Back device RAM."""
        self._creating("RAM")
        if region.size <= 0 or region.size % PAGE:
            raise self._invalid(f"asks for {region.size} bytes of RAM, which are no whole pages")
        region.view = memoryview(mmap.mmap(-1, region.size))  # zeros that cost nothing until they are used
        self._owned.rams.append(region)
        return region

    def map_ram(self, address: int, region: Ram) -> Mapping:
        """Fixed device RAM."""
        self._creating("a mapping")
        if not any(known is region for known in self._owned.rams):
            raise self._invalid(f"maps RAM '{region.name}' that helpers.ram has not made")
        return self._owned_mapping(
            self._host.memory.map(address, region.view, True, self._owned.instance, FIXED)
        )

    def map_rom(self, address: int, region: Rom) -> Mapping:
        """Fixed ROM."""
        self._creating("a mapping")
        view = rom_view(region, -(-len(region.data) // PAGE) * PAGE)
        return self._owned_mapping(self._host.memory.map(address, view, False, self._owned.instance, FIXED))

    def shadow(self, address: int, size: int, mode: ShadowMode) -> None:
        """PAM."""
        self._host.memory.shadow(address, size, mode)

    def _map(self, table: Any, address: int, region: Region) -> Mapping:
        self._creating("a mapping")
        wrapped = self._host.wrapped(self._owned.instance, region)
        mapping: Mapping = table.map(address, wrapped, RegionOwner(self._owned.instance, wrapped))
        return self._owned_mapping(mapping)

    def _owned_mapping(self, mapping: Mapping) -> Mapping:
        self._owned.mappings.append(mapping)
        return mapping

    # --- interrupts, PCI, LUNs

    def isa_irq(self, line: int) -> WireHandle[int]:
        """A handle on an ISA line."""
        self._creating("an interrupt line")
        if not 0 <= line <= 15:
            raise self._invalid(f"asks for ISA interrupt {line}, which is not 0..15")
        handle = self._host.board.isa.handle(line)
        self._owned.irqs.append(handle)
        return handle

    def pci(
        self,
        identity: PciIdentity,
        *,
        capabilities: Sequence[AnyCapability] = (),
        device: int | None = None,
        function: int = 0,
    ) -> PciFunction:
        """A PCI function."""
        self._creating("a PCI function")
        owned = self._owned
        slot, number = self._place(device, function)
        owner = FunctionHost(self._host, owned)
        made = PciFunction(owner, identity, capabilities, slot, number, owned.instance.title)
        self._host.board.functions[slot, number] = made
        if not owned.functions:
            owned.pci_suggested = device
        owned.functions.append(made)
        return made

    def _place(self, device: int | None, function: int) -> tuple[int, int]:
        owned, taken = self._owned, self._host.board.functions
        slot = device
        if not owned.functions:
            slot = owned.pci_device if owned.pci_device is not None else device
            function = owned.pci_function if owned.pci_function is not None else function
        elif owned.pci_device is not None and device == owned.pci_suggested:
            slot = owned.functions[0].device
        if slot is None:
            if owned.functions and function != 0:
                slot = owned.functions[-1].device
            else:
                used = {at for at, _ in taken}
                slot = next((at for at in range(1, 32) if at not in used), None)
                if slot is None:
                    raise PdmError("VERR_PDM_TOO_PCI_MANY_DEVICES", "All PCI slots are taken")
        if not (0 <= slot <= 31 and 0 <= function <= 7):
            raise self._invalid(f"asks for PCI address {slot}.{function}")
        other = taken.get((slot, function))
        if other is not None:
            raise PdmError(
                "VERR_PDM_BAD_PCI_CONFIG",
                f"{owned.instance.title} asks for PCI address {slot}.{function}, which {other.name} has",
                "Set PCIDeviceNo of one of them",
            )
        return slot, function

    def lun(self, number: int, layer: Layer[B, A], description: str, above: object | None = None) -> B:
        """A LUN."""
        self._creating("a LUN")
        if not description:
            raise self._invalid(f"describes LUN {number} by nothing")
        target = self._owned.instance.object if above is None else above
        lun = self._host.make_lun(self._owned.instance, number, layer, description, target)
        end: B = lun.link.below
        return end

    # --- memory

    def dma(self, address: int, length: int, *, write: bool = False) -> DmaHandle:
        """A transfer."""
        return self._host.dma(address, length, write)

    def dma_list(self, pieces: Sequence[tuple[int, int]], *, write: bool = False) -> DmaHandle:
        """A transfer of scattered memory."""
        return self._host.dma_list(pieces, write)

    def memory_read(self, address: int, length: int) -> bytes:
        """Guest memory."""
        return self._host.memory.read(address, length)

    def memory_write(self, address: int, data: bytes) -> None:
        """Guest memory."""
        self._host.memory.write(address, data)

    @property
    def ram_size(self) -> int:
        """Bytes of guest RAM."""
        return self._host.memory.size

    @property
    def ram_below_4g(self) -> int:
        """Bytes of it below 4 GiB."""
        return self._host.memory.below_4g

    # --- the machine

    def a20(self) -> bool:
        """Whether address bit 20 passes."""
        return self._host.bus.a20

    def set_a20(self, enabled: bool) -> None:
        """Pass or mask address bit 20."""
        self._host.bus.a20 = bool(enabled)

    def reset_vm(self, source: ResetSource, *, soft: bool = False) -> None:
        """Ask for a reset."""
        self._host.taps.reset_requested(source, soft)

    def nmi(self) -> None:
        """An edge."""
        self._host.board.nmi()

    def mask_nmi(self, masked: bool) -> None:
        """Mask it."""
        self._host.board.nmi_masked = bool(masked)

    def current_cpu(self) -> int:
        """The bench has no CPU; its accesses are CPU 0's."""
        return 0

    # --- roles

    def cmos_read(self, index: int) -> int:
        """CMOS."""
        return self._host.board.rtc.cmos_read(index)

    def cmos_write(self, index: int, value: int) -> None:
        """CMOS."""
        self._host.board.rtc.cmos_write(index, value)

    def dma_channel(self, channel: int, transfer: DmaTransfer) -> DmaChannel:
        """A channel of the ISA DMA controller."""
        if channel not in (0, 1, 2, 3, 5, 6, 7):
            raise self._invalid(f"asks for DMA channel {channel}, which is none of 0..3, 5..7")
        return self._host.board.dmac.attach(channel, transfer)

    def provide_pic(self, pic: Pic) -> PicHelpers:
        """Play the interrupt controller."""
        self._host.board.provide("pic", self._owned.instance, pic)
        return _Intr(self._host)

    def provide_pci_bus(self) -> PciBusHelpersProtocol:
        """Play the host bridge."""
        self._host.board.provide("pci bus", self._owned.instance, self._owned.instance.object)
        return _Bus(self._host)

    def provide_pci_router(self, router: PciRouter) -> None:
        """Play the PCI interrupt router."""
        self._host.board.provide("pci router", self._owned.instance, router)

    def provide_rtc(self, rtc: Rtc) -> None:
        """Play the owner of CMOS."""
        self._host.board.provide("rtc", self._owned.instance, rtc)

    def provide_dmac(self, dmac: Dmac) -> None:
        """Play the ISA DMA controller."""
        self._host.board.provide("dmac", self._owned.instance, dmac)

    def provide_fpu_errors(self, board: FpuErrors) -> Callable[[], None]:
        """Play the board's answer to FERR#."""
        self._host.board.provide("fpu", self._owned.instance, board)
        return self._host.taps.fpu_errors_ignored


class _Intr:
    """`PicHelpers`."""

    def __init__(self, host: BenchHost) -> None:
        self._host = host

    def interrupt(self, level: bool) -> None:
        """Drive INTR."""
        self._host.board.set_interrupt(bool(level))


class _Bus:
    """`PciBusHelpers`."""

    def __init__(self, host: BenchHost) -> None:
        self._host = host

    def function(self, device: int, function: int) -> PciFunction | None:
        """Who is there."""
        return self._host.board.functions.get((device, function))


class FunctionHost:
    """`PciHost` of the functions of one instance."""

    def __init__(self, host: BenchHost, owned: Owned) -> None:
        self._host = host
        self._owned = owned

    def bar_map(self, function: PciFunction, region: BarRegion | Rom, address: int) -> Mapping:
        """Where the guest put a BAR."""
        host, instance = self._host, self._owned.instance
        if isinstance(region, Ram):
            return host.memory.map(address, region.view, True, instance, BAR)
        if isinstance(region, Rom):
            size = max(2048, 1 << (len(region.data) - 1).bit_length())
            return host.memory.map(address, rom_view(region, size), False, instance, BAR)
        wrapped = host.wrapped(instance, region)
        table = host.bus.ports if isinstance(wrapped, Ports) else host.memory.mmio
        order = (function.device, function.function, region.name)
        return table.map(address, wrapped, RegionOwner(instance, wrapped), rank=BAR, order=order)

    def intx(self, function: PciFunction, pin: int, level: bool) -> None:
        """A pin of the function changed."""
        self._host.board.intx_handle(function, pin).set(level)

    def message(self, function: PciFunction, address: int, data: int) -> None:
        """MSI or MSI-X."""
        self._host.board.message(address, data)

    def dma(self, address: int, length: int, write: bool, allowed: bool) -> DmaHandle:
        """A transfer by the function."""
        return self._host.dma(address, length, write, allowed)

    def dma_list(self, pieces: Sequence[tuple[int, int]], write: bool, allowed: bool) -> DmaHandle:
        """The same of several pieces."""
        return self._host.dma_list(pieces, write, allowed)


def rom_view(region: Rom, size: int) -> memoryview:
    """The bytes of a ROM, filled up to `size` with 0xFF."""
    return memoryview(region.data.ljust(size, b"\xff"))


def describe_row(row: Exit) -> tuple[str, str]:
    """(title, region name) for failures."""
    owner = row.owner
    if isinstance(owner, RegionOwner):
        return owner.instance.title, owner.region.name
    return str(owner), "?"
