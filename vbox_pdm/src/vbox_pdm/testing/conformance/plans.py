"""Which steps to try on an instance, drawn from what it declares.

hypothesis gives a rule of the machine one seed, and a `Plan` makes the steps of it: a choice of
hypothesis costs as much time as a step.  What neighbours say is drawn by strategies (traffic.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from random import Random
from typing import TypeVar

from hypothesis import strategies as st

from vbox_pdm.drive import Drive
from vbox_pdm.media import Media
from vbox_pdm.regions import Ports
from vbox_pdm.registers import Register
from vbox_pdm.testing.conformance import neighbours
from vbox_pdm.testing.conformance.registers_check import Target, targets
from vbox_pdm.testing.conformance.rig import Rig
from vbox_pdm.testing.conformance.steps import (
    ABOVE,
    Access,
    Acknowledge,
    Action,
    Advance,
    Calm,
    Cmos,
    Configure,
    Down,
    Enable,
    Exercise,
    Flip,
    Info,
    Line,
    Memory,
    Mood,
    Prepare,
    Request,
    Step,
    StringAccess,
    Up,
)
from vbox_pdm.testing.conformance.traffic import calls, counting, drive_asks
from vbox_pdm.testing.conformance.watched_host import Watched

Plan = Callable[[Random], Step]
"""Makes a step of chance."""
Steps = st.SearchStrategy[Step]
T = TypeVar("T")
TABLE = 0x1000
"""Where in RAM the kit likes to put tables."""
_PLACES = [TABLE, TABLE + 16, 0x2000, 0x8000, 0xF0000, 0xFFFF0, 0xFFFFF, 0x100000, 0xE0000000, 0xFEC00000]
_TOPS = [0xFFFFFFF0, 0xFFFFFFFC, 0xFFFFFFFF, 0xFFFFF000]
_PCI_OFFSETS = [0x04, 0x06, 0x0C, 0x10, 0x14, 0x18, 0x1C, 0x20, 0x24, 0x30, 0x3C, 0x3D]
_TABLES = [0, 1, 4, 64, 512, 0x80000000, 0x80000200, 0xFFFF, 0x10000, 0xFFFFFFFF]
_BURSTS = [17, 70, 260, 800]
"""How often something is repeated: behind the end of a FIFO, of a table, of a counter."""


def either(options: Sequence[st.SearchStrategy[T]]) -> st.SearchStrategy[T]:
    """One of them, each as often as it is listed.  (`st.one_of` takes those within its options apart, so
    that what has many options inside is chosen more often.)

    Chosen by number: hypothesis writes a strategy down whenever it passes over a rule, and all that is
    in ours would be megabytes."""
    table = list(options)
    return st.sampled_from(range(len(table))).flatmap(lambda chosen: table[chosen])


def acts(rig: Rig) -> Plan:
    """All but what neighbours say, the interesting more often."""
    options: list[tuple[int, Plan | None]] = [
        (4, time),
        (1, (lambda chance: Info()) if rig.instance.implements("pdm_info") else None),
        (12, accesses(rig)),
        (_pci_weight(rig), configuration(rig)),
        (6, actions(rig)),
        (1, exercises(rig)),
        (4, wires(rig.subject.roles)),
        (2, memory(rig) if rig.functions or rig.regions else None),
    ]
    return _weighted(options)


def _weighted(options: Sequence[tuple[int, Plan | None]]) -> Plan:
    plans = [plan for _, plan in options if plan is not None]
    weights = [weight for weight, plan in options if plan is not None]
    return lambda chance: chance.choices(plans, weights)[0](chance)


def _pci_weight(rig: Rig) -> int:
    """More where a function has registers of its own in configuration space."""
    own = sum(function.writable(at) for function in rig.functions for at in range(0x40, 0x100))
    return 2 + min(own, 8) if rig.regions else 12


# --- registers


def value_of(chance: Random, register: Register | None, size: int, places: list[int]) -> int:
    """A value to write: fields alone, all, none, named ones, addresses, anything."""
    top = (1 << (8 * size)) - 1
    way = chance.randrange(8)
    if register is not None and register.values and way >= 5:
        return chance.choice(list(register.values))
    if register is not None and register.fields and way in (2, 3, 5):
        masks = [register.mask(name) & top for name in register.fields]
        if way == 2:
            return chance.choice(masks)
        some = chance.sample(masks, chance.randint(0, len(masks)))
        return _union(mask if way == 3 else mask & chance.getrandbits(64) for mask in some)
    if size >= 4 and way == 6:
        return chance.choice(places) & top
    if way in (0, 7):
        return chance.choice((0, 1, top, top >> 1, (top >> 1) + 1, 0x55 & top, 0xAA & top))
    return chance.randrange(32) & top if way == 1 else chance.getrandbits(8 * size)


def _union(masks: Iterable[int]) -> int:
    result = 0
    for mask in masks:
        result |= mask
    return result


def accesses(rig: Rig) -> Plan | None:
    """Reads and writes of registers, and of anything in a region at any width and alignment."""
    places = places_of(rig)
    regions = [
        (_region_weight(number, watched), _region(number, watched, places))
        for number, watched in enumerate(rig.regions)
    ]
    return _weighted(regions) if regions else None


def _region_weight(number: int, watched: Watched) -> int:
    """By how much there is to try."""
    known = targets(number, watched, write=True) + targets(number, watched, write=False)
    named = {len(t.register.values) for t in known if t.register is not None}
    return 2 + (len(known) + sum(named)).bit_length()


def _region(number: int, watched: Watched, places: list[int]) -> Plan:
    reads, writes = targets(number, watched, write=False), targets(number, watched, write=True)
    both = [target for target in writes if target in reads]
    options: list[tuple[int, Plan | None]] = [
        (3, _reads(reads) if reads else None),
        (6, _writes(writes, places) if writes else None),
        (1, _flips(both) if both else None),
        (2, _anywhere(number, watched, places)),
    ]
    if isinstance(watched.region, Ports):
        blocks = watched.region.read_string is not None or watched.region.write_string is not None
        options.append((3 if blocks else 1, _strings(number, watched, blocks=blocks)))
    return _weighted(options)


def _reads(found: list[Target]) -> Plan:
    def plan(chance: Random) -> Step:
        target = chance.choice(found)
        return Access(target.region, target.offset, target.size)

    return plan


def _writes(found: list[Target], places: list[int]) -> Plan:
    def plan(chance: Random) -> Step:
        target = chance.choice(found)
        value = value_of(chance, target.register, target.size, places)
        return Access(target.region, target.offset, target.size, value)

    return plan


def _flips(found: list[Target]) -> Plan:
    """As drivers do: what is read, with a little changed, is written."""

    def plan(chance: Random) -> Step:
        target = chance.choice(found)
        bits = 1 << chance.randrange(8 * target.size)
        if target.register is not None and target.register.fields and chance.random() < 0.7:
            name = chance.choice(list(target.register.fields))
            bits = target.register.mask(name) & ((1 << 8 * target.size) - 1)
        return Flip(target.region, target.offset, target.size, bits)

    return plan


def _anywhere(number: int, watched: Watched, places: list[int]) -> Plan:
    size = watched.region.size

    def plan(chance: Random) -> Step:
        offset = chance.randrange(min(size, 64) if chance.random() < 0.5 else size)
        width = chance.choice(watched.sizes)
        if chance.random() < 0.33:
            return Access(number, offset, width)
        value = chance.choice(places) if chance.random() < 0.5 else chance.getrandbits(64)
        return Access(number, offset, width, value & ((1 << (8 * width)) - 1))

    return plan


def _strings(number: int, watched: Watched, *, blocks: bool) -> Plan:
    reach = min(watched.region.size, 16)
    long, often = ([128, 256, 300], 0.3) if blocks else (_BURSTS, 0.15)

    def plan(chance: Random) -> Step:
        offset = 0 if blocks and chance.random() < 0.5 else chance.randrange(reach)
        size = chance.choice((1, 1, 2, 4))
        count = chance.choice(long) if chance.random() < often else chance.randint(1, 8)
        if chance.random() < 0.5:
            return StringAccess(number, offset, size, count)
        return StringAccess(number, offset, size, data=counting(chance.getrandbits(8), size * count))

    return plan


def places_of(rig: Rig) -> list[int]:
    """Addresses that a guest may hand out: RAM, holes, the top, the device's own registers."""
    found = [*_PLACES, *_TOPS]
    for index in range(len(rig.regions)):
        ports, base = rig.place(index, 0)
        if not ports and base is not None:
            found.append(base)
    return found


