"""A session: a rig, perhaps with a twin, and the moves that are made with them.

A move is data, as a step is, so that a session that failed can be played again with fewer of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
from attrs import frozen

from vbox_pdm.errors import PdmError, StateError
from vbox_pdm.testing.conformance import twins
from vbox_pdm.testing.conformance.registers_check import (
    Target,
    check_access,
    check_identity,
    check_quiet,
    check_reset_values,
    identity,
)
from vbox_pdm.testing.conformance.rig import Rig, Subject
from vbox_pdm.testing.conformance.steps import Access, Advance, Enable, Life, Plug, Save, Step, StringAccess
from vbox_pdm.testing.conformance.violations import Hang, Violation


@frozen
class Do:
    """A step, on the rig and on its twin."""

    step: Step

    def play(self, session: Session) -> None:
        session.carry_out(self.step)


@frozen
class QuietRead:
    """A read of a register that has no effect: nothing changes, and bits that it has not stay."""

    step: Access
    target: Target

    def play(self, session: Session) -> None:
        rig, twin = session.rig, session.twin
        session.note(self.step)
        check_quiet(rig, self.target, self.step)
        session.note(self.step)
        value = rig.perform(self.step)[0]
        rig.log.pop()
        if value is not None:
            check_access(rig, self.step, value)
        if twin is not None:
            twin.perform(self.step)
            other = twin.perform(self.step)[0]
            if other != value:
                raise Violation("twin", f"{rig.log[-1][0]} is {value:#x}, and {other:#x} after loading")


@frozen
class Look:
    """A step that only looks (pdm_info, another device's read of CMOS): nothing changes."""

    step: Step

    def play(self, session: Session) -> None:
        before = session.rig.shot()
        session.carry_out(self.step)
        changed = twins.shot_difference(before, session.rig.shot(), set())
        if changed:
            raise Violation("quiet-read", f"{session.rig.log[-1][0]}: that changed {changed}")


@frozen
class WideRead:
    """A read over several registers of a byte, none of which has an effect: it is those bytes."""

    step: Access

    def play(self, session: Session) -> None:
        step, rig = self.step, session.rig
        wide = session.carry_out(step)[0]
        narrow = 0
        for at in range(step.size):
            byte = session.carry_out(Access(step.region, step.offset + at, 1))[0]
            narrow |= (byte or 0) << (8 * at)
        if wide is not None and wide != narrow:
            name = rig.name_of(step.region, step.offset, step.size, write=False)
            raise Violation(
                "widths", f"a read of {step.size} at {name} is {wide:#x}, its bytes are {narrow:#x}"
            )


@frozen
class Reset:
    """Hard reset, and a look whether all is as in a new device."""

    def play(self, session: Session) -> None:
        rig = session.rig
        before = rig.shot()
        session.carry_out(Life("reset"))
        session.drop_twin()
        twins.check_across(before, rig.shot())
        session.note(Life("reset"))
        rig.restart_ledger()
        twins.check_reset(rig)
        for number in range(len(rig.functions)):
            session.carry_out(Enable(number))
        at = len(rig.log)
        check_reset_values(rig, "after reset")
        del rig.log[at:]


@frozen
class Pause:
    """Suspend, `ns` pass, resume."""

    ns: int

    def play(self, session: Session) -> None:
        rig = session.rig
        session.carry_out(Life("suspend"))
        before = rig.shot(virtual_only=True)
        seen = session.carry_out(Advance(self.ns))
        after = rig.shot(virtual_only=True)
        if rig.comparable and (before.timers, before.lines) != (after.timers, after.lines):
            raise Violation("suspended", f"{self.ns} ns while suspended changed a timer or an interrupt line")
        heard = any(seen[at] for at in (1, 2, 3, 4, 5, 8))
        if rig.comparable and not rig.has_real_timers and heard:
            raise Violation(
                "suspended", f"{self.ns} ns while suspended were heard outside: {seen[1:9]!r:.200}"
            )
        session.carry_out(Life("resume"))


@frozen
class Fork:
    """From here on there is a twin that loaded what this one saved, once or more."""

    times: int = 1

    def play(self, session: Session) -> None:
        session.drop_twin()
        session.rig.log.append(
            ("save; from here on a twin that loaded it does the same", "bench.load(bench.save())")
        )
        session.note(Save())
        session.twin = twins.fork(session.rig, self.times)


FIELD = -1


@frozen
class Damage:
    """A state that cannot be loaded: at a fraction of its length cut off, or changed by `flip`; with a flip
    of FIELD one of its fields has another value."""

    at: float
    flip: int

    def play(self, session: Session) -> None:
        session.drop_twin()
        where = f"the field at {self.at:.0%}" if self.flip == FIELD else f"the byte at {self.at:.0%}"
        how = f"with {where} changed" if self.flip else f"cut off at {self.at:.0%}"
        session.rig.log.append((f"load a state {how}", ""))
        session.note(Save(load=True))
        twins.damage(session.rig, self.at, self.flip)


@frozen
class Replug:
    """Detach what is attached, attach what is not."""

    lun: int

    def play(self, session: Session) -> None:
        session.carry_out(Plug(self.lun, attach=not session.rig.plugged(self.lun)))


Move = Do | QuietRead | Look | WideRead | Reset | Pause | Fork | Damage | Replug


class Session:
    """`repeat`: at the end the same steps are tried on another rig."""

    def __init__(self, subject: Subject, config: Mapping[str, object], *, repeat: bool) -> None:
        self.subject = subject
        self.rig = Rig(subject, config)
        self.twin: Rig | None = None
        self.moves: list[Move] = []
        self.repeat = repeat
        self._config = config
        self._steps: list[Step] = []
        self._seen: list[Any] = []
        self._identities = [identity(function) for function in self.rig.functions]

    def play(self, move: Move) -> None:
        """Violation or Hang when a property does not hold; they get the session's moves and log."""
        self.moves.append(move)
        self._guarded(lambda: move.play(self))

    def end(self) -> None:
        """A repetition, and power off."""
        self._guarded(self._end)

    def abandon(self) -> None:
        """After a failure."""
        self.rig.abandon()
        if self.twin is not None:
            self.twin.abandon()

    def _end(self) -> None:
        if self.repeat and self.rig.comparable:
            twins.check_repeats(self.rig, self._steps, self._seen)
        self.drop_twin()
        self.rig.log.append(("power off, destruct", "bench.power_off()\nbench.destruct()"))
        self.rig.close()

    def _guarded(self, action: Callable[[], None]) -> None:
        try:
            try:
                action()
            except (Violation, Hang):
                raise
            except StateError as error:
                raise Violation("save-load", str(error)) from error
            except Exception as error:
                raise Violation("no-raise", f"{self.rig.log[-1][0]}: {error!r}") from error
        except (Violation, Hang) as error:
            self.abandon()
            error.log = list(self.rig.log)
            error.config = self.rig.config
            error.moves = list(self.moves)
            error.replay = (self._config, self.repeat)
            raise

    # --- for moves

    def carry_out(self, step: Step) -> tuple[Any, ...]:
        """A step, on both."""
        self.note(step)
        seen = self.rig.perform(step)
        self._seen[-1] = seen
        self.rig.check_own(self.rig.log[-1][0])
        if self.rig.comparable:
            self.rig.check_lines()
        if isinstance(step, Access) and step.value is None and seen[0] is not None:
            check_access(self.rig, step, seen[0])
        for function, before in zip(self.rig.functions, self._identities, strict=True):
            check_identity(function, before)
        if self.twin is not None:
            other = self.twin.perform(step)
            if other != seen:
                text = self.rig.log[-1][0]
                raise Violation("twin", f"{text}: {twins.difference(seen, other)} after loading")
        return seen

    def note(self, step: Step) -> None:
        """For the repetition: what is done by other means."""
        self._steps.append(step)
        self._seen.append(None)

    def drop_twin(self) -> None:
        """It has done its duty."""
        twin, self.twin = self.twin, None
        if twin is not None:
            twin.close(last=False)


def replay(
    subject: Subject, config: Mapping[str, object], moves: Sequence[Move], *, repeat: bool
) -> Violation | Hang | None:
    """Play moves on a new session; what went wrong."""
    try:
        session = Session(subject, config, repeat=repeat)
    except (Violation, Hang) as error:
        return error
    except PdmError:
        return None
    try:
        for move in moves:
            session.play(move)
        session.end()
    except (Violation, Hang) as error:
        return error
    return None


def simpler(move: Move) -> list[Move]:
    """The same move with smaller numbers, the smallest first."""
    if not isinstance(move, Do):
        return []
    step = move.step
    narrow: list[Move] = []
    if isinstance(step, Access) and step.size > 1:
        low = None if step.value is None else step.value & 0xFF
        narrow.append(Do(attrs.evolve(step, size=1, value=low)))
    if isinstance(step, Access) and step.value:
        bits = [step.value & (1 << bit) for bit in range(step.value.bit_length()) if step.value >> bit & 1]
        less = [0, *bits, *(step.value & ~bit for bit in bits)]
        values = [value for value in dict.fromkeys(less) if value != step.value]
        return narrow + [Do(attrs.evolve(step, value=value)) for value in values]
    if narrow:
        return list(narrow)
    if isinstance(step, StringAccess):
        counts = (1, 2, 8)
        if step.data is None:
            return [Do(attrs.evolve(step, count=n)) for n in counts if n < step.count]
        items = len(step.data) // step.size
        return [Do(attrs.evolve(step, data=step.data[: n * step.size])) for n in counts if n < items]
    if isinstance(step, Advance) and step.ns:
        return [Do(Advance(ns)) for ns in (1, 1000) if ns < step.ns]
    return []
