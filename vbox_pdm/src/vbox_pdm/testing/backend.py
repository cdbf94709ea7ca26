"""What stands behind a `Bench`: a host of devices without a CPU.

`BenchBackend` is the machine: instances, regions, memory, clocks, saved states.  `BenchTaps` is what
it reports to.  Whatever can be done with these two (fakes, recording, convenience, strictness) is
done by the `Bench` in front and is the same for all backends.

A backend is found by an entry point of the group `vbox.bench` that names a `BackendFactory`:

    [project.entry-points."vbox.bench"]
    kernel = "vbox_vmm.bench:KernelBench"

All calls come from one thread.  Taps are called on that thread, too, but for `log_line`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from attrs import frozen

from vbox_pdm.chains import Chain
from vbox_pdm.engine import Exit

if TYPE_CHECKING:
    from vbox_pdm.catalogue import Catalogue
    from vbox_pdm.device import DeviceType
    from vbox_pdm.helpers import Dmac, ResetSource, Rtc, RuntimeErrorFlags
    from vbox_pdm.instance import Instance
    from vbox_pdm.links import Link
    from vbox_pdm.pci import PciFunction
    from vbox_pdm.timers import Clock

GROUP = "vbox.bench"


@frozen
class Failure:
    """What a plugin raised where it must not: in a handler, a timer, a queue, a notification.

    `title` is the instance ("serial#0"); `where` says what was called, for people: "read of 1 at
    uart+0x5", "write of 1 (0x80) at uart+0x3", "timer transmit", "queue input", "pdm_reset"."""

    title: str
    where: str
    error: BaseException


class BenchTaps(Protocol):
    """What a backend tells the bench.  No tap raises."""

    @property
    def rtc(self) -> Rtc:
        """Stands in for CMOS while no device has provided an Rtc."""

    def host_file(self, name: str, most: int) -> bytes:
        """A file of the host that a device reads.  PdmError as `DeviceHelpers.read_host_file`."""

    @property
    def dmac(self) -> Dmac:
        """Stands in for the ISA DMA controller: `helpers.dma_channel` asks it when no device has
        provided a Dmac by then."""

    def isa_irq(self, line: int, level: bool) -> None:
        """ISA line 0..15, the OR over its owners, changed (also lowered by reset and power off;
        not by load).  Called before a Pic, if any, hears of it."""

    def intx(self, device: int, pin: int, level: bool) -> None:
        """Pin 0..3 (INTA#..INTD#) of slot `device`, the OR over its functions, changed (not by
        load).  Called before a PciRouter, if any, hears of it."""

    def message(self, address: int, data: int) -> None:
        """A function wrote the MSI or MSI-X message `data` to `address`."""

    def interrupt(self, level: bool) -> None:
        """A Pic drove INTR to `level`; called for changes only."""

    def fpu_errors_ignored(self) -> None:
        """IGNNE#."""

    def nmi(self) -> None:
        """An NMI edge reached the CPU (it was not masked)."""

    def reset_requested(self, source: ResetSource, soft: bool) -> None:
        """A device asked for a reset.  The backend does not carry it out."""

    def power_off_requested(self, exit_code: int) -> None:
        """An instance asked for power off.  The backend does not carry it out."""

    def runtime_error(self, title: str, flags: RuntimeErrorFlags, error_id: str, text: str) -> None:
        """An instance set a runtime error.  The backend neither suspends nor stops for it."""

    def dma_written(self, address: int, length: int) -> None:
        """A write handle on guest RAM was released: its pages count as written."""

    def log_line(self, title: str, level: int, text: str) -> None:
        """An instance logged a line; `level` is one of logging's.  Any thread."""

    def failed(self, failure: Failure) -> None:
        """A plugin raised; the backend has answered as the guest's host must (a read is all ones, a
        write is dropped) and goes on."""


