"""Executed instructions as the source of virtual time: the same guest finds the same time in each run.

TM's virtual clocks follow this clock in place of the host's (`TM/Source`), and the engine is told the count
at which the next timer is due in place of a host time.  Reference: what QEMU calls -icount.
"""

from __future__ import annotations

from vbox_pdm import PdmError
from vbox_pdm.engine import Engine, InstructionCounter
from vbox_vmm.tm_line import TscMapping


class InstructionClock:
    """`ns` for each instruction that the engine executes; `seed` is for the guest's random numbers (64 bits).
    Call `attach` before anything else."""

    def __init__(self, ns: int, seed: int = 0) -> None:
        self.ns = ns
        self.seed = seed
        self._engine: Engine | None = None
        self._counter: InstructionCounter | None = None
        self._last = 0  # of an engine that is gone

    def attach(self, engine: Engine | None) -> None:
        """Let the engine count from now on.  Raises PdmError VERR_NOT_SUPPORTED when it cannot."""
        if not isinstance(engine, InstructionCounter):
            who = "A VM without an engine" if engine is None else f"The engine {type(engine).__name__}"
            raise PdmError(
                "VERR_NOT_SUPPORTED",
                f"{who} counts no instructions, which TM/Source = instructions needs",
                "Choose another engine (CPUM/Engine = rem), or TM/Source = host",
            )
        self._engine = self._counter = engine
        engine.count_instructions(self.ns, self._last, self.seed)

    def detach(self) -> None:
        """The engine is about to be closed: the clock stands from now on."""
        self._last, self._engine, self._counter = self.executed, None, None

    @property
    def executed(self) -> int:
        """How many instructions the guest has executed."""
        return self._last if self._counter is None else self._counter.executed()

    @executed.setter
    def executed(self, count: int) -> None:
        """A saved state is loaded."""
        self._last = count
        if self._counter is not None:
            self._counter.count_instructions(self.ns, count, self.seed)

    def __call__(self) -> int:
        """The time in ns."""
        return self.executed * self.ns

    def set_tsc(self, mapping: TscMapping) -> None:
        """The line on which the TSC runs from now on, by this clock."""
        if self._engine is not None:
            self._engine.set_tsc(*mapping)

    def stop_at(self, when: int) -> None:
        """Have the engine leave the guest at the first block of code at or behind this time."""
        if self._counter is not None:
            self._counter.stop_at(max(0, min(-(-when // self.ns), (1 << 64) - 1)))
