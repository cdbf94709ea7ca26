"""One virtual machine: its parts wired together, its EMT, and what the outside may ask of it.

The EMT (emulation thread) runs the guest and nearly everything else; other threads hand it requests
(`post`, `call`) or take the VM's lock.  Every public method may be called from any thread; those that
change the state are requests, return when they are done, and raise PdmError
VERR_VM_INVALID_VM_STATE, with nothing changed, when the table of `vmstate` forbids them.

Creation: CFGM tree, PGM, TM, TRPM, IOM, EM with its engine, PDM with all instances, then CREATED.
"""

from __future__ import annotations

import logging
import random
import threading
import uuid
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Any, TypeVar

from attrs import define, frozen

from vbox_pdm.catalogue import Catalogue
from vbox_pdm.engine import CpuModel, CpuState, Engine, EngineType
from vbox_pdm.errors import PdmError
from vbox_pdm.helpers import ResetSource, RuntimeErrorFlags
from vbox_pdm.timers import Clock
from vbox_vmm.cfgm import Node
from vbox_vmm.em import Em, EmState, ForcedAction
from vbox_vmm.instruction_clock import InstructionClock
from vbox_vmm.iom import Iom
from vbox_vmm.lock import Doorbell, VmLock
from vbox_vmm.pdm.manager import Pdm, no_controller
from vbox_vmm.pgm import Pgm
from vbox_vmm.tm import TimeManager
from vbox_vmm.tm_config import Source, read_config
from vbox_vmm.trpm import Trpm
from vbox_vmm.vmstate import StateMachine, VmState

log = logging.getLogger("vbox.VM")
T = TypeVar("T")
S = VmState
_ENDED = (S.OFF, S.GURU_MEDITATION, S.FATAL_ERROR, S.TERMINATED)


@frozen
class RuntimeErrorRecord:
    """What `helpers.set_runtime_error` reported."""

    flags: RuntimeErrorFlags
    error_id: str
    text: str


@define
class Guru:
    """Why the VMM gave up on the guest: VirtualBox's number and name, and what was logged."""

    number: int
    status: str
    text: str
    report: str = ""