def memory(rig: Rig) -> Plan:
    """Tables in RAM: dwords that are addresses, lengths, flags, or anything."""
    places = [place & 0xFFFFFFFF for place in places_of(rig)]

    def plan(chance: Random) -> Step:
        words = [
            chance.choice(chance.choice((places, _TABLES)))
            if chance.random() < 0.67
            else chance.getrandbits(32)
            for _ in range(chance.randint(1, 8))
        ]
        at = chance.choice((TABLE, TABLE, TABLE + 16, 0x2000, 0x8000))
        return Memory(at, b"".join(word.to_bytes(4, "little") for word in words))

    return plan


def configuration(rig: Rig) -> Plan | None:
    """Accesses to configuration space, and what firmware does."""
    if not rig.functions:
        return None
    own = [
        (number, at)
        for number, function in enumerate(rig.functions)
        for at in range(0x40, 0x100)
        if function.writable(at)
    ]
    places = [0, 0xFFFFFFFF, 7, 0x407, *[place & 0xFFFFFFFF for place in places_of(rig)]]

    def plan(chance: Random) -> Step:
        number, size = chance.randrange(len(rig.functions)), chance.choice((1, 2, 4))
        if chance.random() < (0.3 if own else 0.6):
            return Enable(number, chance.choice((7, 7, 7, 3, 0x407, 0, 1, 2)))
        if own and chance.random() < 0.6:
            number, at = chance.choice(own)
        else:
            at = chance.choice(_PCI_OFFSETS) if chance.random() < 0.5 else chance.randrange(256)
        at &= ~(size - 1)
        if chance.random() < 0.25:
            return Configure(number, at, size)
        value = chance.choice(
            (
                chance.choice(places),
                chance.getrandbits(32),
                1 << chance.randrange(8 * size),
                chance.randrange(32),
            )
        )
        return Configure(number, at, size, value & ((1 << (8 * size)) - 1))

    return plan


