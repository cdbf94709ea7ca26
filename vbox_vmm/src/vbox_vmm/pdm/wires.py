"""What an interrupt passes on its way: a line with several owners, a wire with one, and INTR, which is one.

Raising a line is a hot path, often run with cold caches: so there is a native twin, `_wires`, which does the
same without a frame of Python; `make_line` and `make_wire` take it where it was built.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from vbox_pdm.helpers import IrqLine

Report = Callable[[int, bool], object]
ReportPulse = Callable[[int], object]
Failed = Callable[[str, Exception], None]


class IsaHandle(IrqLine, Protocol):
    """One owner's hold on a line."""

    @property
    def number(self) -> int:
        """The line's number."""

    def load(self, level: bool, /) -> None:
        """Take over a saved level; nobody hears of it."""


class Line(Protocol):
    """A line: high while any of its owners holds it."""

    report: Report
    """Hears of changes, with the line's number."""
    report_pulse: ReportPulse
    """Hears of an edge on a line that nobody holds."""

    @property
    def number(self) -> int:
        """What it is called."""

    @property
    def holders(self) -> int:
        """How many owners hold it high."""

    def handle(self) -> IsaHandle:
        """A new owner's, low."""


class Wire(Protocol):
    """A level that one drives and one hears."""

    level: bool
    hears: Callable[[bool], object]
    """Called when the level changes."""

    def set(self, level: bool, /) -> None:
        """Drive it."""


class PlainLine:
    """A line in Python.  What a report raises is told to `failed` (where, the error): it is the
    controller's fault, not the caller's."""

    def __init__(self, number: int, failed: Failed) -> None:
        self.number = number
        self.holders = 0
        self.failed = failed
        self.report: Report
        self.report_pulse: ReportPulse

    def handle(self) -> PlainHandle:
        """A new owner's."""
        return PlainHandle(self)


class PlainHandle:
    """A hold on a line in Python."""

    __slots__ = ("_line", "level")

    def __init__(self, line: PlainLine) -> None:
        self._line = line
        self.level = False

    @property
    def number(self) -> int:
        """The line's number."""
        return self._line.number

    def set(self, level: bool, /) -> None:
        """Drive the line."""
        level, line = bool(level), self._line
        if level is self.level:
            return
        self.level = level
        line.holders += 1 if level else -1
        if line.holders != level:
            return  # others hold it, too
        try:
            line.report(line.number, level)
        except Exception as error:
            line.failed(f"set_irq({line.number}, {level})", error)

    def pulse(self) -> None:
        """High, then low: one edge, unless the line is held high by another owner."""
        line = self._line
        if self.level:
            self.set(False)
        elif not line.holders:
            try:
                line.report_pulse(line.number)
            except Exception as error:
                line.failed(f"pulse_irq({line.number})", error)

    def load(self, level: bool, /) -> None:
        """Take over a saved level."""
        level = bool(level)
        self._line.holders += level - self.level
        self.level = level


class PlainWire:
    """A wire in Python."""

    def __init__(self, hears: Callable[[bool], object]) -> None:
        self.level = False
        self.hears = hears

    def set(self, level: bool, /) -> None:
        """Drive it."""
        level = bool(level)
        if level is not self.level:
            self.level = level
            self.hears(level)


def make_line(number: int, failed: Failed) -> Line:
    """A line that nobody holds, and of which nobody hears before `report` and `report_pulse` are set."""
    try:
        from vbox_vmm.pdm._wires import Line as NativeLine
    except ImportError:  # there was no compiler
        return PlainLine(number, failed)
    return NativeLine(number, failed)


def make_wire(hears: Callable[[bool], object]) -> Wire:
    """A wire that is low."""
    try:
        from vbox_vmm.pdm._wires import Wire as NativeWire
    except ImportError:
        return PlainWire(hears)
    return NativeWire(hears)


class Intr:
    """The CPU's INTR, as the interrupt controller drives it (`vbox_pdm.helpers.PicHelpers`)."""

    def __init__(self, drive: Callable[[bool], None]) -> None:
        self._drive = drive
        self._wire = make_wire(drive)
        self.interrupt = self._wire.set
        """Drive INTR; the CPU hears of changes."""

    @property
    def level(self) -> bool:
        """What is driven."""
        return self._wire.level

    @level.setter
    def level(self, level: bool) -> None:
        self._wire.level = level

    def mute(self, instead: Callable[[str], None] | None) -> None:
        """Tell `instead` of changes, not the CPU; None ends that."""
        self._wire.hears = self._drive if instead is None else lambda level: instead("INTR changed")

    def load(self, level: bool) -> None:
        """A saved level; the CPU has no other way to know of it."""
        self.level = level
        self._drive(level)
