"""Watching what a plugin does to the process: time, output, threads, global state."""

from __future__ import annotations

import contextlib
import decimal
import functools
import gc
import io
import locale
import os
import random
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from vbox_pdm.testing.conformance.setup import ACCESS_CPU, ACCESS_WALL
from vbox_pdm.testing.conformance.violations import Hang, Violation


class _Output(io.TextIOBase):
    """Stands for stdout or stderr while a plugin runs."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.text = ""

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self.text += text
        return len(text)


def _globals() -> dict[str, Any]:
    """What of the process a plugin must leave alone."""
    return {
        "the environment": dict(os.environ),
        "the current folder": os.getcwd(),
        "the module search path": tuple(sys.path),
        "the seed of `random`": random.getstate(),
        "the locale": locale.setlocale(locale.LC_ALL),
        "the decimal context": repr(decimal.getcontext()),
        "the filters of `warnings`": tuple(warnings.filters),
        "the recursion limit": sys.getrecursionlimit(),
        "the umask": _umask(),
        "signal handlers": {
            number: signal.getsignal(number)
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD, signal.SIGPIPE)
        },
    }


@functools.cache
def _schedstat() -> int:
    """What Linux says of this thread's time, open; -1 where it says nothing."""
    try:
        return os.open("/proc/thread-self/schedstat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return -1


def _waited() -> float:
    """Seconds that the main thread was ready and had no CPU; 0 where the host does not say."""
    file = _schedstat()
    return int(os.pread(file, 64, 0).split()[1]) / 1e9 if file >= 0 else 0.0


def _umask() -> int:
    mask = os.umask(0o77)
    os.umask(mask)
    return mask


def _open_files() -> dict[int, str]:
    """Descriptor -> what it is; nothing where the system does not say."""
    found = {}
    with contextlib.suppress(OSError):
        for name in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):
                found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
    return found


class Watch:
    """One for each example: `with watch.step("..."):` around all that calls the plugin."""

    def __init__(self) -> None:
        self._before = _globals()
        self._threads = set(threading.enumerate())
        _schedstat()  # is not the plugin's
        self._files = _open_files()
        self._output = (_Output("standard output"), _Output("standard error"))
        self._main = threading.current_thread() is threading.main_thread()

    @contextmanager
    def step(self, what: str) -> Iterator[None]:
        """Raises Hang in the middle of what takes too long, Violation when it wrote to the terminal."""
        saved = sys.stdout, sys.stderr
        sys.stdout, sys.stderr = self._output
        collects = gc.isenabled()
        gc.disable()  # what is raised in the middle of a collection is lost, and printed
        disarm = self._arm(what) if self._main else None
        try:
            yield
        except SystemExit as error:
            raise Violation("no-raise", f"{what}: ended the process with {error.code!r}") from error
        finally:
            if disarm is not None:
                disarm()
            if collects:
                gc.enable()
            sys.stdout, sys.stderr = saved
        for output in self._output:
            if output.text:
                text, output.text = output.text, ""
                raise Violation("no-output", f"{what}: wrote {text[:200]!r} to {output.name}")

    @contextmanager
    def left_to_chance(self) -> Iterator[None]:
        """Violation for a file or socket that nobody closes, and that is closed when its object goes."""
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always", ResourceWarning)
            yield
        for warning in seen:
            if issubclass(warning.category, ResourceWarning):
                raise Violation("no-files", f"nobody closed it: {warning.message}")

    def _arm(self, what: str) -> Callable[[], None]:
        waited, patience = _waited(), 10

        def late(number: int, frame: FrameType | None) -> None:
            nonlocal waited, patience
            if number == signal.SIGALRM:
                before, waited = waited, _waited()
                more = waited - before  # a busy host is not the plugin's fault: as much time again
                if more <= 0.1 and patience and self.at_work():
                    more, patience = 1.0, patience - 1
                if more > 0.1:
                    signal.setitimer(signal.ITIMER_REAL, more, 0.05)
                    return
            code = frame.f_code if frame is not None else None
            where = f" in {code.co_name} of {code.co_filename}" if code is not None else ""
            spent = f"{ACCESS_CPU:g} s of CPU time" if number == signal.SIGPROF else f"{ACCESS_WALL:g} s"
            raise Hang(f"{what}: not over after {spent}{where}")

        handlers = [(n, signal.signal(n, late)) for n in (signal.SIGPROF, signal.SIGALRM)]
        # Again and again: what catches everything in a loop must be interrupted once more.
        timers = [
            (timer, signal.setitimer(timer, seconds, 0.05))
            for timer, seconds in ((signal.ITIMER_PROF, ACCESS_CPU), (signal.ITIMER_REAL, ACCESS_WALL))
        ]

        def disarm() -> None:
            """Somebody else (a test runner's timeout) may have a timer, which goes on."""
            for timer, _ in timers:
                signal.setitimer(timer, 0)
            for number, handler in handlers:
                signal.signal(number, handler)
            for timer, before in timers:
                signal.setitimer(timer, *before)

        return disarm

    def finish(self, *, threads: bool) -> None:
        """At the end.  Violation for globals that changed, and for threads that are left."""
        left = [t for t in threading.enumerate() if t not in self._threads and t.is_alive()]
        if left and threads:
            raise Violation("no-threads", f"threads are left at the end: {', '.join(t.name for t in left)}")
        if threads:
            opened = {n: what for n, what in _open_files().items() if self._files.get(n) != what}
            if opened:
                raise Violation("no-files", f"left open at the end: {', '.join(map(str, opened.values()))}")
        self.check_globals()

    def check_globals(self) -> None:
        """Violation when something global changed."""
        now = _globals()
        for name, before in self._before.items():
            if now[name] != before:
                self._before = now  # told once
                raise Violation("no-globals", f"{name} changed: {_difference(before, now[name])}")

    def threads(self) -> list[str]:
        """Names of the threads that began since."""
        return [t.name for t in threading.enumerate() if t not in self._threads]

    def at_work(self) -> bool:
        """Whether another thread has a CPU, waits for one, or for the host's disk; False where the host
        does not say."""
        me = threading.current_thread()
        return any(_state_of(t.native_id) in "RD" for t in threading.enumerate() if t is not me)


def _state_of(thread: int | None) -> str:
    """A letter, as in proc(5); S sleeps."""
    try:
        return Path(f"/proc/self/task/{thread}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return "S"


def _difference(before: Any, after: Any) -> str:
    if isinstance(before, dict) and isinstance(after, dict):
        keys = [str(k) for k in before.keys() | after.keys() if before.get(k) != after.get(k)]
        return ", ".join(sorted(keys))
    if isinstance(before, tuple) and len(repr(before)) > 200:
        return "it is another one"
    return f"{before!r} became {after!r}"
