"""The services that a host gives to an instance, and the roles that a device may play.

The kernel, the bench and whatever else hosts devices implement these Protocols; an instance cannot
tell them apart.  Nothing else of the outside world is for a device: no clock, no randomness, no
thread, no file.  Whatever a helper makes belongs to the instance and is freed by the host after
destruct.  Helpers that create something (regions, timers, queues, LUNs, PCI functions, lines,
roles) are for `pdm_construct`, and refuse later with VERR_WRONG_ORDER; the rest may be used at any time.
A helper that is given what makes no sense raises VERR_INVALID_PARAMETER; all errors are PdmErrors.
"""

from __future__ import annotations

import enum
import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from vbox_pdm.layers import Layer
    from vbox_pdm.pci import AnyCapability, PciFunction, PciIdentity
    from vbox_pdm.readout import Readout
    from vbox_pdm.regions import Mmio, Ports, Ram, Rom
    from vbox_pdm.timers import Clock, Timer

T = TypeVar("T")
T_contra = TypeVar("T_contra", contravariant=True)
B = TypeVar("B")
A = TypeVar("A")


class Mapping(Protocol):
    """A mapped region."""

    @property
    def address(self) -> int | None:
        """First port or guest-physical address; None while it is not mapped."""

    def unmap(self) -> None:
        """The region answers no more; no effect when it is not mapped."""

    def move(self, address: int) -> None:
        """Map it elsewhere (VERR_IOM_*_RANGE_CONFLICT when something is there)."""


class IrqLine(Protocol):
    """One input of the interrupt controller, shared: the line is high while any owner holds it.
    The kernel saves the level and lowers it at reset and power off."""

    @property
    def level(self) -> bool:
        """What this owner drives."""

    def set(self, level: bool) -> None:
        """Drive the line."""

    def pulse(self) -> None:
        """High, then low (FLIP_FLOP): one edge."""


class Queue(Protocol[T_contra]):
    """The way in for whatever comes from outside the VM's lock."""

    def put(self, item: T_contra) -> bool:
        """Any thread.  The consumer gets it on the EMT, in order, as soon as possible.
        False when the queue is full: nothing was queued."""


class Worker(Protocol):
    """A thread that PDM runs for a driver.  PDM suspends it with the VM."""

    @property
    def running(self) -> bool:
        """False once it must return; its function checks this between blocking steps."""

    def stop(self) -> None:
        """Ask it to end, wake it up, and wait for it."""


class Dma(AbstractContextManager["tuple[memoryview, ...]"], Protocol):
    """Guest memory held for a transfer: the views cover it in order, one for each contiguous piece.

    Released on leaving the context or by `release()`: then written pages are marked dirty and
    translated code in them is invalidated.  Where no RAM is (holes, MMIO), or the function is no
    bus master, a view of scratch bytes stands in: reads find 0xFF, writes are lost, and `complete`
    is False.
    """

    @property
    def views(self) -> tuple[memoryview, ...]:
        """What `with` gives as well; not to be used after the release."""

    @property
    def complete(self) -> bool:
        """Whether every byte is real guest RAM."""

    def release(self) -> None:
        """End the transfer; no effect the second time."""


class ShadowMode(enum.Enum):
    """Where reads and writes of a shadowable range go (PAM): ROM means the bus side."""

    READ_ROM_WRITE_NONE = 0  # 00: neither enabled
    READ_RAM_WRITE_NONE = 1  # read enable only
    READ_ROM_WRITE_RAM = 2  # write enable only
    READ_RAM_WRITE_RAM = 3  # plain RAM


class ResetSource(enum.IntEnum):
    """Who asks for a reset of the VM (VirtualBox's PDMVMRESET_F_*)."""

    UNKNOWN = 0
    GIM = 1
    ACPI = 0xC
    PORT92 = 0xD
    KEYBOARD = 0xE
    TRIPLE_FAULT = 0xF
    PCI = 0x10  # port 0xCF9


