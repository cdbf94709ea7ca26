"""A machine from its making to its end, as `vbox run` sees it.

The main thread only waits: for what the VM reports, for signals, for the time that was given.  What
may block (making the VM, power on, suspend, power off) runs on threads of its own, so that a plugin
that does not return can be told about and left behind, and Ctrl-C always works.

Traps: a signal handler may interrupt a thread that holds a lock, so handlers only put a word into the
mail.  Python calls its handlers on the main thread between two instructions: a signal that comes just
before that thread begins to wait for a lock is not looked at until something else wakes it, so it waits
for a pipe, which hears of signals by itself.  A terminal in raw mode is restored by the driver at power off,
and when the process ends without it, by its guardian.
"""

from __future__ import annotations

import contextlib
import gc
import math
import os
import queue
import select
import signal
import sys
import threading
import time
import traceback
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, NoReturn, TypeVar

from attrs import define, frozen

from vbox_pdm.catalogue import Catalogue
from vbox_pdm.errors import PdmError
from vbox_pdm.helpers import RuntimeErrorFlags
from vbox_vmm.boot import Boot
from vbox_vmm.cfgm import Node
from vbox_vmm.frontends.exitcodes import ERROR, EXPECTATION, GURU, INTERRUPTED, SUCCESS
from vbox_vmm.frontends.messages import complain, hold, release, say
from vbox_vmm.frontends.script import Script
from vbox_vmm.vm import Vm
from vbox_vmm.vmstate import VmState

T = TypeVar("T")
PATIENCE = 10.0
"""Seconds that a machine may take to stop before it is left behind."""
SILENCE = 5.0
"""Seconds after which a step of the machine that is not done is worth a word."""
RETRY = 2.0
"""Seconds after which a guest that waits for something to be mended is tried again."""
UNMENDABLE = "DeviceFailed"
"""The runtime error of a plugin that failed too often: going on would not help."""
_ENDS = (VmState.OFF, VmState.GURU_MEDITATION, VmState.FATAL_ERROR, VmState.SUSPENDED)
_FATAL_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class TimeIsOver(Exception):
    """--timeout."""


