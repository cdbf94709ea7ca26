"""Strategies: which steps to try on an instance, drawn from what it declares."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from hypothesis import strategies as st

from vbox_pdm.drive import Drive
from vbox_pdm.regions import Ports
from vbox_pdm.registers import Register
from vbox_pdm.testing.conformance import neighbours
from vbox_pdm.testing.conformance.registers_check import targets
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
    Line,
    Memory,
    Mood,
    Prepare,
    Request,
    Step,
    StringAccess,
    Up,
)
from vbox_pdm.testing.conformance.traffic import calls, drive_asks
from vbox_pdm.testing.conformance.watched_host import Watched

Steps = st.SearchStrategy[Step]
T = TypeVar("T")
TABLE = 0x1000
"""Where in RAM the kit likes to put tables."""
_PLACES = [TABLE, TABLE + 16, 0x2000, 0x8000, 0xF0000, 0xFFFF0, 0xFFFFF, 0x100000, 0xE0000000, 0xFEC00000]
_TOPS = [0xFFFFFFF0, 0xFFFFFFFC, 0xFFFFFFFF, 0xFFFFF000]
_PCI_OFFSETS = [0x04, 0x06, 0x0C, 0x10, 0x14, 0x18, 0x1C, 0x20, 0x24, 0x30, 0x3C, 0x3D]


def either(options: Sequence[st.SearchStrategy[T]]) -> st.SearchStrategy[T]:
    """One of them, each as often as it is listed.  (`st.one_of` takes those within its options apart, so
    that what has many options inside is chosen more often.)

    Chosen by number: hypothesis writes a strategy down whenever it passes over a rule, and all that is
    in ours would be megabytes."""
    table = list(options)
    return st.sampled_from(range(len(table))).flatmap(lambda chosen: table[chosen])


def values(register: Register | None, size: int, places: list[int]) -> st.SearchStrategy[int]:
    """Values to write: fields alone, all, none, addresses, anything."""
    top = (1 << (8 * size)) - 1
    special = {0, 1, top, top >> 1, 0x55 & top, 0xAA & top}
    if register is not None:
        special |= {register.mask(name) & top for name in register.fields}
        special.add((register.reset or 0) & top)
        joined = 0
        for name in register.fields:
            joined |= register.mask(name)
        special.add(joined & top)
    options: list[st.SearchStrategy[int]] = [
        st.sampled_from(sorted(special)),
        st.integers(0, top),
        st.integers(0, 31),
    ]
    if register is not None and register.values:
        options += [st.sampled_from(sorted(register.values))] * 3
    if register is not None and len(register.fields) > 1:
        masks = [register.mask(name) & top for name in register.fields]
        options.append(st.lists(st.sampled_from(masks), max_size=4).map(lambda some: _union(some)))
    if size >= 4:
        options.append(st.sampled_from([place & top for place in places]))
    return st.one_of(options)


def _union(masks: list[int]) -> int:
    result = 0
    for mask in masks:
        result |= mask
    return result


def accesses(rig: Rig) -> Steps | None:
    """Reads and writes of registers, and of anything in a region at any width and alignment."""
    places = places_of(rig)
    options: list[Steps] = []
    for number, watched in enumerate(rig.regions):
        mine: list[Steps] = []
        reads = targets(number, watched, write=False)
        if reads:
            mine.append(st.sampled_from(reads).map(lambda t: Access(t.region, t.offset, t.size)))
        writes = targets(number, watched, write=True)
        if writes:
            by_write: list[Steps] = [
                values(t.register, t.size, places).map(
                    lambda value, t=t: Access(t.region, t.offset, t.size, value)  # type: ignore[misc]
                )
                for t in writes
            ]
            mine += [st.one_of(by_write)] * 2
        mine.append(_anywhere(number, watched, places))
        if isinstance(watched.region, Ports):
            blocks = watched.region.read_string is not None or watched.region.write_string is not None
            mine = [*(mine if blocks else mine * 3), _strings(number, watched, blocks=blocks)]
        options += mine
    return either(options) if options else None


def _anywhere(number: int, watched: Watched, places: list[int]) -> Steps:
    size = watched.region.size

    def build(offset: int, width: int, value: int | None) -> Step:
        cut = None if value is None else value & ((1 << (8 * width)) - 1)
        return Access(number, min(offset, size - 1), width, cut)

    offsets = st.one_of(st.integers(0, min(size, 64) - 1), st.integers(0, size - 1))
    content = st.one_of(st.none(), st.integers(0, (1 << 64) - 1), st.sampled_from(places))
    return st.builds(build, offsets, st.sampled_from(watched.sizes), content)


def _strings(number: int, watched: Watched, *, blocks: bool) -> Steps:
    offsets = st.integers(0, min(watched.region.size, 16) - 1)
    sizes = st.sampled_from([1, 2, 4])
    counts = st.integers(1, 8)
    if blocks:
        offsets = st.one_of(st.just(0), offsets)
        counts = st.one_of(counts, counts, st.sampled_from([128, 256, 300]))
    ins = st.builds(lambda o, s, n: StringAccess(number, o, s, n), offsets, sizes, counts)
    outs = st.builds(
        lambda o, s, n, fill: StringAccess(number, o, s, data=bytes([fill]) * (s * n)),
        offsets, sizes, counts, st.integers(0, 255),
    )  # fmt: skip
    return st.one_of(ins, outs)


def places_of(rig: Rig) -> list[int]:
    """Addresses that a guest may hand out: RAM, holes, the top, the device's own registers."""
    found = [*_PLACES, *_TOPS]
    for index in range(len(rig.regions)):
        ports, base = rig.place(index, 0)
        if not ports and base is not None:
            found.append(base)
    return found