class RuntimeErrorFlags(enum.Flag):
    """What follows a runtime error."""

    NOTE = 0  # nothing: the user is told, and the guest goes on
    FATAL = 1  # the VM goes to FATAL_ERROR
    SUSPEND = 2  # the VM is suspended; resume when the cause is mended
    NO_WAIT = 4


class Helpers(Protocol):
    """What every instance has."""

    @property
    def log(self) -> logging.LoggerAdapter[logging.Logger]:
        """The release log; lines carry the instance's name."""

    def timer(self, name: str, clock: Clock, callback: Callable[[], None]) -> Timer:
        """A one-shot timer; names are unique in an instance (VERR_INVALID_PARAMETER)."""

    def now(self, clock: Clock) -> int:
        """The time of a clock, in its units."""

    def reader(self, clock: Clock, hz: int = 1_000_000_000) -> Callable[[], int]:
        """For registers that are read often: what gives the time of a clock (not of TSC) in periods of `hz`
        (1..10**9), rounded down.  A call of it costs less than `now` and the arithmetic."""

    def readout(self, look: Callable[[int, int], int], clock: Clock, hz: int = 1_000_000_000) -> Readout:
        """For registers that are polled: what stands in front of the read handler `look` and answers by
        itself what the device has said ahead, by the time of a clock in periods of `hz`, as of `reader`."""

    def utc_now(self) -> int:
        """The guest's wall clock: nanoseconds since 1970-01-01 UTC."""

    def random(self) -> float:
        """0 <= x < 1, from the VM's seed."""

    def random_bytes(self, length: int) -> bytes:
        """Random bytes, from the VM's seed."""

    def queue(self, name: str, consumer: Callable[[T], None], capacity: int = 1024) -> Queue[T]:
        """A queue whose consumer runs on the EMT; it holds `capacity` items.  Names are unique in an
        instance (VERR_INVALID_PARAMETER)."""

    def set_runtime_error(self, flags: RuntimeErrorFlags, error_id: str, text: str) -> None:
        """Tell the user; `error_id` is a stable CamelCase token ("DriveHostDiskFull")."""

    def set_async_notification(self, done: Callable[[], bool]) -> None:
        """In reset, suspend or power off: not done yet.  The host calls `done` again until True.
        VERR_WRONG_ORDER anywhere else."""

    def async_notification_completed(self) -> None:
        """Any thread: `done` may answer True now."""

    def power_off_vm(self, exit_code: int = 0) -> None:
        """Ask for power off; front ends pass `exit_code` (0..255) on."""


