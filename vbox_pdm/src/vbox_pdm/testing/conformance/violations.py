"""The properties that the kit checks, and how it says that one does not hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PROPERTIES = {
    "constructs": "The type is made, powered on and destructed with its default configuration",
    "config-unknown": "An unknown configuration key is refused with an error that names it",
    "config-range": "Values in a key's range are accepted, or refused with a PdmError; others are refused",
    "construct-fails": "A construct that fails says why, destruct does not raise, and no file is changed",
    "no-raise": "No handler, timer, queue or notification raises",
    "no-hang": "One access, timer step or notification is over in bounded time",
    "fits": "A read handler returns an int that fits the size of the access",
    "reset-values": "After power on and after reset a register reads what its map declares",
    "bits": "Bits outside a register's `bits` read as in its `reset`",
    "quiet-read": "Reading a register without a declared effect changes nothing",
    "widths": "A wide read of registers without effects is what its bytes are",
    "reset-state": "A reset makes all state but `across_reset` what it is in a new device",
    "reset-twice": "A second reset changes nothing",
    "lines-low": "After reset and power off no interrupt line is held",
    "line-is-state": "Interrupt lines depend on the state alone: equal states drive equal levels",
    "save-quiet": "Saving changes nothing, and saving again gives the same bytes",
    "save-load": "Loading a saved state and saving again gives the same bytes",
    "twin": "A device that loaded a state behaves as the one that saved it",
    "memory": "All that a device remembers is saved, and reset, or named in its `transient`",
    "alias": "A saved state shares nothing with the device: it stays as it was saved",
    "bad-state": "A damaged state is refused with a StateError and leaves the device as it was",
    "bus-master": "No access to memory without bus mastering",
    "dma-released": "Memory that was held for a transfer is released at the end",
    "suspended": "A suspend waits for requests; while suspended virtual time brings nothing about",
    "pci": "Read-only configuration stays, BARs size and decode, the capability list is whole",
    "requests": "Each request is completed exactly once, and what it says fits what was asked",
    "errors": "What fails below is not reported above as done",
    "content": "What was written is read back",
    "layer": "A neighbour gets no more than it has room for, and is asked for what it has",
    "carried": "What goes into a driver comes out at its other end: whole, once and in order",
    "thread": "Neighbours are called on the machine's thread, never by a worker",
    "transparent": "A filter passes on all that it does not declare to change",
    "own": "A property that the author gave (`Setup.invariants`, `Setup.exercises`)",
    "deterministic": "The same seed and steps give the same results",
    "no-output": "Nothing is written to standard output or standard error",
    "no-threads": "No thread is started but by helpers.worker, and none is left at the end",
    "no-files": "No file, socket or pipe is left open at the end",
    "no-host-time": "Time and randomness come from the helpers alone",
    "no-globals": "Nothing global is changed: environment, signals, folder, randomness, module path",
    "destruct": "Nothing is raised at the end of an instance",
}
"""Name and meaning of each."""


class _Found:
    """Where a session was when it found it; filled in by the session."""

    prop: str
    text: str

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)
        self.log: list[tuple[str, str]] = []
        """Text and code of the steps."""
        self.config: Mapping[str, object] = {}
        self.moves: list[Any] = []
        self.replay: tuple[Mapping[str, object], bool] = ({}, False)
        """Configuration and `repeat` of the session."""


class Violation(_Found, AssertionError):
    """A property does not hold."""

    def __init__(self, prop: str, text: str) -> None:
        super().__init__(prop, text)
        assert prop in PROPERTIES, prop
        self.prop = prop
        self.text = text

    def __str__(self) -> str:
        return f"{PROPERTIES[self.prop]} [{self.prop}]: {self.text}"


class Hang(_Found, BaseException):
    """Raised in the middle of what takes too long.  No Exception, so that neither a plugin that
    catches those nor hypothesis takes it for an ordinary failure and tries it again."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.prop = "no-hang"
        self.text = text
