"""The kernel as a backend of the bench: a VM without a CPU and without threads of its own.

The same PDM, IOM, PGM and TM as in a VM, with a host clock that tests step, so that whatever holds on
the bench holds in the kernel (`vbox_pdm.testing.backend` says what is expected).
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from attrs import frozen

from vbox_pdm.catalogue import Catalogue
from vbox_pdm.chains import Chain
from vbox_pdm.device import DeviceType
from vbox_pdm.engine import Exit
from vbox_pdm.errors import PdmError, StateError
from vbox_pdm.helpers import ResetSource, RuntimeErrorFlags, ShadowMode
from vbox_pdm.instance import Instance
from vbox_pdm.links import Link
from vbox_pdm.pci import PciFunction
from vbox_pdm.state import State, decode, encode
from vbox_pdm.testing.backend import BenchTaps, Failure
from vbox_pdm.timers import Clock
from vbox_vmm.cfgm import Node
from vbox_vmm.hostmem import check_packed, pack, unpack
from vbox_vmm.iom import Iom
from vbox_vmm.pdm.manager import Pdm, Taps, no_controller
from vbox_vmm.pdm.owned import Plan
from vbox_vmm.pgm import Pgm
from vbox_vmm.tm import TimeManager, TmState

HOLE = 1 << 30
START = 1_000_000_000
"""The host clock at the start, in ns; 0 would mean "no deadline"."""
PATIENCE = 20.0
"""Seconds of host time after which a notification that nobody completes is an error."""
MAX_ROUNDS = 100_000
"""So many rounds of work without time passing are a runaway."""
_TM, _RAM, _MACHINE = ":tm", ":ram", ":machine"


@frozen
class MachineUnit(State, version=1):
    """A20 and the shadow mode of each page from 0xA0000 on."""

    a20: bool
    modes: tuple[int, ...]


class KernelBench:
    """A machine without a CPU (`BenchBackend`); also the surroundings of PDM (`PdmServices`)."""

    def __init__(self, taps: BenchTaps, *, catalogue: Catalogue, ram: int, seed: int, utc: int) -> None:
        self.taps = taps
        self.catalogue = catalogue
        self.cfgm = Node()
        self.random = random.Random(seed)
        self._host = START
        self._thread = threading.get_ident()
        self._requests: deque[Callable[[], None]] = deque()
        self._posted = threading.Event()
        self._loading = False
        self._settling = False
        self._state = "created"
        self._waiting_since = 0.0
        self.acknowledge_interrupt: Callable[[], int] = no_controller
        self.pgm = Pgm(ram, HOLE, least=1 << 20)
        self.pgm.on_written = taps.dma_written
        self.tm = TimeManager(host_clock=lambda: self._host, utc_clock=lambda: utc + self._host - START)
        self.tm._put_off = 0  # a timer may be as busy as it likes: nobody waits for the guest here
        self.iom = Iom(self)
        self.iom.failures.on_failure = self._failed
        self.pdm = Pdm(
            self,
            Taps(
                isa_irq=taps.isa_irq,
                intx=taps.intx,
                message=taps.message,
                runtime_error=taps.runtime_error,
                logger=self._logger,
                rtc=taps.rtc,
                dmac=taps.dmac,
                host_file=taps.host_file,
                watched=False,
                strict=True,
            ),
        )
        self.tm.on_timer_failure = self.pdm.timer_failed

    # --- building

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
        """Make and construct a device."""
        self._expect("add a device", "created")
        taken = {instance.number for instance in self.pdm.instances() if instance.name == device.name}
        if device.max_instances is not None and len(taken) >= device.max_instances:
            raise PdmError(
                "VERR_PDM_TOO_MANY_DEVICE_INSTANCES",
                f"Device '{device.name}' allows {device.max_instances} instances",
                "Remove one of them",
            )
        if number is None:
            number = next(at for at in range(len(taken) + 1) if at not in taken)
        if number < 0 or number in taken:
            raise PdmError(
                "VERR_INVALID_PARAMETER",
                f"Instance number {number} of device '{device.name}' is taken or negative",
            )
        plan = Plan(device, number, config, dict(chains), distribution, pci_device, pci_function)
        return self.pdm.build(plan)

    # --- life

    def power_on(self) -> None:
        """init_complete, mem_setup, power_on for all; clocks start."""
        self._expect("power on", "created")
        self._state = "off"  # where it stays when somebody raises
        self.pdm.init_complete()
        self.pdm.mem_setup(at_reset=False)
        self.pdm.power_on()
        self._go()

    def _go(self) -> None:
        self.tm.resume()
        self._state = "running"
        self._settle()

    def reset(self) -> None:
        """Hard reset."""
        self._expect("reset", "running", "suspended")
        self._unparked(self.pdm.reset)
        self.pdm.mem_setup(at_reset=True)
        self._settle()

    def soft_reset(self) -> None:
        """INIT."""
        self._expect("soft reset", "running", "suspended")
        self.pdm.soft_reset()
        self._settle()

    def suspend(self) -> None:
        """Clocks stop."""
        self._expect("suspend", "running")
        self.drain()
        self.tm.pause()
        self.pdm.suspend()
        self._state = "suspended"

    def resume(self) -> None:
        """Clocks go on."""
        self._expect("resume", "suspended")
        self.pdm.resume()
        self._go()

    def power_off(self) -> None:
        """The end of the guest."""
        self._expect("power off", "created", "running", "suspended")
        if self.tm.ticking:
            self.tm.pause()
        self._unparked(self.pdm.power_off)
        self._state = "off"

    def _unparked(self, change: Callable[[], None]) -> None:
        """Completions come by queues, also while the machine is suspended."""
        parked = self.pdm.queues.parked
        self.pdm.queues.parked = False
        try:
            change()
        finally:
            self.pdm.queues.parked = parked or self.pdm.queues.parked

    def close(self) -> None:
        """The end of everything; no effect the second time."""
        if self._state == "closed":
            return
        self._state = "closed"
        if self.tm.ticking:
            self.tm.pause()
        self.pdm.destruct()
        self.iom.close()
        self.pgm.close()
        self._requests.clear()

    def attach(self, device: Instance, lun: int, chain: Chain) -> None:
        """Plug a chain."""
        self._expect("attach", "created", "running", "suspended")
        self.pdm.wiring.attach(device, lun, chain)
        self._settle()

    def detach(self, device: Instance, lun: int) -> None:
        """Unplug a chain."""
        self._expect("detach", "created", "running", "suspended")
        self.pdm.wiring.detach(device, lun)
        self._settle()

    def _expect(self, what: str, *states: str) -> None:
        if self._state not in states:
            raise PdmError(
                "VERR_VM_INVALID_VM_STATE",
                f"Cannot {what}: the machine is {self._state}",
                f"Possible while it is {' or '.join(states)}",
            )

    # --- inspection

    def instances(self) -> Sequence[Instance]:
        """Devices in order of construction."""
        return self.pdm.instances()

    def drivers(self, device: Instance, lun: int) -> Sequence[Instance]:
        """The chain below a LUN."""
        return list(self.pdm.wiring.lun(device, lun).drivers)

    def link(self, owner: Instance, lun: int = 0) -> Link[Any, Any]:
        """The link below a LUN or a driver."""
        for node in self.pdm.nodes:
            if node.instance is owner:
                link: Link[Any, Any] = self.pdm.wiring.lun(owner, lun).link
                return link
            for place in node.luns.values():
                below = place.link_below(owner)
                if below is not None:
                    return below
        raise PdmError("VERR_PDM_LUN_NOT_FOUND", f"{owner.title} has nothing below it")

    # --- accesses

    def port_read(self, port: int, size: int) -> int:
        """IN."""
        self.iom.flush()
        value = self.iom.port_read(port & 0xFFFF, size)
        self._settle()
        return value

    def port_write(self, port: int, size: int, value: int) -> None:
        """OUT."""
        self.iom.flush()
        self.iom.port_write(port & 0xFFFF, size, value)
        self._settle()

    def port_row(self, port: int, size: int) -> Exit | None:
        """Who may serve a string."""
        self.iom.flush()
        row = self.iom.ports.find(port & 0xFFFF)
        inside = row is not None and port + size <= row.first + row.size and size & row.direct
        return row if inside else None

    def mmio_read(self, address: int, size: int) -> int:
        """A load."""
        self.iom.flush()
        if self._masks(address, size):
            value = sum(self.iom.mmio_read(self._gated(address + at), 1) << 8 * at for at in range(size))
        else:
            value = self.iom.mmio_read(self._gated(address), size)
        self._settle()
        return value

    def mmio_write(self, address: int, size: int, value: int) -> None:
        """A store."""
        self.iom.flush()
        if self._masks(address, size):
            for at in range(size):
                self.iom.mmio_write(self._gated(address + at), 1, value >> 8 * at & 0xFF)
        else:
            self.iom.mmio_write(self._gated(address), size, value)
        self._settle()

    def _gated(self, address: int) -> int:
        return address if self.pgm.a20 else address & ~(1 << 20)

    def _masks(self, address: int, size: int) -> bool:
        """Whether the A20 gate tears an access apart."""
        return not self.pgm.a20 and (address ^ (address + size - 1)) >> 20 != 0

    def memory_read(self, address: int, length: int) -> bytes:
        """Memory."""
        return self.pgm.read(address, length)

    def memory_write(self, address: int, data: bytes) -> None:
        """Memory."""
        self.pgm.write(address, data)

    def pci_functions(self) -> Sequence[PciFunction]:
        """By address."""
        return self.pdm.bus.all()

    def acknowledge(self) -> int:
        """INTA."""
        vector = self.pdm.acknowledge(whatever=True)
        self._settle()
        return vector

    def fpu_error(self) -> None:
        """FERR#."""
        self.pdm.fpu_error()
        self._settle()

    def isa_level(self, line: int) -> bool:
        """An ISA line."""
        return self.pdm.isa.level(line)

    def intx_level(self, device: int, pin: int) -> bool:
        """A pin of a slot."""
        return self.pdm.intx.level(device, pin)

    def interrupt_level(self) -> bool:
        """INTR."""
        return self.pdm.intr.level

    @property
    def a20(self) -> bool:
        """Whether address bit 20 passes."""
        return self.pgm.a20

    # --- time

    def clock(self, clock: Clock) -> int:
        """The time."""
        return self.tm.now(clock)

    def advance(self, ns: int) -> None:
        """Time passes, from one timer to the next."""
        if ns < 0:
            raise PdmError("VERR_INVALID_PARAMETER", f"Time does not go back by {-ns} ns")
        if self._settling or self._state == "closed":
            return
        self._settling = True
        try:
            end = self._host + ns
            self.drain()
            rounds = 0
            while (deadline := self.tm.next_deadline_host_ns()) and deadline <= end:
                rounds = rounds + 1 if deadline <= self._host else 0
                self._host = max(self._host, deadline)
                self.tm.run_due()
                self.drain()
                if rounds > MAX_ROUNDS:
                    raise PdmError("VERR_TM_TIMER_UNSTABLE_STATE", "Timers fire without time passing")
            self._host = end
        finally:
            self._settling = False

    def _settle(self) -> None:
        self.advance(0)

    def deadline(self) -> int | None:
        """ns to the first timer whose clock runs."""
        deadline = self.tm.next_deadline_host_ns()
        return max(0, deadline - self._host) if deadline else None

    def drain(self) -> bool:
        """Queued items to their consumers; held while the machine is suspended or off."""
        held = self.pdm.queues.parked
        had = not held and self.pdm.queues.filled
        rounds = 0
        while self._requests:
            self._requests.popleft()()
            rounds += 1
            if rounds > MAX_ROUNDS:
                raise PdmError("VERR_BUFFER_OVERFLOW", "Queues are filled by their own consumers without end")
        return had

    def wait(self, seconds: float) -> bool:
        """For a queued item."""
        until = time.monotonic() + seconds
        while not (self._requests or self.pdm.queues.filled):
            left = until - time.monotonic()
            if left <= 0:
                return False
            self._posted.clear()
            if not self._requests:
                self._posted.wait(left)
        return True

    # --- saved state

    def save(self) -> dict[str, bytes]:
        """All units."""
        self._expect("save", "created", "suspended", "off")
        units = self.pdm.save()
        units[_TM] = encode(self.tm.save())
        units[_RAM] = pack(self.pgm.ram)
        units[_MACHINE] = encode(
            MachineUnit(self.pgm.a20, tuple(mode.value for mode in self.pgm.shadow_modes))
        )
        return units

    def load(self, saved: Mapping[str, bytes]) -> None:
        """Take over all units, or none."""
        self._expect("load", "created", "suspended")
        mine = {_TM, _RAM, _MACHINE}
        missing = mine - saved.keys()
        if missing:
            raise StateError(
                "VERR_SSM_LOAD_CONFIG_MISMATCH", f"The saved state has no unit {', '.join(sorted(missing))}"
            )
        check_packed(saved[_RAM], self.pgm.ram_size, "guest RAM")
        before = self.save()
        self._loading = True
        try:
            self._load_machine(saved)
            self.pdm.load({unit: data for unit, data in saved.items() if unit not in mine})
        except BaseException:
            self._load_machine(before)
            raise
        finally:
            self._loading = False

    def _load_machine(self, saved: Mapping[str, bytes]) -> None:
        clocks, machine = decode(TmState, saved[_TM]), decode(MachineUnit, saved[_MACHINE])
        modes = {mode.value: mode for mode in ShadowMode}
        if len(machine.modes) != len(self.pgm.shadow_modes) or not set(machine.modes) <= modes.keys():
            raise StateError("VERR_SSM_UNEXPECTED_DATA", "The machine's shadow modes make no sense")
        self.tm.load(clocks)
        unpack(self.pgm.ram, saved[_RAM])
        self.pgm.set_a20(machine.a20)
        self.pgm.set_shadow_modes(tuple(modes[mode] for mode in machine.modes))

    # --- PdmServices

    def post(self, request: Callable[[], None]) -> None:
        """Any thread: run it at the next drain."""
        self._requests.append(request)
        self._posted.set()

    deliver = post

    def kick(self) -> None:
        """Any thread: end a wait."""
        self._posted.set()

    def wait_requests(self, seconds: float | None) -> None:
        """Serve what was posted, or wait for it."""
        now = time.monotonic()
        if self._requests:
            self._waiting_since = 0.0
            self.drain()
            return
        self._waiting_since = self._waiting_since or now
        if now - self._waiting_since > PATIENCE:
            self._waiting_since = 0.0
            raise PdmError("VERR_TIMEOUT", f"A notification was not completed within {PATIENCE:.0f} seconds")
        self._posted.clear()
        if not self._requests:
            self._posted.wait(seconds)

    def interrupt(self, level: bool) -> None:
        """INTR."""
        if not self._loading:
            self.taps.interrupt(level)

    def ignore_fpu_errors(self) -> None:
        """IGNNE#."""
        self.taps.fpu_errors_ignored()

    def nmi(self) -> None:
        """An edge that was not masked."""
        self.taps.nmi()

    def request_reset(self, source: ResetSource, soft: bool) -> None:
        """A device asks for a reset."""
        self.taps.reset_requested(source, soft)

    def request_power_off(self, code: int) -> None:
        """An instance asks for power off."""
        self.taps.power_off_requested(code)

    def runtime_error(self, flags: RuntimeErrorFlags, error_id: str, text: str) -> None:
        """What the kernel itself reports; the bench hears of each failure anyway."""

    def current_cpu(self) -> int:
        """All accesses are CPU 0's."""
        return 0

    def is_emt(self) -> bool:
        """Whether the caller is the bench's thread."""
        return threading.get_ident() == self._thread

    def assert_emt(self) -> None:
        """VERR_VM_THREAD_NOT_EMT on any other."""
        if not self.is_emt():
            raise PdmError("VERR_VM_THREAD_NOT_EMT", f"{threading.current_thread().name} is not the EMT")

    # --- taps

    def _failed(self, title: str, where: str, error: BaseException) -> None:
        self.taps.failed(Failure(title, where, error))

    def _logger(self, title: str) -> logging.Logger:
        logger = logging.Logger(f"vbox.{title}", logging.INFO)
        logger.parent = logging.getLogger("vbox")
        logger.addHandler(_LogTap(self.taps, title))
        return logger


class _LogTap(logging.Handler):
    """Lines of an instance go to the bench."""

    def __init__(self, taps: BenchTaps, title: str) -> None:
        super().__init__()
        self._taps = taps
        self._title = title

    def emit(self, record: logging.LogRecord) -> None:
        """One line."""
        self._taps.log_line(self._title, record.levelno, record.getMessage())
