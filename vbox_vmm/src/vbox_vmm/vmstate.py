"""The states of a VM and the changes that are allowed between them.

Facts: vmm.md section 1 (VirtualBox's VM state machine).  The table is data; `StateMachine` enforces
it, logs each change as VirtualBox does, and tells at-state callbacks.

Two rows are not in that table and follow from the meaning of `_LS` ("the same, while a live save is
in progress"): FATAL_ERROR_LS and GURU_MEDITATION_LS lose the suffix when the live save ends, and
otherwise go where their counterparts go.
"""

from __future__ import annotations

import enum
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType

from attrs import define

from vbox_pdm import PdmError

log = logging.getLogger("vbox.VM")


class VmState(enum.Enum):
    """A state of the VM; the value is the name that logs and front ends print."""

    CREATING = "CREATING"
    CREATED = "CREATED"
    LOADING = "LOADING"
    POWERING_ON = "POWERING_ON"
    RESUMING = "RESUMING"
    RUNNING = "RUNNING"
    RUNNING_LS = "RUNNING_LS"
    RESETTING = "RESETTING"
    RESETTING_LS = "RESETTING_LS"
    SOFT_RESETTING = "SOFT_RESETTING"
    SOFT_RESETTING_LS = "SOFT_RESETTING_LS"
    SUSPENDING = "SUSPENDING"
    SUSPENDING_LS = "SUSPENDING_LS"
    SUSPENDING_EXT_LS = "SUSPENDING_EXT_LS"
    SUSPENDED = "SUSPENDED"
    SUSPENDED_LS = "SUSPENDED_LS"
    SUSPENDED_EXT_LS = "SUSPENDED_EXT_LS"
    SAVING = "SAVING"
    DEBUGGING = "DEBUGGING"
    DEBUGGING_LS = "DEBUGGING_LS"
    POWERING_OFF = "POWERING_OFF"
    POWERING_OFF_LS = "POWERING_OFF_LS"
    OFF = "OFF"
    OFF_LS = "OFF_LS"
    FATAL_ERROR = "FATAL_ERROR"
    FATAL_ERROR_LS = "FATAL_ERROR_LS"
    GURU_MEDITATION = "GURU_MEDITATION"
    GURU_MEDITATION_LS = "GURU_MEDITATION_LS"
    LOAD_FAILURE = "LOAD_FAILURE"
    DESTROYING = "DESTROYING"
    TERMINATED = "TERMINATED"


_TABLE = """
    CREATING            CREATED
    CREATED             LOADING POWERING_ON POWERING_OFF
    LOADING             SUSPENDED LOAD_FAILURE
    POWERING_ON         RUNNING
    RESUMING            RUNNING
    RUNNING             POWERING_OFF SUSPENDING RESETTING SOFT_RESETTING RUNNING_LS DEBUGGING \
                        FATAL_ERROR GURU_MEDITATION
    RUNNING_LS          POWERING_OFF_LS SUSPENDING_LS SUSPENDING_EXT_LS RESETTING_LS SOFT_RESETTING_LS \
                        RUNNING DEBUGGING_LS FATAL_ERROR_LS GURU_MEDITATION_LS
    RESETTING           RUNNING
    SOFT_RESETTING      RUNNING
    RESETTING_LS        SUSPENDING_LS
    SOFT_RESETTING_LS   RUNNING_LS
    SUSPENDING          SUSPENDED
    SUSPENDING_LS       SUSPENDING SUSPENDED_LS
    SUSPENDING_EXT_LS   SUSPENDING SUSPENDED_EXT_LS
    SUSPENDED           POWERING_OFF SAVING RESETTING SOFT_RESETTING RESUMING LOADING
    SUSPENDED_LS        SUSPENDED SAVING
    SUSPENDED_EXT_LS    SUSPENDED SAVING
    SAVING              SUSPENDED
    DEBUGGING           RUNNING POWERING_OFF
    DEBUGGING_LS        DEBUGGING RUNNING_LS POWERING_OFF_LS
    POWERING_OFF        OFF
    POWERING_OFF_LS     POWERING_OFF OFF_LS
    OFF_LS              OFF
    FATAL_ERROR         POWERING_OFF
    FATAL_ERROR_LS      FATAL_ERROR POWERING_OFF_LS
    LOAD_FAILURE        POWERING_OFF
    GURU_MEDITATION     DEBUGGING POWERING_OFF
    GURU_MEDITATION_LS  GURU_MEDITATION DEBUGGING_LS POWERING_OFF_LS
    OFF                 DESTROYING
    DESTROYING          TERMINATED
    TERMINATED
"""


def _parse(table: str) -> Mapping[VmState, frozenset[VmState]]:
    rows = (line.split() for line in table.strip().splitlines())
    return MappingProxyType({VmState[row[0]]: frozenset(VmState[name] for name in row[1:]) for row in rows})


