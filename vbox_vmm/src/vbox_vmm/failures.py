"""What plugins raise where they must not: in handlers, timers, queues, notifications.

The VM goes on.  Each kind of failure is in the log once, with the instance, what was called, and the
distribution to complain about.  An instance that keeps on failing is marked failed and the VM is
suspended with a runtime error that names it; another is due after as many failures again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Protocol

from vbox_pdm.helpers import RuntimeErrorFlags

log = logging.getLogger("vbox.PDM")

LIMIT = 64
"""After how many failures an instance counts as failed."""
_MOST_KINDS = 10_000


class Failing(Protocol):
    """Who fails: an instance of a device or driver."""

    @property
    def title(self) -> str: ...

    @property
    def distribution(self) -> str: ...


class Failures:
    """The failures of one VM's plugins."""

    def __init__(self, runtime_error: Callable[[RuntimeErrorFlags, str, str], None]) -> None:
        self._runtime_error = runtime_error
        self._seen: set[tuple[str, str, type[BaseException]]] = set()
        self.counts: dict[str, int] = {}
        """How often each instance failed, by title."""
        self.on_failure: Callable[[str, str, BaseException], None] | None = None
        """Told of each failure: title, what was called, error."""

    @property
    def failed(self) -> frozenset[str]:
        """The titles of instances that are marked failed."""
        return frozenset(title for title, count in self.counts.items() if count >= LIMIT)

    def report(self, instance: Failing | None, kind: str, where: str, error: BaseException) -> None:
        """`where` says what was called, for people; failures of the same `kind` (and type of error) are
        logged once.  Never raises."""
        title = instance.title if instance is not None else "(unknown)"
        distribution = (instance.distribution if instance is not None else "") or "unknown distribution"
        seen = (title, kind, type(error))
        if seen not in self._seen and len(self._seen) < _MOST_KINDS:
            self._seen.add(seen)
            log.error(
                "PDM: %s of %s failed in %s: %s: %s (further ones of this kind are not logged)",
                title, distribution, where, type(error).__name__, _text(error), exc_info=error,
            )  # fmt: skip
        if self.on_failure is not None:
            self.on_failure(title, where, error)
        count = self.counts[title] = self.counts.get(title, 0) + 1
        if count % LIMIT == 0:
            self._runtime_error(
                RuntimeErrorFlags.SUSPEND,
                "DeviceFailed",
                f"{title} of {distribution} failed {count} times, the last in {where}: "
                f"{type(error).__name__}: {_text(error)}",
            )

    def forget(self, title: str) -> None:
        """The instance is gone."""
        self.counts.pop(title, None)
        self._seen = {seen for seen in self._seen if seen[0] != title}


def access(size: int, name: str, offset: int, value: int | None) -> str:
    """An access for people, as `read of 1 at uart+0x5`; `value` is None for a read."""
    verb = f"read of {size}" if value is None else f"write of {size} ({value:#x})"
    return f"{verb} at {name}+{offset:#x}"


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:
        return "(its text cannot be had)"