class DeviceHelpers(Helpers, Protocol):
    """What a device has besides."""

    # --- files of the host

    def read_host_file(self, name: str, *, most: int) -> bytes:
        """The content of a file of the host that the configuration names: firmware, an option ROM, a
        kernel.  A name without a folder is looked for where firmware is kept.  For `pdm_construct`.
        VERR_FILE_NOT_FOUND, VERR_ACCESS_DENIED, VERR_FILE_TOO_BIG (more than `most` bytes)."""

    # --- regions

    def map_ports(self, port: int, region: Ports) -> Mapping:
        """Map at a fixed port.  VERR_IOM_IOPORT_RANGE_CONFLICT names both owners,
        VERR_IOM_INVALID_IOPORT_RANGE: it does not fit below 0x10000."""

    def map_mmio(self, address: int, region: Mmio) -> Mapping:
        """Map at a fixed guest-physical address.  VERR_IOM_MMIO_RANGE_CONFLICT or VERR_PGM_RAM_CONFLICT
        (memory is there) names both owners, VERR_IOM_INVALID_MMIO_RANGE: it does not fit."""

    def ram(self, region: Ram) -> Ram:
        """Back `region` with zeroed memory and fill in its `view`; map it by a BAR or `map_ram`.
        VERR_INVALID_PARAMETER when its size is not made of whole pages."""

    def map_ram(self, address: int, region: Ram) -> Mapping:
        """Map device RAM, made by `ram`, at a fixed, page-aligned guest-physical address.
        VERR_PGM_RAM_CONFLICT, VERR_PGM_INVALID_GC_PHYSICAL_RANGE."""

    def map_rom(self, address: int, region: Rom) -> Mapping:
        """Map read-only memory at a page-aligned address; it may cover RAM (see `shadow`).
        VERR_PGM_RAM_CONFLICT, VERR_PGM_INVALID_GC_PHYSICAL_RANGE."""

    def shadow(self, address: int, size: int, mode: ShadowMode) -> None:
        """Where reads and writes of [address, address+size) go: whole pages of 0xA0000..0xFFFFF.
        VERR_PGM_INVALID_GC_PHYSICAL_RANGE for others."""

    # --- interrupts, PCI, LUNs

    def isa_irq(self, line: int) -> IrqLine:
        """A handle on ISA interrupt `line` (0..15; VERR_INVALID_PARAMETER)."""

    def pci(
        self,
        identity: PciIdentity,
        *,
        capabilities: Sequence[AnyCapability] = (),
        device: int | None = None,
        function: int = 0,
    ) -> PciFunction:
        """A PCI function of this device.  `device` is the suggested slot; None takes the first
        free one; the instance's `PCIDeviceNo` and `PCIFunctionNo` keys override it.
        VERR_PDM_BAD_PCI_CONFIG: somebody is there; VERR_PDM_TOO_PCI_MANY_DEVICES: no slot is free."""

    def lun(self, number: int, layer: Layer[B, A], description: str, above: object | None = None) -> B:
        """LUN `number`: attaches what the configuration hangs there and returns the end to talk
        down to (`.connected` changes with attach and detach).  What comes up goes to `above`, by
        default the device itself.  VERR_PDM_DRIVER_ALREADY_ATTACHED: the number is taken;
        VERR_PDM_MISSING_INTERFACE: a method of `above` has other arguments than the layer's;
        VERR_PDM_MISSING_INTERFACE_BELOW: what is configured there serves another layer; and whatever
        the drivers below raise."""

    # --- memory

    def dma(self, address: int, length: int, *, write: bool = False) -> Dma:
        """Guest-physical memory for a transfer of `length` bytes (no bus-master rule: ISA, chipset)."""

    def dma_list(self, pieces: Sequence[tuple[int, int]], *, write: bool = False) -> Dma:
        """One handle for scattered memory: the (address, length) of each piece, in order."""

    def memory_read(self, address: int, length: int) -> bytes:
        """Guest-physical memory; 0xFF where no RAM or ROM is."""

    def memory_write(self, address: int, data: bytes) -> None:
        """Guest-physical RAM; dropped where none is."""

    @property
    def ram_size(self) -> int:
        """Bytes of guest RAM."""

    @property
    def ram_below_4g(self) -> int:
        """Bytes of guest RAM below the hole under 4 GiB."""

    # --- the machine

    def a20(self) -> bool:
        """Whether address bit 20 passes."""

    def set_a20(self, enabled: bool) -> None:
        """Pass or mask address bit 20."""

    def reset_vm(self, source: ResetSource, *, soft: bool = False) -> None:
        """Ask for a hard reset of the VM, or a CPU INIT (soft); it happens when the guest is left next,
        at the latest at the end of the current block of instructions."""

    def nmi(self) -> None:
        """One NMI edge, unless masked."""

    def mask_nmi(self, masked: bool) -> None:
        """Port 0x70 bit 7."""

    def current_cpu(self) -> int:
        """The number of the vCPU whose access is being served; 0 otherwise."""

    # --- devices with a role

    def cmos_read(self, index: int) -> int:
        """A byte of the RTC's CMOS (VERR_PDM_NO_RTC_INSTANCE without one)."""

    def cmos_write(self, index: int, value: int) -> None:
        """Set a byte of the RTC's CMOS (VERR_PDM_NO_RTC_INSTANCE without one)."""

    def dma_channel(self, channel: int, transfer: DmaTransfer) -> DmaChannel:
        """Take ISA DMA channel 0..3, 5..7 (VERR_PDM_NO_DMAC_INSTANCE without a controller,
        VERR_ALREADY_EXISTS when another device has it)."""

    # --- playing a role

    def provide_pic(self, pic: Pic) -> PicHelpers:
        """Play the interrupt controller (VERR_ALREADY_EXISTS when another device does; so do all roles)."""

    def provide_pci_bus(self) -> PciBusHelpers:
        """Play the host bridge: it owns the configuration mechanism."""

    def provide_pci_router(self, router: PciRouter) -> None:
        """Play the router from INTA#..INTD# of the slots to interrupt lines."""

    def provide_rtc(self, rtc: Rtc) -> None:
        """Play the owner of CMOS."""

    def provide_dmac(self, dmac: Dmac) -> None:
        """Play the ISA DMA controller."""

    def provide_fpu_errors(self, board: FpuErrors) -> Callable[[], None]:
        """Play the board's part that hears of errors of the FPU.  What is returned asserts IGNNE#: the FPU
        goes on in spite of the error, until that was cleared; no effect when there is none."""


