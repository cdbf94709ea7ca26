"""The bench's host with more eyes: regions, transfers and creations of the instance that is checked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import attrs
from attrs import define, field

from vbox_pdm.device import DeviceClass, DeviceType
from vbox_pdm.dmaviews import DmaHandle
from vbox_pdm.errors import PdmError
from vbox_pdm.instance import Instance
from vbox_pdm.regions import Mmio, Ports, Region
from vbox_pdm.testing.host import BenchHost
from vbox_pdm.testing.services import HostDeviceHelpers, HostDriverHelpers, HostHelpers

Transfer = tuple[int, int, bool]
"""Address, length, whether it is held for writing."""

_CHIPSET = (
    DeviceClass.ARCH,
    DeviceClass.ARCH_BIOS,
    DeviceClass.BUS_PCI,
    DeviceClass.BUS_ISA,
    DeviceClass.DMA,
    DeviceClass.VMM_DEV,
)
"""Classes whose devices own memory, or reach it, whatever a PCI command register says."""


@define(eq=False)
class Watched:
    """A region of the instance that is checked."""

    label: str
    region: Region

    @property
    def ports(self) -> bool:
        """Whether it is a region of ports."""
        return isinstance(self.region, Ports)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Access sizes that a CPU can make there."""
        return (1, 2, 4) if self.ports else (1, 2, 4, 8)


@define(eq=False)
class Notes:
    """What was seen and has not been looked at yet."""

    misfits: list[str] = field(factory=list)
    """Answers that do not fit."""
    forbidden: list[str] = field(factory=list)
    """Transfers without bus mastering."""
    reached: set[tuple[str, int, int, bool]] = field(factory=set)
    """(region, offset, size, is a write) of all accesses that came through."""
    written: dict[tuple[str, int], set[int]] = field(factory=dict)
    """Values written, by region and offset; at most 256 of each."""


class WatchedHost(BenchHost):
    """`subject` is the type that is checked; set `fail_at` to let the n-th creation of a helper fail."""

    def __init__(self, *args: Any, subject: Any, notes: Notes, **more: Any) -> None:
        super().__init__(*args, **more)
        self.subject = subject
        self.notes = notes
        self.regions: list[Watched] = []
        self.handles: list[DmaHandle] = []
        self.creations = 0
        self.fail_at: int | None = None
        self._seen: dict[Region, Region] = {}

    device_helpers: type[HostDeviceHelpers]
    driver_helpers: type[HostDriverHelpers]

    def mine(self, instance: Instance) -> bool:
        """Whether it is the instance that is checked."""
        return instance.type is self.subject

    def created(self, instance: Instance, what: str) -> None:
        """A helper that creates something is asked."""
        if not self.mine(instance):
            return
        self.creations += 1
        if self.creations == self.fail_at:
            raise PdmError("VERR_NO_MEMORY", f"The kit lets the creation of {what} fail")

    # --- regions

    def wrapped(self, instance: Instance, region: Region) -> Region:
        """A region with watched handlers."""
        if not self.mine(instance):
            return super().wrapped(instance, region)
        if region not in self._seen:
            inner = super().wrapped(instance, region)
            names = [watched.label.partition("/")[0] for watched in self.regions]
            count = names.count(inner.name)
            label = inner.name if not count else f"{inner.name}/{count + 1}"
            made = _with_eyes(inner, label, self.notes)
            self.regions.append(Watched(label, made))
            self._seen[region] = made
        return self._seen[region]

    def base(self, watched: Watched) -> int | None:
        """Where the region begins now; None while nobody reaches it."""
        table = self.bus.ports if watched.ports else self.memory.mmio
        for row in table.rows:
            if getattr(row.owner, "region", None) is watched.region:
                return row.first - row.start
        return None

    # --- transfers

    def dma(self, address: int, length: int, write: bool, allowed: bool | None = None) -> DmaHandle:
        """A transfer; `allowed` is None when it does not go through a PCI function."""
        if allowed is None:
            self.direct(f"helpers.dma({address:#x}, {length})")
        handle = super().dma(address, length, write, allowed is not False)
        self.handles.append(handle)
        return handle

    def dma_list(
        self, pieces: Sequence[tuple[int, int]], write: bool, allowed: bool | None = None
    ) -> DmaHandle:
        """The same of several pieces."""
        if allowed is None:
            self.direct(f"helpers.dma_list({len(pieces)} pieces)")
        handle = super().dma_list(pieces, write, allowed is not False)
        self.handles.append(handle)
        return handle

    def direct(self, what: str) -> None:
        """Memory was reached past the PCI function: a fault while the subject masters no bus."""
        if not isinstance(self.subject, DeviceType) or self.subject.device_class in _CHIPSET:
            return
        for instance, owned in self.owned.items():
            functions = owned.functions
            if self.mine(instance) and functions and not any(f.bus_master for f in functions):
                self.notes.forbidden.append(what)

    def roles(self, instance: Instance) -> frozenset[str]:
        """What it plays (interrupt controller, router ...) for other devices."""
        return frozenset(role for role, player in self.board.players() if player is instance)

    def held(self) -> int:
        """How many handles are not released."""
        self.handles = [handle for handle in self.handles if handle.held]
        return len(self.handles)