class Signalled(Exception):
    """A signal that ends the run."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@frozen
class _Done:
    """A task ended; `error` is what it raised."""

    task: object
    result: Any = None
    error: BaseException | None = None


@frozen
class _Signal:
    number: int


@define(kw_only=True)
class Run:
    """One run.  `started` is called when the guest is about to run, `ended` when it does not run
    any more, however it ended, and the VM still stands."""

    tree: Node
    catalogue: Catalogue
    boot: Boot | None = None
    timeout: float | None = None
    script: Script | None = None
    started: Callable[[Vm], None] = lambda _: None
    ended: Callable[[Vm], None] = lambda _: None

    def execute(self) -> int:
        """Do it; the exit code.  Raises PdmError when the machine cannot start."""
        return _Runner(self).execute()


class Mail:
    """What any thread, or a signal handler, has for the one that waits.  `descriptor` is for
    `signal.set_wakeup_fd`."""

    def __init__(self) -> None:
        self._items: deque[Any] = deque()
        self._bell, self.descriptor = os.pipe()
        for end in (self._bell, self.descriptor):
            os.set_blocking(end, False)
            weakref.finalize(self, os.close, end)  # a thread that was left behind may still put
        self._poll = select.poll()
        self._poll.register(self._bell, select.POLLIN)

    def put(self, item: Any) -> None:
        """Any thread, and signal handlers."""
        self._items.append(item)
        with contextlib.suppress(BlockingIOError):  # it is full: that wakes as well
            os.write(self.descriptor, b"\0")

    def get(self, timeout: float | None = None) -> Any:
        """The oldest item; waits for one, at most `timeout` seconds.  Raises queue.Empty."""
        end = math.inf if timeout is None else time.monotonic() + timeout
        while not self._items:
            left = end - time.monotonic()
            if left <= 0:
                raise queue.Empty
            self._poll.poll(None if timeout is None else math.ceil(left * 1000))
            with contextlib.suppress(BlockingIOError):
                os.read(self._bell, 4096)
        return self._items.popleft()


class _Runner:
    def __init__(self, run: Run) -> None:
        self.run = run
        self.mail = Mail()
        # Time counts from the guest's start; what comes before has at least the usual patience.
        self.deadline = None if run.timeout is None else time.monotonic() + max(run.timeout, PATIENCE)
        self.vm: Vm | None = None
        self.suspending = False
        self.silent_until: float | None = None
        self._creating: object | None = None

    def execute(self) -> int:
        with self._signals():
            try:
                self._perform(self._create)
                vm = self.vm
                assert vm is not None
                gc.collect()
                gc.freeze()  # the machine stays: no use in looking at it again and again
                self._perform(vm.power_on)
                if self.run.timeout is not None:
                    self.deadline = time.monotonic() + self.run.timeout
                self.run.started(vm)
                state = self._wait_for_the_end(vm)
                code = self._judge(vm, state)
            except TimeIsOver:
                code = self._judge_timeout()
            except Signalled as stop:
                code = INTERRUPTED - signal.SIGINT + stop.number
            except BaseException:
                self._close(ERROR, quiet=True)
                raise
            self._close(code)
        return code

    # --- steps

    def _create(self) -> None:
        vm = Vm(self.run.tree, self.run.catalogue, boot=self.run.boot)
        vm.states.at_state(self._state_changed)
        self.vm = vm

    def _wait_for_the_end(self, vm: Vm) -> VmState:
        told = ""
        while True:
            item = self._next()
            if item is VmState.SUSPENDED and (reason := _mendable(vm)) is not None:
                drawn = release()  # a suspended machine gives the terminal back
                if reason != told:
                    complain(
                        f"the guest waits: {reason}. It is tried again every {RETRY:g} s; Ctrl-C ends it"
                    )
                    told = reason
                self._pause(RETRY)
                if vm.state is VmState.SUSPENDED:
                    self._perform(vm.resume)
                if drawn:
                    hold()
                continue
            if isinstance(item, VmState):
                return item
            if isinstance(item, _Signal) and item.number == signal.SIGTSTP:
                self._stop_and_continue(vm)

    def _judge(self, vm: Vm, state: VmState) -> int:
        if state is VmState.GURU_MEDITATION and vm.guru is not None:
            guru = vm.guru
            complain(
                f"guru meditation {guru.number}: {guru.text.rstrip('.')} ({guru.status}). "
                "--log-level info prints the CPU's state"
            )
            return GURU
        if state in (VmState.FATAL_ERROR, VmState.SUSPENDED):
            last = vm.runtime_errors[-1] if vm.runtime_errors else None
            what = (
                f"{last.error_id}: {last.text.rstrip('.')}" if last is not None else "for an unknown reason"
            )
            complain(f"the guest was stopped: {what} (VERR_VM_{state.name})")
            return GURU
        script = self.run.script
        if script is not None and script.error is not None:
            raise script.error
        if script is not None and script.unmet is not None:
            ended = f" with code {vm.exit_code}" if vm.exit_code else ""
            complain(
                f"the guest ended{ended} before {script.unmet.text!r} came: {script.describe()} "
                "(VERR_NOT_FOUND)"
            )
            return EXPECTATION
        return vm.exit_code or SUCCESS

    def _judge_timeout(self) -> int:
        script = self.run.script
        if self.vm is None or self.vm.state in (VmState.CREATED, VmState.POWERING_ON):
            complain(f"the machine did not start in time: {_busy_with()} (VERR_TIMEOUT)")
            return EXPECTATION
        where = f": {script.describe()}" if script is not None else ""
        complain(f"the guest did not end within {self.run.timeout:g} seconds{where} (VERR_TIMEOUT)")
        return EXPECTATION

    def _pause(self, seconds: float) -> None:
        """Let time pass.  Raises TimeIsOver, Signalled."""
        until = time.monotonic() + seconds
        put_back: list[Any] = []
        try:
            while (left := until - time.monotonic()) > 0:
                with contextlib.suppress(queue.Empty):
                    put_back.append(self._next(left))
        finally:
            for item in put_back:
                self.mail.put(item)

    def _stop_and_continue(self, vm: Vm) -> None:
        """Job control: the VM is suspended while the process is stopped, and the terminal is its own."""
        running = vm.state is VmState.RUNNING
        if running:
            self.suspending = True
            try:
                self._perform(vm.suspend)
            except PdmError:
                running = False  # it ended meanwhile; the mail says so
            finally:
                self.suspending = False
        handler = signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)  # stops here until SIGCONT
        signal.signal(signal.SIGTSTP, handler)
        if running:
            self._perform(vm.resume)

    def _close(self, code: int, *, quiet: bool = False) -> None:
        """Power off and destroy, with limited patience."""
        self.deadline = time.monotonic() + PATIENCE
        try:
            if self.vm is None:
                self._await_creation()
            vm = self.vm
            if vm is None:
                return
            if vm.state is not VmState.CREATED:
                self._perform(vm.power_off)
                self._perform(lambda: self.run.ended(vm))
            self._perform(vm.destroy)
        except PdmError as error:
            if not quiet:
                complain(f"the machine did not end cleanly: {error}")
        except TimeIsOver:
            complain(f"the machine does not stop and is left behind: {_busy_with()} (VERR_TIMEOUT)")
            _leave(code)
        except Signalled as stop:
            _leave(INTERRUPTED - signal.SIGINT + stop.number)

    def _await_creation(self) -> None:
        """The VM is being made on a thread that a signal or the timeout has overtaken, or has failed."""
        if self._creating is not None:
            self._await(self._creating)

    # --- waiting

    def _perform(self, function: Callable[[], T]) -> None:
        """Run `function` on a thread of its own and wait; raises what it raises."""
        task = object()

        def work() -> None:
            try:
                result = function()
            except BaseException as error:
                self.mail.put(_Done(task, error=error))
            else:
                self.mail.put(_Done(task, result))

        if function == self._create:
            self._creating = task
        threading.Thread(target=work, name="vbox-run", daemon=True).start()
        self.silent_until = time.monotonic() + SILENCE
        try:
            self._await(task)
        finally:
            self.silent_until = None

    def _await(self, task: object) -> None:
        put_back: list[Any] = []
        try:
            while True:
                item = self._next()
                if isinstance(item, _Done):
                    if item.task is self._creating:
                        self._creating = None
                    if item.task is task:
                        if item.error is not None:
                            raise item.error
                        return
                elif not (isinstance(item, _Signal) and self.suspending):  # that one is being obeyed
                    put_back.append(item)
        finally:
            for item in put_back:
                self.mail.put(item)

    def _next(self, most: float | None = None) -> Any:
        """The next thing that happened.  Raises TimeIsOver, Signalled, and queue.Empty when nothing
        did for `most` seconds."""
        end = None if most is None else time.monotonic() + most
        while True:
            now = time.monotonic()
            ends = [at for at in (self.deadline, end) if at is not None]
            left = max(0.0, min(ends) - now) if ends else None
            if self.silent_until is not None:
                silence = max(0.0, self.silent_until - now)
                left = silence if left is None else min(left, silence)
            try:
                item = self.mail.get(timeout=left)
                break
            except queue.Empty:
                now = time.monotonic()
                if self.deadline is not None and now >= self.deadline:
                    raise TimeIsOver from None
                if end is not None and now >= end:
                    raise
                if self.silent_until is not None and now >= self.silent_until:
                    self.silent_until = None
                    complain(f"warning: the machine does not start or stop: {_busy_with()}")
        if isinstance(item, _Signal) and item.number != signal.SIGTSTP:
            raise Signalled(item.number)
        return item

    def _state_changed(self, new: VmState, old: VmState) -> None:
        if new in _ENDS and not (new is VmState.SUSPENDED and self.suspending):
            self.mail.put(new)

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        def handler(number: int, frame: FrameType | None) -> None:
            self.mail.put(_Signal(number))

        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {}
        woken = signal.set_wakeup_fd(self.mail.descriptor, warn_on_full_buffer=False)
        for number in (*_FATAL_SIGNALS, signal.SIGTSTP):
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup, a background job of a script
                before[number] = signal.signal(number, handler)
        try:
            yield
        finally:
            for number, old in before.items():
                signal.signal(number, old)
            signal.set_wakeup_fd(woken)


def _mendable(vm: Vm) -> str | None:
    """What the suspended guest waits for, when the user can do something about it."""
    last = vm.runtime_errors[-1] if vm.runtime_errors else None
    if last is None or last.error_id == UNMENDABLE or not last.flags & RuntimeErrorFlags.SUSPEND:
        return None
    return f"{last.error_id}: {last.text.rstrip('.')}"


def _busy_with() -> str:
    """The plugin's callback that a VM's thread is in, for people."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    for ident, frame in sys._current_frames().items():
        if not names.get(ident, "").startswith("EMT:"):
            continue
        stack = traceback.extract_stack(frame)
        callback = next((entry for entry in stack if entry.name.startswith("pdm_")), None)
        if callback is not None:
            last = stack[-1]
            return (
                f"{callback.name} of {callback.filename} has not returned, it is at "
                f"{last.filename}:{last.lineno}"
            )
    return "something takes its time"


def _leave(code: int) -> NoReturn:
    """End the process though threads hang in it."""
    release()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def print_exits(vm: Vm) -> None:
    """--exits."""
    say(vm.info("exits").rstrip())
