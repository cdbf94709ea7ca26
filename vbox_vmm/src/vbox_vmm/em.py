"""EM: the execution manager.  It decides what the vCPU does next: run guest code in an engine,
sleep in HLT, serve forced actions, or give up.

Facts: vmm.md section 2.  A forced action is a request that the guest be left at the next boundary:
whoever sets one kicks the engine; the loop below serves them, the most urgent first, before it
enters the guest again.
"""

from __future__ import annotations

import enum
import logging
import time
from collections import Counter
from typing import TYPE_CHECKING

from vbox_pdm.engine import Engine, ExitReason
from vbox_pdm.helpers import ResetSource
from vbox_vmm.tm import TimeManager
from vbox_vmm.tm_timer import FAR

if TYPE_CHECKING:
    from vbox_vmm.vm import Vm

log = logging.getLogger("vbox.EM")


_NEVER = 1 << 63  # a deadline later than anything


class EmState(enum.Enum):
    """What the vCPU does (the names of VirtualBox's EMSTATE)."""

    NONE = "NONE"
    RUNNING = "REM"  # in the engine
    HALTED = "HALTED"
    SUSPENDED = "SUSPENDED"
    TERMINATING = "TERMINATING"
    GURU_MEDITATION = "GURU_MEDITATION"


class ForcedAction(enum.IntEnum):
    """Lower is more urgent, as VirtualBox's VINF_EM_* statuses are ordered."""

    POWER_OFF = 0
    FATAL_ERROR = 1
    SUSPEND = 2
    RESET = 3
    SOFT_RESET = 4