class BenchBackend(Protocol):
    """A machine without a CPU.  Nothing runs but within a call; the machine stands when it returns,
    with all work done that is due at `now` (reset requests excepted)."""

    catalogue: Catalogue
    """Where names were resolved; its `manager` has the VM-wide hooks (pdm_wrap_region,
    pdm_link_created)."""

    # --- building, before power_on

    def add(
        self,
        device: DeviceType,
        number: int | None,
        config: Mapping[str, object],
        chains: Mapping[int, Chain],
        *,
        distribution: str = "",
        pci_device: int | None = None,
        pci_function: int | None = None,
    ) -> Instance:
        """Make and construct a device; `number` None is the lowest free one.

        When construct fails the instance is destructed and forgotten.  Errors: ConfigError;
        VERR_PDM_TOO_MANY_DEVICE_INSTANCES; what construct raised, a PdmError as it is, anything else
        as VERR_GENERAL_FAILURE; all with the title (`vbox_pdm.life.construct_error`)."""

    # --- life, each call legal only in the order of the VM's states

    def power_on(self) -> None:
        """init_complete for all, mem_setup, power_on; virtual clocks start.  Errors of these hooks
        come out as they are; then only `close` is legal."""

    def reset(self) -> None:
        """Hard reset while running or suspended: the PCI functions, interrupt lines, A20 and the NMI
        mask, then reset and mem_setup; async notifications are completed."""

    def soft_reset(self) -> None:
        """pdm_soft_reset for all."""

    def suspend(self) -> None:
        """Virtual clocks stop, then suspend for all, workers stand; async notifications are
        completed."""

    def resume(self) -> None:
        """resume for all, workers run, virtual clocks go on."""

    def power_off(self) -> None:
        """From any state after power_on; interrupt lines go low."""

    def close(self) -> None:
        """Destruct everything once, drivers bottom-up; from any state; no effect the second time."""

    def attach(self, device: Instance, lun: int, chain: Chain) -> None:
        """Run time: VERR_PDM_LUN_NOT_FOUND, VERR_PDM_DRIVER_ALREADY_ATTACHED, and errors of the
        chain, after which the LUN is as before."""

    def detach(self, device: Instance, lun: int) -> None:
        """Run time: pdm_detach, then the chain is powered off and destructed.
        VERR_PDM_LUN_NOT_FOUND, VERR_PDM_NO_DRIVER_ATTACHED_TO_LUN."""

    # --- inspection

    def instances(self) -> Sequence[Instance]:
        """Devices in order of construction."""

    def drivers(self, device: Instance, lun: int) -> Sequence[Instance]:
        """The chain below a LUN, top to bottom, without its fake end."""

    def link(self, owner: Instance, lun: int = 0) -> Link[Any, Any]:
        """The link below a device's LUN, or below a driver.  VERR_PDM_LUN_NOT_FOUND."""

    # --- what the CPU and the bus would do

    def port_read(self, port: int, size: int) -> int:
        """An IN of 1, 2 or 4 bytes as the engine contract says: split where it crosses the end of a
        region, all ones where nobody answers.  The same holds for the next three."""

    def port_write(self, port: int, size: int, value: int) -> None:
        """An OUT."""

    def port_row(self, port: int, size: int) -> Exit | None:
        """The row of the exit table whose string handlers may serve items of `size` at `port`: the
        access lies in it and is direct."""

    def mmio_read(self, address: int, size: int) -> int:
        """A load of 1, 2, 4 or 8 bytes by the CPU: device RAM, ROM and guest RAM answer as well; A20
        applies."""

    def mmio_write(self, address: int, size: int, value: int) -> None:
        """A store by the CPU."""

    def memory_read(self, address: int, length: int) -> bytes:
        """Guest-physical memory (RAM, ROM, device RAM) without side effects; 0xFF elsewhere."""

    def memory_write(self, address: int, data: bytes) -> None:
        """Guest-physical RAM and device RAM; dropped elsewhere."""

    def pci_functions(self) -> Sequence[PciFunction]:
        """All functions, by address."""

    def acknowledge(self) -> int:
        """INTA at the Pic; -1 when no device provides one."""

    def fpu_error(self) -> None:
        """FERR# at whoever plays that role; no effect without one."""

    # --- state of the wires

    def isa_level(self, line: int) -> bool:
        """The OR over the owners of an ISA line."""

    def intx_level(self, device: int, pin: int) -> bool:
        """The OR over the functions of a slot; pin is 0..3."""

    def interrupt_level(self) -> bool:
        """INTR, as the Pic drives it."""

    @property
    def a20(self) -> bool:
        """Whether address bit 20 passes."""

    # --- time

    def clock(self, clock: Clock) -> int:
        """The time of a clock; VIRTUAL and VIRTUAL_SYNC begin at 0 and are equal between calls."""

    def advance(self, ns: int) -> None:
        """Step REAL, and while running the others, by `ns`.  Timers run in order of expiry, each with
        its clock at its expiry; queues are drained before the step, after each timer, at the end."""

    def deadline(self) -> int | None:
        """ns from now to the first armed timer whose clock runs; None when there is none."""

    def drain(self) -> bool:
        """Hand all queued items to their consumers; whether there were any."""

    def wait(self, seconds: float) -> bool:
        """Block in host time until a queue has an item; False after `seconds`."""

    # --- saved state

    def save(self) -> dict[str, bytes]:
        """While not running.  A unit that is named as a device ("serial#0"), or as a driver below it
        ("serial#0/LUN#0/char#0"), is `vbox_pdm.state.encode` of its pdm_save; units of the host have
        a ':' in their names."""

    def load(self, saved: Mapping[str, bytes]) -> None:
        """While not running, any number of times.  StateError (VERR_SSM_*) leaves all as it was when
        anything cannot be decoded or does not fit (VERR_SSM_LOAD_CONFIG_MISMATCH: other units).  No
        tap but `failed` and `log_line` is called; a device that changes a line or sends a message
        while it loads is a failure.  Order: the host's units but timers, pdm_load of all in order of
        construction, timers: those on REAL keep their remaining time, those that expire together
        their order."""


class BackendFactory(Protocol):
    """Makes a backend with `ram` bytes of guest RAM (whole MiB) from address 0 (3 GiB at most below
    4 GiB, the rest above; 0xA0000-0xFFFFF shows RAM only by `shadow`), all randomness from `seed`, and
    `utc` nanoseconds since 1970-01-01 as the wall clock at the start, which goes with REAL."""

    def __call__(
        self, taps: BenchTaps, *, catalogue: Catalogue, ram: int, seed: int, utc: int
    ) -> BenchBackend: ...