class Vm:
    """A VM.  `machine` is the CFGM tree (it is owned by the VM from now on); `boot` is asked after
    creation and after each reset for the CPU state to start with (None: the reset vector)."""

    def __init__(
        self,
        machine: Node,
        catalogue: Catalogue,
        *,
        boot: Callable[[Vm], CpuState | None] | None = None,
        with_engine: bool = True,
    ) -> None:
        self.cfgm = machine
        self.catalogue = catalogue
        self.name = machine.query_string("Name", default="vm")
        self.uuid = uuid.UUID(machine.query_string("UUID", default=str(uuid.uuid4())))
        self.boot = boot
        self.states = StateMachine()
        self.requests: deque[Callable[[], None]] = deque()
        self.deliveries: deque[Callable[[], None]] = deque()
        """Requests that need not have the guest left: they come first."""
        self.running = False
        self.exit_code: int | None = None
        """What the guest passed to power off (isa-debug-exit), or None."""
        self.guru: Guru | None = None
        self.runtime_errors: list[RuntimeErrorRecord] = []
        self.triple_fault_reset = machine.query_bool("CPUM/TripleFaultReset", default=False)
        self.random = random.Random(machine.query_integer("RandomSeed", default=None))
        self._terminated = False
        self.woken = Doorbell()
        """The EMT waits for it, in HLT or without a guest to run: rung behind whatever it shall see."""
        self._em: Em | None = None
        self.lock = VmLock(self.kick)
        self.acknowledge_interrupt: Callable[[], int] = no_controller
        """The engine takes an interrupt: what the controller calls `acknowledge`."""
        self.attend: Callable[[], bool]
        """The engine was kicked: EM's method."""
        self._emt = threading.Thread(target=self._emt_main, name=f"EMT:{self.name}", daemon=True)
        self._emt.start()
        try:
            self.call(lambda: self._create(with_engine))
        except BaseException:
            self._end_emt()
            raise

    # --- creation and end, on the EMT

    def _create(self, with_engine: bool) -> None:
        parts: list[Callable[[], None]] = []  # what to undo, the latest first
        try:
            ram = self.cfgm.query_integer("RamSize", default=128 << 20)
            hole = self.cfgm.query_integer("RamHoleSize", default=512 << 20)
            self.pgm = Pgm(ram, hole)
            parts.append(self.pgm.close)
            config = read_config(self.cfgm.ensure_node("TM"))
            counter = None
            if config.source is Source.INSTRUCTIONS:  # each run is to be the same
                if not self.cfgm.exists("RandomSeed"):
                    self.random.seed(0)
                counter = InstructionClock(config.instruction_time, self.random.getrandbits(64))
            self.tm = TimeManager(config, counter=counter)
            self.trpm = Trpm()
            self.iom = Iom(self)
            parts.append(self.iom.close)
            engine = self._create_engine() if with_engine else None
            if engine is not None:
                parts.append(engine.close)
            if counter is not None:
                counter.attach(engine)
            self.em = self._em = Em(self, self.tm, engine)
            self.attend = self.em.attend
            self.interrupt = engine.interrupt if engine is not None else _unheard
            self.pgm.set_engine(engine)
            self.iom.set_engine(engine)
            self.pdm = Pdm(self)
            self.tm.on_timer_failure = self.pdm.timer_failed
            parts.append(self.pdm.destruct)
            self.pdm.construct()
            self.flush_tables()
        except BaseException:
            self._em = None
            for undo in reversed(parts):
                undo()
            raise
        self.states.change(S.CREATED)

    def _create_engine(self) -> Engine:
        node = self.cfgm.ensure_node("CPUM")
        kind = self._choose_engine(node.query_string("Engine", default=""))
        model = CpuModel(
            node.query_string("Model", default="default"),
            tuple(node.query_string("With", default="").split()),
            tuple(node.query_string("Without", default="").split()),
            node.query_integer("TranslationBuffer", default=64 << 20),
        )
        return kind.create(self, model)

    def _choose_engine(self, wanted: str) -> EngineType:
        """The engine of this name; without one REM, or what can run here in its place."""
        kind = self.catalogue.engine(wanted or "rem")[0]
        reason = kind.usable()
        if reason is None:
            return kind
        for other in self.catalogue.engines():
            if not wanted and other.usable() is None:
                log.warning("VM: the guest runs on engine '%s': %s", other.name, reason)
                return other
        raise PdmError("VERR_NOT_SUPPORTED", f"Engine '{kind.name}' cannot run here", reason)

    def _destroy(self) -> None:
        if self.states.current is S.CREATED:
            self.do_power_off()
        self.states.change(S.DESTROYING)
        self.pdm.destruct()
        if self.tm.counter is not None:
            self.tm.counter.detach()
        if self.em.engine is not None:
            self.em.engine.close()
            self.em.engine = None
        self._em = None
        self.iom.close()
        self.pgm.close()
        self.states.change(S.TERMINATED)

    # --- the EMT

    def _emt_main(self) -> None:
        self.lock.keeper = threading.get_ident()
        self.lock.acquire()
        try:
            while not self._terminated:
                if self.running:
                    try:
                        self.em.execute()
                    except Exception:
                        log.exception("EM: the VM loop failed")
                        self.guru_meditation(-225, "VERR_INTERNAL_ERROR", "The VM loop failed; see the log")
                elif self._em is not None and self.em.forced:
                    self._serve_forced_while_stopped()
                else:
                    self.wait_requests(None)
        finally:
            self.lock.release()

    def wait_requests(self, seconds: float | None) -> None:
        """EMT: serve what was posted and run due timers; when there was nothing, sleep with the lock
        released until something is posted, a timer is due, or `seconds` are over (None: no limit).  It may
        also return for what was rung for before."""
        if self.requests or self.deliveries:
            self.serve_requests()
            return
        if self._em is not None:
            if self.tm.run_due():
                return
            deadline = self.tm.next_deadline_host_ns()
            if deadline:
                until = max(0.0, (deadline - self.tm.now(Clock.REAL)) / 1e9)
                seconds = until if seconds is None else min(seconds, until)
        self.lock.release()
        try:
            self.woken.wait(seconds)
        finally:
            self.lock.acquire()

    def _serve_forced_while_stopped(self) -> None:
        # A request from a driver while nothing runs: only power off means something then.
        detail = ForcedAction.POWER_OFF in self.em.forced
        self.em.forced.clear()
        if detail and self.states.current is S.SUSPENDED:
            self.do_power_off()

    def serve_requests(self) -> None:
        """EMT: run what was posted so far."""
        self.serve(self.deliveries)
        self.serve(self.requests)

    def serve(self, requests: deque[Callable[[], None]]) -> None:
        """EMT: run what is in there now."""
        for _ in range(len(requests)):
            try:
                requests.popleft()()
            except Exception:
                log.exception("VM: a request failed")

    def post(self, request: Callable[[], None]) -> None:
        """Any thread: run `request` on the EMT soon; what it raises is logged."""
        self.requests.append(request)
        self.kick()

    def deliver(self, request: Callable[[], None]) -> None:
        """As `post`, for what may run while the guest stands between two instructions: it does nothing
        that a device's handler may not."""
        self.deliveries.append(request)
        self.kick()

    def call(self, function: Callable[[], T]) -> T:
        """Run `function` on the EMT and return or raise what it does.  Not while holding the lock
        from another thread."""
        if self.is_emt():
            return function()
        if not self._emt.is_alive():
            raise PdmError("VERR_VM_INVALID_VM_STATE", f"VM '{self.name}' has ended")
        future: Future[T] = Future()

        def request() -> None:
            try:
                future.set_result(function())
            except BaseException as error:
                future.set_exception(error)

        self.post(request)
        while not wait([future], 1.0).done:
            if not self._emt.is_alive():
                raise PdmError("VERR_VM_INVALID_VM_STATE", f"VM '{self.name}' has ended")
        return future.result()

    def kick(self) -> None:
        """Any thread: the EMT looks around soon."""
        self.woken.ring()
        em = self._em
        if em is not None:
            em.kick()

    def is_emt(self) -> bool:
        """Whether the calling thread is this VM's EMT."""
        return threading.current_thread() is self._emt

    def assert_emt(self) -> None:
        """Raise VERR_VM_THREAD_NOT_EMT on any other thread."""
        if not self.is_emt():
            raise PdmError("VERR_VM_THREAD_NOT_EMT", f"{threading.current_thread().name} is not the EMT")

    def _end_emt(self) -> None:
        def end() -> None:
            self._terminated = True

        self.post(end)
        if not self.is_emt():
            self._emt.join()

    # --- what the outside may ask

    @property
    def state(self) -> VmState:
        """The state now."""
        return self.states.current

    def wait_for(self, *states: VmState, timeout: float | None = None) -> VmState | None:
        """Wait for one of `states` (default: the guest has ended one way or another)."""
        return self.states.wait_for(states or _ENDED, timeout)

    def power_on(self) -> None:
        """CREATED -> RUNNING."""
        self.call(self._power_on)

    def suspend(self) -> None:
        """RUNNING -> SUSPENDED: virtual clocks stand still."""
        self.call(self.do_suspend)

    def resume(self) -> None:
        """SUSPENDED -> RUNNING."""
        self.call(self._resume)

    def reset(self) -> None:
        """Hard reset of a running or suspended VM."""
        self.call(lambda: self.do_reset(ResetSource.UNKNOWN, soft=False))

    def power_off(self) -> None:
        """To OFF; no effect when it is off already."""
        self.call(lambda: None if self.state is S.OFF else self.do_power_off())

    def destroy(self) -> None:
        """To TERMINATED: everything is given back.  A VM that runs is powered off first."""
        if self.state is S.TERMINATED or not self._emt.is_alive():
            return
        self.call(self._power_off_and_destroy)
        self._end_emt()

    def _power_off_and_destroy(self) -> None:
        if self.state not in (S.OFF, S.CREATED):
            self.do_power_off()
        self._destroy()

    def info(self, name: str, arguments: str = "") -> str:
        """An info item of the VMM ("cfgm", "clocks", "ioport" ...) or of a device ("serial#0").
        Raises PdmError VERR_NOT_FOUND with the list of names."""
        return self.call(lambda: self._info(name, arguments))

    def info_items(self) -> dict[str, Callable[[str], str]]:
        """Name -> handler, in the order of a guru meditation's report."""
        items: dict[str, Callable[[str], str]] = {
            "cpumguest": lambda _: self._info_cpu(),
            "trpmevent": lambda _: self.trpm.info(),
            "exits": lambda _: self.em.info_exits(),
            "clocks": lambda _: self.tm.info_clocks(),
            "timers": lambda _: self.tm.info_timers(),
            "activetimers": lambda _: self.tm.info_timers(active_only=True),
            "phys": lambda _: self.pgm.info_phys(),
            "ioport": lambda _: self.iom.info_ioport(),
            "mmio": lambda _: self.iom.info_mmio(),
            "cfgm": lambda path: (self.cfgm.child(path) if path.strip("/") else self.cfgm).dump(),
        }
        items.update(self.pdm.info_items())
        return items

    # --- state changes, on the EMT

    def _power_on(self) -> None:
        self.states.require(S.CREATED)
        self.pdm.mem_setup(at_reset=False)
        self._start_cpu()  # may fail: then the VM is as it was
        self.states.change(S.POWERING_ON)
        self.pdm.power_on()
        self.tm.resume()
        self._go(S.RUNNING)

    def _go(self, state: VmState) -> None:
        self.em.reset()
        self.states.change(state)
        self.running = self.em.engine is not None
        if not self.running:
            self.em.state = EmState.SUSPENDED

    def _start_cpu(self) -> None:
        state = self.boot(self) if self.boot is not None else None
        if state is not None and self.em.engine is not None:
            self.flush_tables()
            self.em.engine.set_state(state)

    def do_suspend(self) -> None:
        """RUNNING -> SUSPENDED."""
        self.states.change(S.SUSPENDING)
        self.running = False
        self.tm.pause()
        self.pdm.suspend()
        self.states.change(S.SUSPENDED)

    def _resume(self) -> None:
        self.states.change(S.RESUMING)
        self.pdm.resume()
        self.tm.resume()
        self._go(S.RUNNING)

    def do_reset(self, source: object, *, soft: bool) -> None:
        """Reset a running or suspended VM; afterwards it runs."""
        was_running = self.running
        self.states.change(S.SOFT_RESETTING if soft else S.RESETTING)
        log.info("VM: %s reset (%s)", "soft" if soft else "hard", getattr(source, "name", source))
        if not was_running:
            self.pdm.resume()
            self.tm.resume()
        engine = self.em.engine
        self.trpm.clear()
        if soft:
            if engine is not None:
                engine.init()
            self.pdm.soft_reset()
        else:
            self.pgm.reset()
            if engine is not None:
                engine.reset()
            self.pdm.reset()
            self.pdm.mem_setup(at_reset=True)
        self._start_cpu()
        self._go(S.RUNNING)

    def do_power_off(self) -> None:
        """To OFF."""
        self.states.change(S.POWERING_OFF)
        self.running = False
        if self.tm.ticking:
            self.tm.pause()
        log.info("%s", self._report())
        self.pdm.power_off()
        self.states.change(S.OFF)

    def do_fatal_error(self) -> None:
        """RUNNING -> FATAL_ERROR: only power off follows."""
        self.running = False
        self.tm.pause()
        self.states.change(S.FATAL_ERROR)

    def guru_meditation(self, number: int, status: str, text: str) -> None:
        """Give up on the guest; the report is in the log and in `guru`."""
        self.running = False
        if self.tm.ticking:
            self.tm.pause()
        report = self._report(f"Guru Meditation {number} ({status})\n{text}")
        self.guru = Guru(number, status, text, report)
        log.error("%s", report)
        self.states.change(S.GURU_MEDITATION)

    def _report(self, heading: str = "Guest state at power off") -> str:
        bar = "!" * 100
        parts = [bar, heading]
        for name, handler in self.info_items().items():
            if name == "cfgm":
                continue
            try:
                parts += [f"{{{name}}}", handler("").rstrip()]
            except Exception as error:
                parts += [f"{{{name}}}", f"(failed: {error})"]
        return "\n".join([*parts, bar])

    def _info(self, name: str, arguments: str) -> str:
        items = self.info_items()
        if name not in items:
            listed = ", ".join(items)
            raise PdmError("VERR_NOT_FOUND", f"No info item is named '{name}'", f"There are {listed}")
        return items[name](arguments)

    def _info_cpu(self) -> str:
        if self.em.engine is None:
            return "no engine\n"
        return describe_cpu(self.em.engine.get_state())

    def flush_tables(self) -> None:
        """Tell the engine what changed in the exit tables and the memory map."""
        self.pgm.flush()
        self.iom.flush()

    # --- for PDM and the engine (pdm.services.PdmServices, engine.EngineHost)

    def fpu_error(self) -> None:
        """The engine's FERR#."""
        self.pdm.fpu_error()

    def ignore_fpu_errors(self) -> None:
        """The board's IGNNE#."""
        if self.em.engine is not None:
            self.em.engine.ignore_fpu_errors()

    def nmi(self) -> None:
        """One NMI edge."""
        self.em.nmi()

    def current_cpu(self) -> int:
        """One vCPU: always 0."""
        return 0

    def request_reset(self, source: ResetSource, soft: bool) -> None:
        """A device asks for a reset; it happens at the next boundary."""
        self.em.force(ForcedAction.SOFT_RESET if soft else ForcedAction.RESET, source)

    def request_power_off(self, code: int) -> None:
        """A device or driver asks for power off."""
        if self.exit_code is None:
            self.exit_code = code & 0xFF
        self.em.force(ForcedAction.POWER_OFF)

    def runtime_error(self, flags: RuntimeErrorFlags, error_id: str, text: str) -> None:
        """Any thread: something went wrong while the guest runs."""
        log.error("VM: runtime error %s (%s): %s", error_id, flags, text)
        self.runtime_errors.append(RuntimeErrorRecord(flags, error_id, text))
        if self._em is None:
            return
        if flags & RuntimeErrorFlags.FATAL:
            self._em.force(ForcedAction.FATAL_ERROR)
        elif flags & RuntimeErrorFlags.SUSPEND:
            self._em.force(ForcedAction.SUSPEND)

    def acknowledge_failed(self, error: BaseException) -> None:
        """The interrupt controller raised."""
        self.pdm.pic_failed("acknowledge", error)

    def handler_failed(
        self, owner: object, offset: int, size: int, value: int | None, error: BaseException
    ) -> None:
        """A handler raised: the access was answered with all ones, or dropped."""
        self.iom.handler_failed(owner, offset, size, value, error)


