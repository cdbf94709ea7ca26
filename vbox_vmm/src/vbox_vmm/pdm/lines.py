"""Interrupt lines: ISA lines to the interrupt controller, INTx pins of PCI slots to the router.

Every line is shared: it is high while any of its owners holds it.  The controller hears of changes of
that OR only.  Raising a line is a hot path: an owner's handle does as little as possible and calls
the controller's method itself.

While a state is loaded nobody hears anything (`mute`): lines follow from the saved levels, and the
controller's own state already knows them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from vbox_pdm.helpers import PciRouter, Pic
from vbox_vmm.pdm.wires import Failed, IsaHandle, Report, make_line

ISA_LINES = 16


def _unheard(line: int, level: bool) -> None:
    """No controller."""


class IsaLines:
    """The sixteen ISA lines.

    `tap(line, level)` hears of changes before the controller.  `failed(where, error)` is told when the
    controller raises."""

    def __init__(self, failed: Failed, tap: Callable[[int, bool], None] | None = None) -> None:
        self._lines = [make_line(number, failed) for number in range(ISA_LINES)]
        self._handles: list[IsaHandle] = []
        self._tap = tap
        self._pic: Pic | None = None
        self._muted: Callable[[str], None] | None = None
        self._resolve()

    def handle(self, line: int) -> IsaHandle:
        """A new owner's handle on line 0..15, low."""
        handle = self._lines[line].handle()
        self._handles.append(handle)
        return handle

    def drop(self, handle: IsaHandle) -> None:
        """The owner is gone: it lets go."""
        handle.set(False)
        self._handles = [other for other in self._handles if other is not handle]

    def level(self, line: int) -> bool:
        """The OR over the owners."""
        return self._lines[line].holders > 0

    def lower_all(self) -> None:
        """Reset and power off: every owner lets go."""
        for handle in self._handles:
            handle.set(False)

    def connect(self, pic: Pic | None) -> None:
        """Who hears of changes from now on; a new controller hears of the lines that are high."""
        self._pic = pic
        self._resolve()
        if pic is not None:
            for line in self._lines:
                if line.holders:
                    pic.set_irq(line.number, True)

    def mute(self, instead: Callable[[str], None] | None) -> None:
        """Tell `instead` of changes and nobody else; None ends that."""
        self._muted = instead
        self._resolve()

    def _resolve(self) -> None:
        if self._muted is None:
            report = _chained(self._tap, self._pic.set_irq if self._pic is not None else None)
        else:
            report = self._report_muted
        for line in self._lines:
            line.report = report
            line.report_pulse = self._pulse

    def _pulse(self, line: int) -> None:
        if self._muted is not None:
            self._muted(f"ISA line {line} changed")
            return
        if self._tap is not None:
            self._tap(line, True)
            self._tap(line, False)
        if self._pic is not None:
            self._pic.pulse_irq(line)

    def _report_muted(self, line: int, level: bool) -> None:
        if self._muted is not None:
            self._muted(f"ISA line {line} changed")


def _chained(tap: Report | None, sink: Report | None) -> Report:
    if tap is None or sink is None:
        return tap or sink or _unheard

    def both(line: int, level: bool) -> None:
        tap(line, level)
        sink(line, level)

    return both


class IntxPins:
    """INTA#..INTD# of the 32 slots of bus 0.

    `owner` is any hashable thing that drives one pin at a time: a function.  `tap(slot, pin, level)`
    hears of changes before the router."""

    def __init__(self, failed: Failed, tap: Callable[[int, int, bool], None] | None = None) -> None:
        self._failed = failed
        self._tap = tap
        self._holders = [0] * 128
        self._held: dict[object, int] = {}  # owner -> index of the pin that it holds
        self._router: PciRouter | None = None
        self._muted: Callable[[str], None] | None = None

    def set(self, owner: object, slot: int, pin: int, level: bool) -> None:
        """`owner` in `slot` drives pin 0..3."""
        index = slot << 2 | pin
        held = self._held.get(owner)
        if level and held == index:
            return
        if held is not None:
            del self._held[owner]
            self._holders[held] -= 1
            if not self._holders[held]:
                self._changed(held, False)
        if level:
            self._held[owner] = index
            self._holders[index] += 1
            if self._holders[index] == 1:
                self._changed(index, True)

    def level(self, slot: int, pin: int) -> bool:
        """The OR over the functions of a slot."""
        return self._holders[slot << 2 | pin] > 0

    def connect(self, router: PciRouter | None) -> None:
        """Who hears of changes from now on, and of the pins that are high."""
        self._router = router
        if router is not None:
            for index, holders in enumerate(self._holders):
                if holders:
                    router.route(index >> 2, index & 3, True)

    def mute(self, instead: Callable[[str], None] | None) -> None:
        """Tell `instead` of changes and nobody else; None ends that."""
        self._muted = instead

    def load(self, driven: Mapping[object, tuple[int, int]]) -> None:
        """Take over who holds which (slot, pin); nobody hears of it."""
        self._held = {owner: slot << 2 | pin for owner, (slot, pin) in driven.items()}
        self._holders = [0] * 128
        for index in self._held.values():
            self._holders[index] += 1

    def _changed(self, index: int, level: bool) -> None:
        slot, pin = index >> 2, index & 3
        if self._muted is not None:
            self._muted(f"INT{'ABCD'[pin]}# of slot {slot} changed")
            return
        if self._tap is not None:
            self._tap(slot, pin, level)
        if self._router is not None:
            try:
                self._router.route(slot, pin, level)
            except Exception as error:
                self._failed(f"route({slot}, {pin}, {level})", error)
