"""The watchdog: it names a plugin's callback that does not return.

One daemon thread for the whole process looks at the stacks of the EMTs of running VMs once a second.
Nothing is recorded on the way into a callback, so nothing there costs anything: a callback that is
found on the stack, the very same call of it, for five seconds is reported with instance, callback and
stack; again after ten, twenty and so on.

A call is recognised by its frame object.  The frame is kept from one look to the next, since a freed
one could come back at the same address for another call.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
import traceback
from collections.abc import Callable
from types import FrameType

from attrs import define, field

log = logging.getLogger("vbox.PDM")

PATIENCE = 5.0
INTERVAL = 1.0

Identify = Callable[[FrameType], str | None]
"""The title of the instance whose callback a frame is; None when it is none."""


@define(eq=False)
class Watch:
    """A thread that is looked at.  `reported(title, callback, seconds, stack)` is called on the
    watchdog's thread."""

    thread: int
    identify: Identify
    reported: Callable[[str, str, float, str], None]
    frame: FrameType | None = field(default=None, repr=False)
    title: str = ""
    since: float = 0.0
    next_report: float = PATIENCE

    def look(self, frame: FrameType | None, now: float) -> None:
        """Once in a while: what is the thread doing?"""
        top = frame
        found, title = None, ""
        while frame is not None:
            name = self.identify(frame)
            if name is not None:
                found, title = frame, name  # the outermost counts: it is what was called
            frame = frame.f_back
        if found is None or found is not self.frame:
            self.frame, self.title, self.since = found, title, now
            self.next_report = PATIENCE
            return
        seconds = now - self.since
        if seconds >= self.next_report:
            self.next_report = 2 * seconds
            stack = "".join(traceback.format_stack(top))
            self.reported(self.title, found.f_code.co_qualname, seconds, stack)


class Watchdog:
    """The watches of this process and the thread that keeps them."""

    def __init__(self, interval: float = INTERVAL) -> None:
        self._interval = interval
        self._lock = threading.Lock()
        self._watches: list[Watch] = []
        self._thread: threading.Thread | None = None
        self._ended = threading.Event()

    def watch(
        self, thread: int, identify: Identify, reported: Callable[[str, str, float, str], None] | None = None
    ) -> Watch:
        """Look at a thread (its ident) from now on."""
        watch = Watch(thread, identify, reported or _log)
        with self._lock:
            self._watches.append(watch)
            if self._thread is None:
                self._ended = threading.Event()
                self._thread = threading.Thread(
                    target=self._body, args=(self._ended,), name="vbox watchdog", daemon=True
                )
                self._thread.start()
        return watch

    def unwatch(self, watch: Watch) -> None:
        """Look no more; the thread ends with the last watch."""
        ended: threading.Thread | None = None
        with self._lock:
            self._watches = [other for other in self._watches if other is not watch]
            watch.frame = None
            if not self._watches and self._thread is not None:
                ended, self._thread = self._thread, None
                self._ended.set()
        if ended is not None and ended is not threading.current_thread():
            ended.join(1.0)

    def _body(self, ended: threading.Event) -> None:
        while not ended.wait(self._interval):
            frames = sys._current_frames()
            now = time.monotonic()
            with self._lock:
                for watch in self._watches:
                    try:
                        watch.look(frames.get(watch.thread), now)
                    except Exception:
                        log.exception("PDM: the watchdog failed")
            del frames  # they would keep everything alive that they hold


def _log(title: str, callback: str, seconds: float, stack: str) -> None:
    log.error("PDM: %s has been in %s for %.0f seconds:\n%s", title, callback, seconds, stack)


WATCHDOG = Watchdog()
"""The one of this process."""
