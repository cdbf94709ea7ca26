"""Comparing two rigs: one that loaded what the other saved, one that is new, one that repeats."""

from __future__ import annotations

import enum
import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import attrs

from vbox_pdm.errors import StateError
from vbox_pdm.state import State, encode
from vbox_pdm.testing.conformance import internals, neighbours
from vbox_pdm.testing.conformance.rig import Rig, Shot
from vbox_pdm.testing.conformance.steps import Step
from vbox_pdm.testing.conformance.violations import Violation
from vbox_pdm.timers import Clock
from vbox_pdm.units import state_of


def fork(rig: Rig, times: int = 1) -> Rig:
    """A twin that loaded what `rig` saves, `times` times.  Violation "save-quiet", "save-load", or whatever
    loading breaks."""
    rig.calm()
    running = rig.bench.state == "running"
    if running:
        with rig.watch.step("suspend"):
            rig.bench.suspend()
        rig.check_suspended()
    with rig.watch.step("save"):
        saved = rig.bench.save()
        again = rig.bench.save()
    rig.check("save")
    _same_units("save-quiet", "saving twice gives", saved, again)
    rig.keep_state()
    twin = Rig(rig.subject, rig.config, twin_of=rig, later=True)
    try:
        for _ in range(times):
            _load(twin, rig, saved)
        if running:
            for one in (rig, twin):
                with one.watch.step("resume"):
                    one.bench.resume()
                one.check("resume")
    except BaseException:
        twin.abandon()
        raise
    return twin


def _load(twin: Rig, rig: Rig, saved: Mapping[str, bytes]) -> None:
    if twin.bench.state == "running":
        with twin.watch.step("suspend"):
            twin.bench.suspend()
    try:
        with twin.watch.step("load"):
            twin.bench.load(saved)
    except StateError as error:
        raise Violation("save-load", f"what was saved cannot be loaded: {error}") from error
    twin.check("load")
    told = _told_otherwise(twin, rig)
    if told:
        raise Violation("save-load", f"{told} after a load")
    twin._follow(rig)
    twin.host.random.setstate(rig.host.random.getstate())
    twin.trace.clear()
    with twin.watch.step("save"):
        again = twin.bench.save()
    _same_units("save-load", "loading and saving gives", saved, again)
    here, there = rig.shot(), twin.shot()
    if here.lines != there.lines:
        raise Violation("save-load", "interrupt lines are others after a load")
    if here.machine != there.machine:
        raise Violation("save-load", f"of the machine {here.machine} became {there.machine} by a load")
    other = internals.difference(rig.remembers(), twin.remembers())
    if other:
        raise Violation("memory", f"not in the saved state, or not loaded: {other}")


def _told_otherwise(rig: Rig, model: Rig) -> str:
    """What a device told its neighbours and this one did not; who is a filter only passes such things on."""
    if rig.subject.is_filter:
        return ""
    them = ((rig.neighbours[n], model.neighbours[n]) for n in rig.neighbours if rig.plugged(n))
    return next(filter(None, (neighbours.told_otherwise(one, other) for one, other in them)), "")


def damage(rig: Rig, at: float, flip: int) -> None:
    """Load a state whose own unit is damaged at a place (a fraction of its length); `flip` 0 cuts it off
    there.  Violation "bad-state" unless it is refused, or taken for another good state."""
    rig.calm()
    running = rig.bench.state == "running"
    if running:
        with rig.watch.step("suspend"):
            rig.bench.suspend()
    saved = rig.bench.save()
    unit = rig.host.owned[rig.instance].unit
    if unit in saved:
        data = _damaged(rig, bytearray(saved[unit]), at, flip)
        try:
            with rig.watch.step("load of a damaged state"):
                rig.bench.load({**saved, unit: bytes(data)})
        except StateError:
            _same_units("bad-state", "after a refused state", saved, rig.bench.save())
        except Exception as error:
            raise Violation("bad-state", f"a damaged state raised {error!r}") from error
        with rig.watch.step("load"):
            rig.bench.load(saved)
        rig.check("load of a damaged state")
    if running:
        with rig.watch.step("resume"):
            rig.bench.resume()
        rig.check("resume")