def memory(rig: Rig) -> Steps:
    """Tables in RAM: dwords that are addresses, lengths, flags, or anything."""
    places = places_of(rig)
    dword = st.one_of(
        st.sampled_from([place & 0xFFFFFFFF for place in places]),
        st.sampled_from([0, 1, 4, 64, 512, 0x80000000, 0x80000200, 0xFFFF, 0x10000, 0xFFFFFFFF]),
        st.integers(0, 0xFFFFFFFF),
    )
    table = st.lists(dword, min_size=1, max_size=8).map(
        lambda words: b"".join(word.to_bytes(4, "little") for word in words)
    )
    return st.builds(Memory, st.sampled_from([TABLE, TABLE, TABLE + 16, 0x2000, 0x8000]), table)


def configuration(rig: Rig) -> Steps | None:
    """Accesses to configuration space, and what firmware does."""
    if not rig.functions:
        return None
    number = st.integers(0, len(rig.functions) - 1)
    own = [at for f in rig.functions for at in range(0x40, 0x100) if f.writable(at)]
    offset = st.one_of(st.sampled_from(_PCI_OFFSETS + own), st.integers(0, 255))
    value = st.one_of(
        st.sampled_from([0, 0xFFFFFFFF, 7, 0x407, *[place & 0xFFFFFFFF for place in places_of(rig)]]),
        st.integers(0, 0xFFFFFFFF),
    )

    def build(number: int, at: int, size: int, value: int | None) -> Step:
        at &= ~(size - 1)
        return Configure(number, at, size, None if value is None else value & ((1 << (8 * size)) - 1))

    plain = st.builds(build, number, offset, st.sampled_from([1, 2, 4]), st.one_of(st.none(), value))
    enable = st.builds(Enable, number, st.sampled_from([7, 7, 7, 3, 0x407, 0, 1, 2]))
    return st.one_of(plain, enable, enable)


def time() -> Steps:
    """Clock steps."""
    return st.one_of(
        st.just(Advance(None)),
        st.sampled_from([1, 100, 1_000, 100_000, 1_000_000, 10_000_000]).map(Advance),
        st.integers(0, 3_000_000).map(Advance),
    )


def wires(roles: frozenset[str]) -> Steps | None:
    """What other devices do with one that plays a role for them."""
    options: list[Steps] = []
    if roles & {"pic", "pci router"}:
        options.append(st.builds(Line, st.integers(0, 15), st.booleans()))
        options.append(st.builds(Line, st.integers(0, 3), st.booleans(), st.just(True)))
        options.append(st.just(Acknowledge()))
    if "dmac" in roles:
        chunks = st.sampled_from([1, 2, 3, 64, 1 << 20])
        options.append(st.builds(Request, st.sampled_from([1, 5]), st.booleans(), chunks))
    if "rtc" in roles:
        index = st.integers(0, 255)
        options.append(st.builds(Cmos, index, st.one_of(st.none(), st.integers(0, 255))))
        options.append(st.builds(Cmos, st.integers(10, 13)))
    return st.one_of(options) if options else None


def actions(rig: Rig) -> Steps | None:
    """What front ends do."""
    given: list[Step] = [Action(name, tuple(args)) for name, args in rig.subject.setup.actions]
    if rig.subject.setup.prepare:
        given.append(Prepare())
    return st.sampled_from(given) if given else None


def talk(rig: Rig) -> Steps | None:
    """What neighbours say, and how they are."""
    options: list[Steps] = []
    for number, layer in rig.subject.luns.items():
        up = calls(layer.above)
        if up is not None:
            options += [st.builds(Up, st.just(number), up)] * 3
        names = neighbours.moods(rig.neighbours[number])
        if names:
            often = [names[0]] * 2 * len(names)  # what works: else nothing comes to its end for long
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
