"""Worker threads of drivers, as every host runs them.

A worker's function runs while the VM runs: it is started at power on, at resume and at attach, asked
to return (running turns False, `wake` is called) at suspend, power off and detach, and called again
at the next resume.  A function that returns by itself while `running` is over for good.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from vbox_pdm.helpers import Worker

_PATIENCE = 0.05
"""How long, in seconds, a woken function has before it is woken again: `wake` may have come just
before the function blocked."""


class WorkerThread:
    """A `Worker`.  `failed(error)` is called on its thread when the function raises."""

    def __init__(
        self,
        name: str,
        run: Callable[[Worker], None],
        wake: Callable[[], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        self.name = name
        self._run = run
        self._wake = wake
        self._failed = failed
        self.running = False
        """False once the function must return."""
        self._thread: threading.Thread | None = None
        self._over = False

    def start(self) -> None:
        """Run the function, unless it runs or is over."""
        if self._over or self._thread is not None:
            return
        self.running = True
        self._thread = threading.Thread(target=self._body, name=self.name, daemon=True)
        self._thread.start()

    def halt(self, timeout: float = 10.0) -> bool:
        """Ask the function to return and wait for it; False when it does not within `timeout`
        seconds (the thread is left behind)."""
        thread, self._thread = self._thread, None
        self.running = False
        if thread is None:
            return True
        if thread is threading.current_thread():
            return True
        for _ in range(max(1, int(timeout / _PATIENCE))):
            try:
                self._wake()
            except Exception as error:
                self._failed(error)
            thread.join(_PATIENCE)
            if not thread.is_alive():
                return True
        return False

    def stop(self) -> None:
        """End it for good: ask it, wake it up, wait for it."""
        self._over = True
        self.halt()

    def _body(self) -> None:
        try:
            self._run(self)
        except BaseException as error:
            self._failed(error)
        if self.running:
            self._over = True