class Em:
    """The vCPU's loop.  All methods but `wake` are for the EMT."""

    def __init__(self, vm: Vm, tm: TimeManager, engine: Engine | None) -> None:
        self._vm = vm
        self._tm = tm
        self.engine = engine
        self.state = EmState.NONE
        self.forced: dict[ForcedAction, object] = {}
        self.exits: Counter[ExitReason] = Counter()
        """How often the guest was left, by reason."""
        self._tsc_version = 0
        self._deadline = 0  # the host time of the next timer: passed, so that the first look comes
        self._told = 0  # what the engine was told of it
        self._plugins_seen = -1  # their generation
        tm.on_deadline_change = self._deadline_changed

    def kick(self) -> None:
        """Any thread, after a ring: leave the guest soon.  Whoever does not run it looks around, behind the
        ring, before it does: a kick would only have it look twice."""
        if self.state is EmState.RUNNING and self.engine is not None:
            self.engine.kick()

    def force(self, action: ForcedAction, detail: object = None) -> None:
        """Ask for an action at the next boundary; the first detail stays."""
        self.forced.setdefault(action, detail)
        self._vm.kick()

    def nmi(self) -> None:
        """One NMI edge."""
        if self.engine is not None:
            self.engine.nmi()
        self._vm.woken.ring()

    def execute(self) -> None:
        """Run the guest until the VM is no longer running."""
        engine, vm = self.engine, self._vm
        if engine is None:
            raise RuntimeError("a VM without an engine cannot execute")
        # A line that is raised from outside is on its way through this loop, with cold caches: no calls
        # of Python for nothing.
        tm, lock, requests, deliveries = self._tm, vm.lock, vm.requests, vm.deliveries
        forced, waiters, plugins, run = self.forced, lock.waiters, vm.catalogue.manager, engine.run
        now, forget_rings, serve = time.monotonic_ns, vm.woken.clear, vm.serve
        counted = tm.counter is not None
        attends = engine.attends and not counted
        looked = False
        self.state = EmState.RUNNING
        self._plugins_seen = -1
        while vm.running:
            if forced:
                self._serve_forced_action()
                continue
            if deliveries and not attends:
                serve(deliveries)
            if requests:
                serve(requests)
                continue
            if waiters:
                lock.let_others_in()
                continue
            if now() >= self._deadline or (counted and tm.counted_out):
                self._run_timers()
            if self._plugins_seen != plugins.generation:
                self._plugins_seen = plugins.generation
                vm.flush_tables()  # there may be one that wraps regions
            if self._deadline != self._told or tm.tsc_version != self._tsc_version:
                self._tell(engine)
            forget_rings()
            if forced or requests or waiters:
                continue
            if deliveries:
                if not attends:
                    continue
                engine.kick()  # they are served in there: what they raise is taken at once
            reason = run()
            self.exits[reason] += 1
            if reason is ExitReason.HALTED:
                # INTR may have risen in the shadow of an STI before the HLT: the engine takes it at
                # once when it may.  Still halted after that look: IF is clear, only an event helps.
                if looked or not vm.pdm.intr.level:
                    self._halt()
                    looked = False
                else:
                    looked = True
                continue
            looked = False
            if reason is ExitReason.KICKED:
                continue
            if reason is ExitReason.TRIPLE_FAULT:
                self._triple_fault()
            else:
                vm.guru_meditation(-2301, "VERR_REM_VIRTUAL_CPU_ERROR", engine.failure)
        self.state = EmState.SUSPENDED

    def attend(self) -> bool:
        """The engine was kicked, and the guest is still in it: timers and queues are served there, which is
        the shortest way for an interrupt.  True: something else waits for the guest to be left."""
        vm, engine = self._vm, self.engine
        if vm.deliveries:
            vm.serve(vm.deliveries)
        if time.monotonic_ns() >= self._deadline:
            self._run_timers()
        if engine is not None and (self._deadline != self._told or self._tm.tsc_version != self._tsc_version):
            self._tell(engine)
        return bool(
            self.forced
            or vm.requests
            or vm.lock.waiters
            or not vm.running
            or self._plugins_seen != vm.catalogue.manager.generation
        )

    def _run_timers(self) -> None:
        self._tm.run_due()
        self._deadline = self._tm.next_deadline_host_ns() or _NEVER
        self._told = -1  # the engine has forgotten it by now

    def _halt(self) -> None:
        """Sleep until something may end HLT: an interrupt, an NMI, a timer, a request."""
        self.state = EmState.HALTED
        tm, vm, woken, intr = self._tm, self._vm, self._vm.woken, self._vm.pdm.intr
        held = intr.level  # IF is clear, then
        paced = tm.counter is not None and not tm.warps
        while not woken.rung:
            if tm.warps:
                self._deadline = tm.halted_until_next() or _NEVER
            begin = time.monotonic_ns()
            until = self._deadline
            idle = tm.until_next() if paced else 0
            if paced and idle != FAR:
                until = min(until, begin + idle)
            delay = None if until == _NEVER else (until - begin) / 1e9
            if delay is None or delay > 0:
                vm.lock.release()
                try:
                    rang = woken.wait(delay)
                finally:
                    vm.lock.acquire()
                if paced:
                    tm.pass_idle(min(idle, time.monotonic_ns() - begin))
                if rang:
                    break
            elif vm.lock.waiters:
                vm.lock.let_others_in()
            self._run_timers()
            if intr.level and not held:
                break
        self.state = EmState.RUNNING

    def _tell(self, engine: Engine) -> None:
        """The engine learns what is new of the TSC's line and of the next timer."""
        tm, deadline = self._tm, self._deadline
        if tm.tsc_version != self._tsc_version:
            self._tsc_version = tm.tsc_version
            if tm.counter is None:  # TM tells it itself
                engine.set_tsc(*tm.tsc_mapping())
        if deadline != self._told:
            self._told = deadline
            engine.set_deadline(0 if deadline == _NEVER else deadline)

    def _deadline_changed(self, host_ns: int) -> None:
        # A handler armed a timer while the guest runs: TSC's line and the deadline follow at once.
        self._deadline = host_ns
        if self.engine is not None:
            self._tell(self.engine)

    def _triple_fault(self) -> None:
        if self._vm.triple_fault_reset:
            log.info("EM: triple fault: reset")
            self.forced.setdefault(ForcedAction.RESET, ResetSource.TRIPLE_FAULT)
        else:
            self._vm.guru_meditation(1155, "VINF_EM_TRIPLE_FAULT", "The guest caused a triple fault")

    def _serve_forced_action(self) -> None:
        action = min(self.forced)
        detail = self.forced.pop(action)
        vm = self._vm
        if action is ForcedAction.POWER_OFF:
            vm.do_power_off()
        elif action is ForcedAction.FATAL_ERROR:
            vm.do_fatal_error()
        elif action is ForcedAction.SUSPEND:
            vm.do_suspend()
        else:
            self.forced.pop(ForcedAction.SOFT_RESET, None)
            vm.do_reset(detail, soft=action is ForcedAction.SOFT_RESET)

    def reset(self) -> None:
        """After a reset of the VM: the next run starts afresh."""
        self._tsc_version = self._deadline = 0
        self._vm.woken.ring()

    def info_exits(self) -> str:
        """The text of `info exits`."""
        lines = [f"{reason.value:<14} {count:>12}" for reason, count in self.exits.items()]
        return "\n".join([f"State: {self.state.value}", *lines, ""])