class _Counting(HostHelpers):
    _host: WatchedHost

    def _creating(self, what: str) -> None:
        super()._creating(what)
        self._host.created(self._owned.instance, what)


class WatchedDeviceHelpers(_Counting, HostDeviceHelpers):
    """`DeviceHelpers` that tell the host."""

    def memory_read(self, address: int, length: int) -> bytes:
        """Guest-physical memory."""
        self._host.direct(f"helpers.memory_read({address:#x}, {length})")
        return super().memory_read(address, length)

    def memory_write(self, address: int, data: bytes) -> None:
        """Guest-physical RAM."""
        self._host.direct(f"helpers.memory_write({address:#x}, {len(data)} bytes)")
        super().memory_write(address, data)


class WatchedDriverHelpers(_Counting, HostDriverHelpers):
    """`DriverHelpers` that tell the host."""


WatchedHost.device_helpers = WatchedDeviceHelpers
WatchedHost.driver_helpers = WatchedDriverHelpers


def _with_eyes(region: Region, label: str, notes: Notes) -> Region:
    read, write, reached = region.read, region.write, notes.reached

    def seen_read(offset: int, size: int) -> int:
        reached.add((label, offset, size, False))
        value = read(offset, size)
        if not isinstance(value, int) or not 0 <= value < 1 << (8 * size):
            shown = f"{value:#x}" if isinstance(value, int) else repr(value)
            notes.misfits.append(f"a read of {size} at {label}+{offset:#x} returned {shown}")
        return value

    def seen_write(offset: int, size: int, value: int) -> None:
        reached.add((label, offset, size, True))
        values = notes.written.setdefault((label, offset), set())
        if len(values) < 256:
            values.add(value)
        write(offset, size, value)

    changes: dict[str, Any] = {"read": seen_read, "write": seen_write}
    if isinstance(region, Mmio):
        return attrs.evolve(region, **changes)
    strings = region.read_string, region.write_string
    if strings[0] is not None:
        changes["read_string"] = _seen_string(strings[0], label, notes, write=False)
    if strings[1] is not None:
        changes["write_string"] = _seen_string(strings[1], label, notes, write=True)
    return attrs.evolve(region, **changes)


def _seen_string(handler: Callable[..., Any], label: str, notes: Notes, *, write: bool) -> Callable[..., Any]:
    def seen(offset: int, size: int, what: Any) -> Any:
        notes.reached.add((label, offset, size, write))
        answer = handler(offset, size, what)
        if write:
            fits = isinstance(answer, int) and 0 <= answer <= len(what) and answer % size == 0
        else:
            fits = isinstance(answer, bytes) and len(answer) <= what * size and len(answer) % size == 0
        if not fits:
            notes.misfits.append(f"a string of {size} at {label}+{offset:#x} was answered by {answer!r:.80}")
        return answer

    return seen