# --- the rest of the machine


def time(chance: Random) -> Step:
    """Clock steps."""
    way = chance.randrange(3)
    if way == 0:
        return Advance(None)
    return Advance(10 ** chance.randrange(8) if way == 1 else chance.randrange(3_000_000))


def wires(roles: frozenset[str]) -> Plan | None:
    """What other devices do with one that plays a role for them."""
    options: list[tuple[int, Plan | None]] = []
    if roles & {"pic", "pci router"}:
        options += [
            (1, lambda chance: Line(chance.randrange(16), chance.random() < 0.5)),
            (1, lambda chance: Line(chance.randrange(4), chance.random() < 0.5, slot=True)),
            (1, lambda chance: Acknowledge()),
        ]
    if "dmac" in roles:
        chunks = (1, 2, 3, 64, 1 << 20)
        options.append(
            (2, lambda chance: Request(chance.choice((1, 5)), chance.random() < 0.5, chance.choice(chunks)))
        )
    if "rtc" in roles:
        options += [
            (1, lambda chance: Cmos(chance.randrange(256))),
            (1, lambda chance: Cmos(chance.randrange(256), chance.randrange(256))),
            (1, lambda chance: Cmos(chance.randint(10, 13))),
        ]
    return _weighted(options) if options else None


def actions(rig: Rig) -> Plan | None:
    """What front ends do."""
    given: list[Step] = [Action(name, tuple(args)) for name, args in rig.subject.setup.actions]
    if rig.subject.setup.prepare:
        given.append(Prepare())
    return (lambda chance: chance.choice(given)) if given else None


def exercises(rig: Rig) -> Plan | None:
    """What the author says must work after anything."""
    given = [Exercise(name) for name in rig.subject.setup.exercises]
    return (lambda chance: chance.choice(given)) if given else None


def talk(rig: Rig) -> Steps | None:
    """What neighbours say, and how they are."""
    options: list[Steps] = []
    for number, layer in rig.subject.luns.items():
        up = calls(layer.above)
        if up is not None:
            options += [st.builds(Up, st.just(number), up)] * 3
        names = neighbours.moods(rig.neighbours[number])
        if names:
            drives = layer.name in (Drive.name, Media.name)
            often = [names[0]] * 2 * len(names) if drives else []  # what works: else nothing ever ends
            options += [st.builds(Mood, st.just(number), st.sampled_from([*often, *names]))] * 2
            options.append(st.just(Calm()))
    if rig.upper is not None:
        if neighbours.moods(rig.upper):
            moods = neighbours.moods(rig.upper)
            options.append(st.builds(Mood, st.just(ABOVE), st.sampled_from([moods[0]] * 3 + list(moods))))
        serves = rig.subject.type.serves  # type: ignore[union-attr]
        asks = {}
        if serves is Drive:
            asks["drive_submit"] = drive_asks(rig.upper.below.drive_signature())
        down = calls(serves.below, **asks)
        if down is not None:
            options += [st.builds(Down, down)] * 16
    return either(options) if options else None
