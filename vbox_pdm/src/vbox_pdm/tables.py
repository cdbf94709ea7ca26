"""Tables of mapped regions: who answers at an address, as rows of an exit table.

Hosts keep one `RegionTable` for ports and one for MMIO.  Each mapping has a rank: 0 for a fixed one
(a conflict of two such is an error), more for what a guest places (BARs: never an error, the lower
rank wins where they overlap, and the order of the tie-break does not depend on history).  `block`
keeps mappings of higher rank out of a range, for RAM that lies before BARs.

An access that lies wholly in one row goes to its handlers; any other is split into bytes, each
looked up on its own.  Port regions that claim only some access sizes (`Ports.claims`) and overlap
share one row, whose handlers pick by size; an access of a size that nobody claims at its first port
is nobody's.  Sizes that one region claims over the whole row go straight to it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any, cast

import pluggy
from attrs import define, evolve

from vbox_pdm.engine import ALL_SIZES, Exit
from vbox_pdm.errors import PdmError
from vbox_pdm.regions import Mmio, Ports, Region, read_nothing, resolve, write_nothing

FIXED, BLOCK, BAR = 0, 1, 2
"""Ranks."""


def wrap_region(manager: pluggy.PluginManager, instance: Any, region: Region) -> Region:
    """Ask the `pdm_wrap_region` hooks of `manager`, in the order of registration."""
    for implementation in manager.hook.pdm_wrap_region.get_hookimpls():
        offered: dict[str, Any] = {"instance": instance, "region": region}
        wrapped = cast(
            "Region | None", implementation.function(*(offered[name] for name in implementation.argnames))
        )
        if wrapped is not None:
            region = wrapped
    return region


def exit_at(rows: Sequence[Exit], firsts: Sequence[int], address: int) -> Exit | None:
    """The row of `address` in sorted rows; `firsts` are their first addresses."""
    index = bisect_right(firsts, address) - 1
    if index < 0:
        return None
    row = rows[index]
    return row if address < row.first + row.size else None


@define(eq=False)
class _Entry:
    first: int
    size: int
    rank: int
    order: tuple[Any, ...]
    row: Exit | None  # None for a block
    claims: int = ALL_SIZES

    @property
    def end(self) -> int:
        return self.first + self.size

    @property
    def key(self) -> tuple[Any, ...]:
        return (self.rank, *self.order)


class RegionMapping:
    """A mapped region: the `Mapping` that a device gets."""

    def __init__(self, table: RegionTable, region: Region, owner: object, rank: int, order: tuple[Any, ...]):
        self.region = region
        self.owner = owner
        self._table = table
        self._rank = rank
        self._order = order
        self._entry: _Entry | None = None

    @property
    def address(self) -> int | None:
        """First port or address; None while it is not mapped."""
        return self._entry.first if self._entry is not None else None

    def unmap(self) -> None:
        """The region answers no more; no effect when it is not mapped."""
        if self._entry is not None:
            self._table.remove(self._entry)
            self._entry = None

    def move(self, address: int) -> None:
        """Map it elsewhere; stays where it was when that is not possible."""
        entry = _Entry(
            address,
            self.region.size,
            self._rank,
            self._order,
            resolve(self.region, address, self.owner),
            self.region.claims if isinstance(self.region, Ports) else ALL_SIZES,
        )
        self._table.replace(self._entry, entry)
        self._entry = entry


class RegionTable:
    """The mapped regions of one address space.  `kind` is Ports or Mmio; `version` counts changes."""

    def __init__(self, kind: type[Ports] | type[Mmio]) -> None:
        self._ports = kind is Ports
        self._limit = 0x10000 if self._ports else 1 << 64
        self._entries: list[_Entry] = []
        self._rows: tuple[Exit, ...] | None = ()
        self._firsts: list[int] = []
        self.version = 0

    def map(
        self, address: int, region: Region, owner: object, *, rank: int = FIXED, order: tuple[Any, ...] = ()
    ) -> RegionMapping:
        """Map `region`; `owner` should have a `title` and comes back in the rows.

        VERR_IOM_INVALID_*_RANGE when it does not fit, VERR_IOM_*_RANGE_CONFLICT for two of rank
        FIXED that claim the same."""
        mapping = RegionMapping(self, region, owner, rank, order)
        mapping.move(address)
        return mapping

    def block(self, first: int, size: int, *, rank: int = BLOCK) -> _Entry:
        """Keep higher ranks out of a range; `remove` ends it.  With rank FIXED it conflicts, too."""
        entry = _Entry(first, size, rank, (), None)
        self.replace(None, entry)
        return entry

    @property
    def rows(self) -> tuple[Exit, ...]:
        """Sorted rows that do not overlap."""
        if self._rows is None:
            self._rows = tuple(_rows(self._entries, self._ports))
            self._firsts = [row.first for row in self._rows]
        return self._rows

    def find(self, address: int) -> Exit | None:
        """The row that answers at `address`."""
        return exit_at(self.rows, self._firsts, address)

    def remove(self, entry: _Entry) -> None:
        """End a mapping or block."""
        self._entries = [other for other in self._entries if other is not entry]
        self._changed()

    def replace(self, old: _Entry | None, new: _Entry) -> None:
        """For mappings: one entry takes the place of another."""
        name = "IOPORT" if self._ports else "MMIO"
        title = _title(new)
        if new.first < 0 or new.end > self._limit:
            raise PdmError(
                f"VERR_IOM_INVALID_{name}_RANGE",
                f"{title} does not fit at {new.first:#x}..{new.end - 1:#x}",
                f"The last possible address is {self._limit - 1:#x}",
            )
        if new.rank == FIXED:
            for other in self._entries:
                if (
                    other is not old
                    and other.rank == FIXED
                    and other.first < new.end
                    and new.first < other.end
                    and other.claims & new.claims
                ):
                    raise PdmError(
                        f"VERR_IOM_{name}_RANGE_CONFLICT",
                        f"{title} at {new.first:#x}..{new.end - 1:#x} overlaps {_title(other)} at "
                        f"{other.first:#x}..{other.end - 1:#x}",
                        "Give one of them another address",
                    )
        self._entries = [other for other in self._entries if other is not old]
        self._entries.append(new)
        self._changed()

    def _changed(self) -> None:
        self._rows = None
        self.version += 1


def _title(entry: _Entry) -> str:
    if entry.row is None:
        return "memory"
    return str(getattr(entry.row.owner, "title", entry.row.owner))


def _rows(entries: Iterable[_Entry], ports: bool) -> Iterable[Exit]:
    """Cut at every beginning and end, let the lowest key win, join what belongs together again."""
    ordered = sorted(entries, key=lambda entry: entry.key)
    if ports:
        ordered = list(_joined(ordered))
    cuts = sorted({at for entry in ordered for at in (entry.first, entry.end)})
    pending: Exit | None = None
    for low, high in pairwise(cuts):
        winner = next((entry for entry in ordered if entry.first <= low < entry.end), None)
        row = winner.row if winner is not None else None
        if row is None:
            continue
        start = low - row.first
        if pending is not None and pending.owner is row.owner and pending.read is row.read:
            same = pending.start + pending.size == start and pending.first + pending.size == low
            if same and pending.adapted_read is row.adapted_read:
                pending = evolve(pending, size=pending.size + high - low)
                continue
        if pending is not None:
            yield pending
        pending = evolve(row, first=low, size=high - low, start=start)
    if pending is not None:
        yield pending


def _joined(ordered: list[_Entry]) -> Iterable[_Entry]:
    """Port entries, where those that overlap and claim only some sizes became one."""
    partial = [entry for entry in ordered if entry.claims != ALL_SIZES and entry.claims & 7 != 7]
    left = list(ordered)
    while partial:
        cluster = [partial.pop()]
        first, end = cluster[0].first, cluster[0].end
        grown = True
        while grown:
            grown = False
            for entry in left:
                if entry not in cluster and entry.first < end and first < entry.end:
                    cluster.append(entry)
                    first, end = min(first, entry.first), max(end, entry.end)
                    grown = True
        partial = [entry for entry in partial if entry not in cluster]
        left = [entry for entry in left if entry not in cluster]
        members = sorted(cluster, key=lambda entry: entry.key)
        yield _Entry(first, end - first, members[0].rank, members[0].order, _Picker(members, first, end).row)
    yield from left


class _Picker:
    """One row for overlapping regions that claim different access sizes."""

    def __init__(self, members: list[_Entry], first: int, end: int) -> None:
        self.members = members
        self.first = first
        self.row = self._straight(end) or Exit(
            # The first member's owner stands for all in reports.
            first, end - first, self.read, self.write, self.read, self.write, direct=ALL_SIZES,
            owner=next((entry.row.owner for entry in members if entry.row is not None), None),
        )  # fmt: skip

    def _straight(self, end: int) -> Exit | None:
        """The row when a member spans it and is the first to claim some sizes: these need no picking."""
        taken = 0
        for entry in self.members:
            if entry.row is not None and (entry.first, entry.end) == (self.first, end):
                direct = entry.claims & entry.row.direct & ~taken
                if direct:
                    return evolve(
                        entry.row, adapted_read=self.read, adapted_write=self.write, direct=direct,
                        read_string=None, write_string=None,
                    )  # fmt: skip
            taken |= entry.claims
        return None

    def read(self, offset: int, size: int) -> int:
        address = self.first + offset
        row = self._pick(address, size)
        if row is not None:
            handler = row.read if size & row.direct else row.adapted_read
            return handler(address - row.first, size)
        if size == 1 or self._nobody(address, size):
            return read_nothing(offset, size)
        return sum((self.read(offset + at, 1) & 0xFF) << (8 * at) for at in range(size))

    def write(self, offset: int, size: int, value: int) -> None:
        address = self.first + offset
        row = self._pick(address, size)
        if row is not None:
            handler = row.write if size & row.direct else row.adapted_write
            handler(address - row.first, size, value)
        elif size == 1 or self._nobody(address, size):
            write_nothing(offset, size, value)
        else:
            for at in range(size):
                self.write(offset + at, 1, value >> (8 * at) & 0xFF)

    def _pick(self, address: int, size: int) -> Exit | None:
        """Who claims this size and holds the whole access."""
        for entry in self.members:
            if entry.claims & size and entry.first <= address and address + size <= entry.end:
                return entry.row
        return None

    def _nobody(self, address: int, size: int) -> bool:
        """Whether the first port has owners, none of which answers this size."""
        here = [entry for entry in self.members if entry.first <= address < entry.end]
        return bool(here) and not any(entry.claims & size for entry in here)