class DriverHelpers(Helpers, Protocol):
    """What a driver has besides."""

    @property
    def at_once(self) -> bool:
        """Whether requests are to be carried out where they are submitted, on the EMT, and completed by the
        queue: the VM's time is made of what the guest executes, a worker's thread would be done at another
        moment in each run."""

    def worker(self, name: str, run: Callable[[Worker], None], wake: Callable[[], None]) -> Worker:
        """A thread for blocking host I/O.  `run(worker)` loops while `worker.running`; `wake` makes
        a blocked call return.  Its results come in by a queue."""

    def set_error(self, text: str) -> None:
        """More words for the user when construction fails."""


class Pic(Protocol):
    """Role: interrupt controller."""

    def set_irq(self, line: int, level: bool) -> None:
        """ISA line 0..15 changed."""

    def pulse_irq(self, line: int) -> None:
        """ISA line 0..15 went high and low again (`IrqLine.pulse`): one edge, which stays pending
        until it is acknowledged.  (A real 8259A forgets an edge whose line falls before INTA, so a
        host must not say this with two calls of `set_irq`.)"""

    def acknowledge(self) -> int:
        """INTA: the vector (0..255) to deliver; a spurious one when nothing is pending."""


class PicHelpers(Protocol):
    """What the interrupt controller gets in return."""

    def interrupt(self, level: bool) -> None:
        """Drive the CPU's INTR."""


class FpuErrors(Protocol):
    """Role: the board's answer to the CPU's FERR#, which on a PC/AT is IRQ 13."""

    def fpu_error(self) -> None:
        """FERR#: an instruction of the FPU waits, since CR0.NE is clear and an exception that is not masked
        is pending.  Not said again before that was cleared."""


class PciRouter(Protocol):
    """Role: PCI interrupt router."""

    def route(self, device: int, pin: int, level: bool) -> None:
        """Slot `device` (0..31) drives pin 0..3 (INTA#..INTD#).  Called for each change of the OR
        over the functions of that slot."""


class PciBusHelpers(Protocol):
    """What the host bridge gets in return."""

    def function(self, device: int, function: int) -> PciFunction | None:
        """The function at an address of bus 0, or None."""


class Rtc(Protocol):
    """Role: CMOS."""

    def cmos_read(self, index: int) -> int:
        """A byte, for `helpers.cmos_read` of another device."""

    def cmos_write(self, index: int, value: int) -> None:
        """Set a byte."""


DmaTransfer = Callable[[int, int], int]
"""(position, length) -> new position: move up to `length` bytes of the block from `position` on with
`DmaChannel.read_memory` or `write_memory`.  A position of `length` is terminal count."""


class Dmac(Protocol):
    """Role: ISA DMA controller."""

    def attach(self, channel: int, transfer: DmaTransfer) -> DmaChannel:
        """A device takes a channel."""


class DmaChannel(Protocol):
    """An ISA DMA channel, as its device sees it."""

    def request(self, level: bool) -> None:
        """Drive DREQ."""

    def mode(self) -> int:
        """The channel's mode register."""

    def read_memory(self, position: int, length: int) -> bytes:
        """Bytes of the programmed block, from `position` on (memory to device)."""

    def write_memory(self, position: int, data: bytes) -> None:
        """Put bytes into the programmed block (device to memory)."""