def _unheard(level: bool) -> None:
    """INTR of a VM without an engine."""


def describe_cpu(state: CpuState) -> str:
    """The registers as `info cpumguest` shows them."""
    names = ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", *(f"r{n}" for n in range(8, 16)))
    rows = [f"{name:>3}={value:016x}" for name, value in zip(names, state.gpr, strict=True)]
    lines = [" ".join(rows[at : at + 4]) for at in range(0, 16, 4)]
    lines.append(f"rip={state.rip:016x} rflags={state.rflags:08x}{' halted' if state.halted else ''}")
    for name in ("cs", "ss", "ds", "es", "fs", "gs", "ldtr", "tr"):
        part: Any = getattr(state, name)
        lines.append(
            f"{name:<4} {part.selector:04x} base={part.base:016x} "
            f"limit={part.limit:08x} attributes={part.attributes:08x}"
        )
    for name, (base, limit) in (("gdtr", state.gdtr), ("idtr", state.idtr)):
        lines.append(f"{name} base={base:016x} limit={limit:04x}")
    lines.append(
        f"cr0={state.cr0:08x} cr2={state.cr2:016x} cr3={state.cr3:016x} "
        f"cr4={state.cr4:08x} efer={state.efer:08x}"
    )
    return "\n".join([*lines, ""])
