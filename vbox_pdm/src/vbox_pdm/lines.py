"""Wires that several owners drive: ISA interrupt lines and the INTx pins of PCI slots.

A wire is high while any of its owners holds it high.  Hosts (kernel, bench) keep one `Wires` for the
ISA lines (keyed by line) and one for INTx (keyed by slot and pin).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class WireHandle(Generic[K]):
    """One owner's hold on a wire; an `IrqLine` for its device."""

    __slots__ = ("_level", "_wires", "wire")

    def __init__(self, wires: Wires[K], wire: K) -> None:
        self.wire = wire
        self._wires = wires
        self._level = False

    @property
    def level(self) -> bool:
        """What this owner drives."""
        return self._level

    def set(self, level: bool) -> None:
        """Drive the wire; `changed` of the wires is called when the OR over all owners changes."""
        if level != self._level:
            self._level = not self._level
            self._wires.count(self.wire, 1 if self._level else -1, report=True)

    def pulse(self) -> None:
        """High, then low: one edge, unless the wire is held high by another owner."""
        if self._level or not self._wires.pulse(self.wire):
            self.set(True)
            self.set(False)

    def load(self, level: bool) -> None:
        """Take over a saved level; nobody is told."""
        if level != self._level:
            self._level = not self._level
            self._wires.count(self.wire, 1 if self._level else -1, report=False)


class Wires(Generic[K]):
    """All wires of one kind.  `changed(wire, level)` hears of each change of an OR; `pulsed(wire)` of a
    low wire that went high and low again, by default that is two changes."""

    def __init__(self, changed: Callable[[K, bool], None], pulsed: Callable[[K], None] | None = None) -> None:
        self._changed = changed
        self._pulsed = pulsed
        self._holders: dict[K, int] = {}
        self._handles: list[WireHandle[K]] = []

    def handle(self, wire: K) -> WireHandle[K]:
        """A new owner's handle on `wire`, low."""
        handle = WireHandle(self, wire)
        self._handles.append(handle)
        return handle

    def drop(self, handle: WireHandle[K]) -> None:
        """The owner is gone; its handle goes low and is forgotten."""
        handle.set(False)
        self._handles = [other for other in self._handles if other is not handle]

    def level(self, wire: K) -> bool:
        """The OR over the owners of `wire`."""
        return self._holders.get(wire, 0) > 0

    def lower_all(self) -> None:
        """What a host does at reset and power off: every owner lets go."""
        for handle in self._handles:
            handle.set(False)

    def pulse(self, wire: K) -> bool:
        """For handles: tell `pulsed`; False when nobody wants to know or the wire is high."""
        if self._pulsed is None or self.level(wire):
            return False
        self._pulsed(wire)
        return True

    def count(self, wire: K, change: int, *, report: bool) -> None:
        """For handles: one holder more or less."""
        before = self._holders.get(wire, 0)
        self._holders[wire] = before + change
        if report and (before == 0) != (before + change == 0):
            self._changed(wire, before == 0)
