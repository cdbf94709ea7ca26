"""The thread that kicks a guest out at a time of the host's monotonic clock.

It is none of Python's, which would have to wait for the GIL and makes others wait for it: it runs a thunk,
`thunks.running.timer_main`, that sleeps in a timerfd.
"""

from __future__ import annotations

import ctypes
import os
import signal

from .structures import Machine

_CLOCK_MONOTONIC, _TFD_TIMER_ABSTIME, _TFD_CLOEXEC = 1, 1, 0o2000000
_NAME = ctypes.create_string_buffer(b"rem-deadline")
_AT_ONCE = 1  # the first nanosecond of the clock: long past

_libc = ctypes.CDLL(None, use_errno=True)
_libc.timerfd_settime.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
_libc.pthread_create.argtypes = (ctypes.c_void_p,) * 4
_libc.pthread_join.argtypes = (ctypes.c_void_p, ctypes.c_void_p)


def kick(machine: Machine) -> None:
    machine.kicked = 1
    machine.env.attention = 1


class Deadline:
    """One engine's.  The thread starts with the first deadline, and uses the engine's memory until `stop`."""

    def __init__(self, machine: Machine, timer_main: int) -> None:
        self._machine = machine
        self._main = timer_main
        self._thread: int | None = None
        self._setting = (ctypes.c_int64 * 4)()  # struct itimerspec: interval, value

    def set(self, host_ns: int) -> None:
        """Kick at this time; 0 for never."""
        if self._thread is None:
            if host_ns == 0:
                return
            if not self._start():
                kick(self._machine)  # without a timer, looking too early is better than too late
                return
        self._machine.expired = 0
        self._setting[2], self._setting[3] = divmod(host_ns, 1_000_000_000)
        _libc.timerfd_settime(self._machine.timer, _TFD_TIMER_ABSTIME, self._setting, None)

    def stop(self) -> None:
        if self._thread is not None:
            self._machine.timer_quit = 1
            self.set(_AT_ONCE)
            _libc.pthread_join(self._thread, None)
            os.close(self._machine.timer)
            self._thread = None

    def _start(self) -> bool:
        timer = _libc.timerfd_create(_CLOCK_MONOTONIC, _TFD_CLOEXEC)
        if timer < 0:
            return False
        self._machine.timer = timer
        self._machine.timer_name = ctypes.addressof(_NAME)
        thread = ctypes.c_void_p()
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # for the thread
        try:
            error = _libc.pthread_create(ctypes.byref(thread), None, self._main, self._machine.address)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        if error:
            os.close(timer)
            return False
        self._thread = thread.value
        return True