def _damaged(rig: Rig, data: bytearray, at: float, flip: int) -> bytearray:
    state = state_of(rig.instance)
    if flip < 0 and state is not None:
        return bytearray(encode(_odd(state, at, random.Random(at))))
    where = min(int(at * len(data)), len(data) - 1)
    if flip:
        data[where] ^= flip
    else:
        del data[where:]
    return data


def _odd(value: Any, at: float, chance: random.Random) -> Any:
    """Another value of the same type, such as no device saves; of a state, with another field."""
    if isinstance(value, State):
        names = [attribute.name for attribute in attrs.fields(type(value))]
        if not names:
            return value
        name = names[int(at * len(names))]
        return attrs.evolve(value, **{name.lstrip("_"): _odd(getattr(value, name), chance.random(), chance)})
    if isinstance(value, tuple) and value and chance.random() < 0.7:
        index = int(at * len(value))
        return (*value[:index], _odd(value[index], chance.random(), chance), *value[index + 1 :])
    if isinstance(value, bool):
        return not value
    if isinstance(value, int) and not isinstance(value, enum.Enum):
        return chance.choice([-1, 1 << 40, value + 1, value ^ 0x80])
    if type(value) in (bytes, str, tuple):
        return chance.choice([value[:0], value[:-1], value + value[:1], value * 2])
    return value


def _same_units(prop: str, what: str, first: Mapping[str, bytes], second: Mapping[str, bytes]) -> None:
    for name in first.keys() | second.keys():
        if first.get(name) != second.get(name):
            raise Violation(prop, f"{what} another unit {name}: {_where(first.get(name), second.get(name))}")


def _where(first: bytes | None, second: bytes | None) -> str:
    if first is None or second is None:
        return "only one has it"
    at = next((i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), None)
    at = min(len(first), len(second)) if at is None else at
    name = _field_before(first, at)
    return f"from byte {at} on{name}"


def _field_before(data: bytes, at: int) -> str:
    """The field's name that stands last before `at`: names are in the encoding."""
    best = ""
    for start in range(max(0, at - 200), at):
        length = data[start]
        name = data[start + 1 : start + 1 + length]
        if 1 < length < 40 and start + 1 + length <= at + 6 and name.isascii():
            text = name.decode()
            if text.isidentifier():
                best = text
    return f", near field '{best}'" if best else ""


# --- resets


def check_reset(rig: Rig) -> None:
    """After a reset: as a new device that is reset at the same time; lines low; twice is once."""
    held = [line for line in range(16) if rig.bench.irq(line)]
    if held and any(rig.shot().lines):
        raise Violation("lines-low", f"after reset ISA line {held[0]} is held")
    if any(function.irq_level for function in rig.functions):
        raise Violation("lines-low", "after reset the PCI interrupt is held")
    first = rig.shot()
    with rig.watch.step("a second reset"):
        rig.bench.reset()
    rig.check("a second reset")
    second = rig.shot()
    if first != second:
        raise Violation("reset-twice", f"the second reset changes {shot_difference(first, second, set())}")
    if not rig.comparable:
        return
    fresh = Rig(rig.subject, rig.config, twin_of=rig)
    try:
        with fresh.watch.step("time passes"):
            virtual, real = rig.host.clock(Clock.VIRTUAL), rig.host.clock(Clock.REAL)
            fresh.bench.advance(virtual)
            fresh.bench.suspend()
            fresh.bench.advance(real - virtual)
            fresh.bench.resume()
            if rig.bench.state == "suspended":
                fresh.bench.suspend()
            fresh._follow(rig)
            fresh.bench.reset()
            fresh.bench.reset()
        fresh.check("reset")
        told = _told_otherwise(rig, fresh)
        if told:
            raise Violation("reset-state", f"in a new device {told} after a reset")
        skip = across(first.state)
        new = fresh.shot()
        if rig.subject.is_driver:  # what a driver does on the host goes on
            difference = "; ".join(state_difference(new.state, second.state, skip))
        else:
            difference = shot_difference(new, second, skip)
        if difference:
            raise Violation("reset-state", f"after a reset it is not as a new device: {difference}")
        if not rig.subject.is_driver:
            kept = {name.rpartition(".")[2].lstrip("_") for name in skip}
            other = internals.difference(fresh.remembers(), rig.remembers(), kept)
            if other:
                raise Violation("memory", f"a reset does not bring back {other}")
        fresh.close(last=False)
    except BaseException:
        fresh.abandon()
        raise