TRANSITIONS: Mapping[VmState, frozenset[VmState]] = _parse(_TABLE)
"""For each state, the states that may follow it."""

AtState = Callable[[VmState, VmState], None]
"""An at-state callback: (new, old).  It must not change the state, except to DESTROYING."""


@define(eq=False)
class _Waiter:
    """One `wait_for` in progress.  `reached` keeps a state that was passed quickly."""

    states: frozenset[VmState]
    reached: VmState | None = None


class StateMachine:
    """The state of one VM.  Every method may be called from any thread.

    Changes are delivered to the callbacks one after another, in the order in which they happened,
    on the thread that made the change; an exception of a callback is logged and goes no further.
    """

    def __init__(self, initial: VmState = VmState.CREATING) -> None:
        self._current = initial
        self._changed = threading.Condition()  # guards everything below and _current
        self._callbacks: list[AtState] = []
        self._waiters: list[_Waiter] = []
        # Held for a change and its callbacks.  Apart from _changed, so that a callback may wait for
        # a thread that only looks at the state or (un)registers.
        self._order = threading.RLock()
        self._delivering = False  # guarded by _order
        self._undelivered: deque[tuple[VmState, VmState]] = deque()

    @property
    def current(self) -> VmState:
        """The state now; it may be another one a moment later unless the caller is the EMT."""
        return self._current

    def change(self, new: VmState) -> VmState:
        """Change to `new` and return the state before.

        Raises PdmError VERR_VM_INVALID_VM_STATE, with nothing changed, when the table does not allow
        it or when an at-state callback asks for anything but DESTROYING.
        """
        with self._order:
            if self._delivering and new is not VmState.DESTROYING:
                raise _refusal(self._current, new, "an at-state callback may only change it to DESTROYING")
            with self._changed:
                old = self._current
                if new not in TRANSITIONS[old]:
                    allowed = ", ".join(sorted(state.name for state in TRANSITIONS[old])) or "nothing"
                    raise _refusal(old, new, f"from {old.name} it may go to {allowed}")
                self._current = new
                for waiter in self._waiters:
                    if waiter.reached is None and new in waiter.states:
                        waiter.reached = new
                self._changed.notify_all()
            log.info("Changing the VM state from '%s' to '%s'", old.name, new.name)
            self._undelivered.append((new, old))
            if not self._delivering:  # else the outer change() delivers it when its own round is over
                self._deliver()
            return old

    def require(self, *states: VmState) -> VmState:
        """Return the current state when it is one of `states`, else raise VERR_VM_INVALID_VM_STATE."""
        current = self._current
        if current not in states:
            wanted = ", ".join(state.name for state in states)
            raise PdmError("VERR_VM_INVALID_VM_STATE", f"The VM is in state {current.name}, not in {wanted}")
        return current

    def at_state(self, callback: AtState) -> None:
        """Call `callback(new, old)` after each change from now on; twice registered is called twice."""
        with self._changed:
            self._callbacks.append(callback)

    def remove_at_state(self, callback: AtState) -> None:
        """Undo one `at_state`.  Raises PdmError VERR_FILE_NOT_FOUND when it is not registered."""
        with self._changed:
            try:
                self._callbacks.remove(callback)
            except ValueError:
                raise PdmError("VERR_FILE_NOT_FOUND", f"{callback!r} is not an at-state callback") from None

    def wait_for(self, states: VmState | Collection[VmState], timeout: float | None = None) -> VmState | None:
        """Wait until the VM is in (or passes through) one of `states`; return that state.

        Returns None after `timeout` seconds (None: no limit) or when the VM has terminated and the
        state can no longer come.  Not for the EMT and not for at-state callbacks: they would wait
        for themselves.
        """
        wanted = frozenset({states}) if isinstance(states, VmState) else frozenset(states)
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._changed:
            if self._current in wanted:
                return self._current
            waiter = _Waiter(wanted)
            self._waiters.append(waiter)
            try:
                while waiter.reached is None and self._current is not VmState.TERMINATED:
                    left = None if deadline is None else deadline - time.monotonic()
                    if left is not None and left <= 0:
                        break
                    self._changed.wait(left)
                return waiter.reached
            finally:
                self._waiters.remove(waiter)

    def _deliver(self) -> None:
        self._delivering = True
        try:
            while self._undelivered:
                new, old = self._undelivered.popleft()
                with self._changed:
                    callbacks = tuple(self._callbacks)
                for callback in callbacks:
                    try:
                        callback(new, old)
                    except Exception:
                        log.exception("VM: at-state callback %r failed at %s", callback, new.name)
        finally:
            self._delivering = False


def _refusal(old: VmState, new: VmState, why: str) -> PdmError:
    return PdmError(
        "VERR_VM_INVALID_VM_STATE", f"The VM state cannot change from '{old.name}' to '{new.name}'", why
    )