def check_across(before: Shot, after: Shot) -> None:
    """What survives a reset is what it was."""
    for name in across(before.state):
        one, other = _field(before.state, name), _field(after.state, name)
        if one != other:
            raise Violation(
                "reset-state", f"{name} survives a reset, and became {other!r:.80} from {one!r:.80}"
            )


def _field(state: Any, name: str) -> Any:
    """A field by its dotted name; of each of several nested states."""
    values = [state]
    for part in name.split("."):
        values = [
            getattr(one, part)
            for value in values
            for one in (value if isinstance(value, tuple) else (value,))
            if hasattr(one, part)
        ]
    return values


def across(state: State | None) -> set[str]:
    """Dotted names of the fields that survive a reset."""
    found: set[str] = set()
    if state is None:
        return found

    def visit(one: State, prefix: str) -> None:
        for attribute in attrs.fields(type(one)):
            name = prefix + attribute.name
            if attribute.name in type(one).across_reset:
                found.add(name)
            value = getattr(one, attribute.name)
            for part in value if isinstance(value, tuple) else (value,):
                if isinstance(part, State):
                    visit(part, name + ".")

    visit(state, "")
    return found


def shot_difference(one: Any, other: Any, skip: set[str]) -> str:
    """What differs between two shots, for people; empty when nothing does.  (PCI configuration of a
    device in reset is the host's.)"""
    found = state_difference(one.state, other.state, skip)
    if one.timers != other.timers:
        found.append(f"timers {one.timers} and {other.timers}")
    if one.lines != other.lines:
        found.append(f"interrupt lines {one.lines} and {other.lines}")
    if one.machine != other.machine:
        found.append(f"A20, INTR, NMI mask, shadows {one.machine} and {other.machine}")
    return "; ".join(found)


def state_difference(one: Any, other: Any, skip: set[str], name: str = "") -> list[str]:
    """The fields in which two states differ."""
    if isinstance(one, State) and type(one) is type(other):
        return [
            text
            for attribute in attrs.fields(type(one))
            if (where := name + attribute.name) not in skip
            for text in state_difference(
                getattr(one, attribute.name), getattr(other, attribute.name), skip, where
                + ("." if _has_states(getattr(one, attribute.name)) else ""),
            )
        ]  # fmt: skip
    if _has_states(one) and isinstance(other, tuple) and len(one) == len(other):
        return [text for a, b in zip(one, other, strict=True) for text in state_difference(a, b, skip, name)]
    return [] if one == other else [f"{name.rstrip('.')}: {one!r:.120} and {other!r:.120}"]


def _has_states(value: Any) -> bool:
    return isinstance(value, State) or (
        isinstance(value, tuple) and any(isinstance(part, State) for part in value)
    )


# --- the same once more


def check_repeats(rig: Rig, steps: Sequence[Step], seen: Iterable[Any]) -> None:
    """The same steps on another rig show the same."""
    other = Rig(rig.subject, rig.config)
    try:
        for step, wanted in zip(steps, seen, strict=True):
            got = other.perform(step)
            if wanted is not None and got != wanted:
                text = step.text(other)
                raise Violation("deterministic", f"{text}: {difference(wanted, got)}")
        other.close(last=False)
    except BaseException:
        other.abandon()
        raise


_PARTS = (
    "the answer",
    "what neighbours were told",
    "ISA lines",
    "PCI pins",
    "messages",
    "INTR",
    "resets asked for",
    "errors told",
    "memory written",
    "NMIs",
    "the exit code",
    "A20",
)


def difference(one: Sequence[Any], other: Sequence[Any]) -> str:
    """What differs between two observations."""
    for name, a, b in zip(_PARTS, one, other, strict=True):
        if a != b:
            return f"{name} is {_short(a)} and {_short(b)}"
    return "nothing"


def _short(value: Any) -> str:
    text = f"{value:#x}" if isinstance(value, int) and not isinstance(value, bool) else repr(value)
    return text if len(text) < 160 else text[:160] + "..."
