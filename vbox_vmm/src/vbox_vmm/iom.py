"""IOM: who answers at a port or a physical address: the registries behind the engine's exit tables.

Facts: vmm.md section 6.  A region is resolved once, when it is mapped: plugins with `pdm_wrap_region`
may wrap its handlers, its width policy is applied, and the result is a row of an exit table.  An
access then costs neither hook nor search.  When such a plugin comes or goes, all regions are resolved
again.

Ports are kept here; what is mapped into memory is kept by PGM, since registers, ROM and RAM cover
each other.  Two regions at fixed addresses may not overlap (VERR_IOM_*_RANGE_CONFLICT names both);
BARs lie where a guest puts them: fixed regions and RAM win, then the function with the lower address.

Nothing here locks: all is called under the VM's lock.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from attrs import define, field

from vbox_pdm.engine import Engine, Exit
from vbox_pdm.errors import PdmError
from vbox_pdm.instance import Instance
from vbox_pdm.pci import PciFunction
from vbox_pdm.regions import Mmio, Ports, Region, resolve
from vbox_pdm.tables import BAR, FIXED, RegionMapping, RegionTable
from vbox_vmm.failures import Failures, access
from vbox_vmm.layout import Block, Kind, Rank
from vbox_vmm.pdm.services import IomServices
from vbox_vmm.pgm import BlockMapping

log = logging.getLogger("vbox.IOM")

MAX_REGISTRATIONS = 4096


@define(eq=False)
class RegionEntry:
    """A region of ports or registers that an instance mapped at least once; its `Mapping`.

    It is the owner of its rows in exit tables."""

    iom: Iom = field(repr=False)
    instance: Instance
    region: Region
    function: PciFunction | None
    order: tuple[Any, ...] = ()
    ports: RegionMapping | None = None
    block: BlockMapping | None = None

    @property
    def title(self) -> str:
        """`serial#0: uart`."""
        return f"{self.instance.title}: {self.region.name}"

    @property
    def address(self) -> int | None:
        """First port or guest-physical address; None while it is not mapped."""
        if self.ports is not None:
            return self.ports.address
        return self.block.address if self.block is not None else None

    def unmap(self) -> None:
        """The region answers no more; no effect when it is not mapped."""
        if self.ports is not None and self.ports.address is not None:
            self.ports.unmap()
            self.iom.flush_ports()
        elif self.block is not None:
            self.block.unmap()

    def move(self, address: int) -> None:
        """Map it elsewhere; stays where it was when that is not possible."""
        region = self.iom.wrapped(self.instance, self.region)
        if isinstance(region, Ports):
            if self.ports is None:
                rank = FIXED if self.function is None else BAR
                self.ports = self.iom.ports.map(address, region, self, rank=rank, order=self.order)
            else:
                self.ports.region = region
                self.ports.move(address)
            self.iom.flush_ports()
            return
        if not isinstance(address, int):
            raise PdmError("VERR_INVALID_PARAMETER", f"{self.title}: {address!r} is no address")
        rank_in_memory = Rank.FIXED if self.function is None else Rank.BAR
        block = Block(
            Kind.MMIO, address, region.size, rank_in_memory, self.title, self.order,
            row=resolve(region, address, self),
        )  # fmt: skip
        if self.block is None:
            mapping = BlockMapping(self.iom.pgm, block)
            mapping.replace(block)
            self.block = mapping
        else:
            self.block.replace(block)


class Iom:
    """The registries of one VM.  PGM must exist."""

    def __init__(self, services: IomServices) -> None:
        self.pgm = services.pgm
        self.ports = RegionTable(Ports)
        self.entries: list[RegionEntry] = []
        """All registrations, mapped or not, the oldest first."""
        self.failures = Failures(services.runtime_error)
        self._hook: Any = services.catalogue.manager.hook.pdm_wrap_region
        self._wrappers: list[Any] = self._hook.get_hookimpls()
        self._engine: Engine | None = None
        self._pushed = -1
        self._batches = 0

    # --- mapping

    def map(self, instance: Instance, address: int, region: Region) -> RegionEntry:
        """Map a region at a fixed port or address.

        Raises PdmError VERR_IOM_IOPORT_RANGE_CONFLICT or VERR_IOM_MMIO_RANGE_CONFLICT,
        VERR_PGM_RAM_CONFLICT (ROM or device RAM is there), VERR_IOM_INVALID_IOPORT_RANGE or
        VERR_IOM_INVALID_MMIO_RANGE, VERR_IOM_TOO_MANY_IOPORT_REGISTRATIONS and its MMIO sister."""
        entry = self._entry(instance, region, None, ())
        entry.move(address)
        self.entries.append(entry)
        return entry

    def bar(
        self, instance: Instance, function: PciFunction, region: Region, order: tuple[Any, ...]
    ) -> RegionEntry:
        """A registration for a BAR's region, not mapped yet.  `order` decides between BARs."""
        entry = self._entry(instance, region, function, order)
        self.entries.append(entry)
        return entry

    def _entry(
        self, instance: Instance, region: Region, function: PciFunction | None, order: tuple[Any, ...]
    ) -> RegionEntry:
        ports = isinstance(region, Ports)
        if not ports and not isinstance(region, Mmio):
            raise PdmError("VERR_INVALID_PARAMETER", f"{instance.title}: {region!r} is no region")
        if len(self.entries) >= MAX_REGISTRATIONS:
            raise PdmError(
                f"VERR_IOM_TOO_MANY_{'IOPORT' if ports else 'MMIO'}_REGISTRATIONS",
                f"{instance.title}: {region.name} would be one more than {MAX_REGISTRATIONS} regions",
            )
        return RegionEntry(self, instance, region, function, order)

    def release(self, instance: Instance) -> None:
        """The instance is gone, and its regions with it."""
        gone = [entry for entry in self.entries if entry.instance is instance]
        self.entries = [entry for entry in self.entries if entry.instance is not instance]
        with self.batch():
            for entry in gone:
                entry.unmap()
                entry.ports = entry.block = None

    # --- wrapping

    def wrapped(self, instance: Instance, region: Region) -> Region:
        """The region as the `pdm_wrap_region` plugins want it, the last registered outermost."""
        for implementation in self._wrappers:
            offered = {"instance": instance, "region": region}
            try:
                answer = implementation.function(*(offered[name] for name in implementation.argnames))
                if answer is not None and (type(answer) is not type(region) or answer.size != region.size):
                    raise TypeError(f"pdm_wrap_region answered {answer!r}")
            except Exception:
                log.exception(
                    "IOM: %s cannot wrap %s of %s", implementation.plugin_name, region.name, instance.title
                )
                continue
            if answer is not None:
                region = answer
        return region

    def resolve_again(self) -> None:
        """A plugin that wraps regions came or went: resolve all that is mapped."""
        self._wrappers = self._hook.get_hookimpls()
        with self.batch():
            for entry in self.entries:
                address = entry.address
                if address is not None:
                    entry.move(address)

    # --- the engine

    def set_engine(self, engine: Engine | None) -> None:
        """Who executes from now on."""
        self._engine = engine
        self._pushed = -1
        if engine is not None:
            self.flush()

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Changes within are told to the engine at the end, together."""
        self._batches += 1
        try:
            with self.pgm.batch():
                yield
        finally:
            self._batches -= 1
            self.flush_ports()

    def flush(self) -> None:
        """Tell the engine what changed, plugins that wrap regions included."""
        if self._wrappers != self._hook.get_hookimpls():
            self.resolve_again()
        self.flush_ports()

    def flush_ports(self) -> None:
        """Tell the engine what changed among the ports."""
        if self._engine is not None and self._pushed != self.ports.version and not self._batches:
            self._pushed = self.ports.version
            self._engine.set_ports(self.ports.rows)

    # --- access without an engine

    def port_read(self, port: int, size: int) -> int:
        """An IN of 1, 2 or 4 bytes, as an engine does it: VERR_IOM_INVALID_IOPORT_SIZE for others."""
        _check_port_size(size)
        row = self.ports.find(port)
        if row is not None and port + size <= row.first + row.size:
            return self._read(row, port - row.first + row.start, size, bool(row.direct & size))
        if size == 1:
            return 0xFF
        return sum(self.port_read(port + at & 0xFFFF, 1) << 8 * at for at in range(size))

    def port_write(self, port: int, size: int, value: int) -> None:
        """An OUT of 1, 2 or 4 bytes."""
        _check_port_size(size)
        value &= (1 << 8 * size) - 1
        row = self.ports.find(port)
        if row is not None and port + size <= row.first + row.size:
            self._write(row, port - row.first + row.start, size, value, bool(row.direct & size))
        elif size > 1:
            for at in range(size):
                self.port_write(port + at & 0xFFFF, 1, value >> 8 * at & 0xFF)

    def mmio_read(self, address: int, size: int) -> int:
        """A load of 1, 2, 4 or 8 bytes from whatever is at a physical address (A20 is not applied)."""
        piece = self.pgm.layout.find(address)
        if piece is not None and address + size <= piece.end and size in (1, 2, 4, 8):
            if piece.read is not None:
                return int.from_bytes(self.pgm.read(address, size), "little")
            assert piece.block is not None
            row = piece.block.row
            assert row is not None
            direct = bool(row.direct & size) and address % size == 0
            return self._read(row, address - row.first + row.start, size, direct)
        if size <= 1:
            return (1 << 8 * size) - 1
        return sum(self.mmio_read(address + at, 1) << 8 * at for at in range(size))

    def mmio_write(self, address: int, size: int, value: int) -> None:
        """A store of 1, 2, 4 or 8 bytes."""
        value &= (1 << 8 * size) - 1
        piece = self.pgm.layout.find(address)
        if piece is not None and address + size <= piece.end and size in (1, 2, 4, 8):
            if piece.read is not None:
                self.pgm.write(address, value.to_bytes(size, "little"))
                return
            assert piece.block is not None
            row = piece.block.row
            assert row is not None
            direct = bool(row.direct & size) and address % size == 0
            self._write(row, address - row.first + row.start, size, value, direct)
        elif size > 1:
            for at in range(size):
                self.mmio_write(address + at, 1, value >> 8 * at & 0xFF)

    def _read(self, row: Exit, offset: int, size: int, direct: bool) -> int:
        try:
            value = (row.read if direct else row.adapted_read)(offset, size)
            if not isinstance(value, int):
                raise TypeError(f"a read handler returned {value!r}, which is no int")
            return value & ((1 << 8 * size) - 1)
        except Exception as error:
            self.handler_failed(row.owner, offset, size, None, error)
            return (1 << 8 * size) - 1

    def _write(self, row: Exit, offset: int, size: int, value: int, direct: bool) -> None:
        try:
            (row.write if direct else row.adapted_write)(offset, size, value)
        except Exception as error:
            self.handler_failed(row.owner, offset, size, value, error)

    def handler_failed(
        self, owner: object, offset: int, size: int, value: int | None, error: BaseException
    ) -> None:
        """A handler raised or answered nonsense (see `EngineHost.handler_failed`)."""
        if isinstance(owner, RegionEntry):
            where = access(size, owner.region.name, offset, value)
            self.failures.report(owner.instance, owner.region.name, where, error)
        else:
            where = access(size, str(owner), offset, value)
            self.failures.report(None, str(owner), where, error)

    # --- texts and the end

    def info_ioport(self) -> str:
        """The text of `info ioport`."""
        lines = ["## Ctx    Ports Mapping   PCI     Description"]
        listed = (entry for entry in self.entries if isinstance(entry.region, Ports))
        for number, entry in enumerate(listed):
            where = _range(entry, "04x") if entry.address is not None else "unmapped "
            lines.append(f"{number:2} R3  {entry.region.size:#8x} {where} {_pci(entry):<7} {entry.title}")
        return "\n".join([*lines, ""])

    def info_mmio(self) -> str:
        """The text of `info mmio`."""
        lines = ["## Ctx         Size Mapping                           PCI     Description"]
        listed = (entry for entry in self.entries if isinstance(entry.region, Mmio))
        for number, entry in enumerate(listed):
            where = _range(entry, "016x") if entry.address is not None else f"{'unmapped':<33}"
            lines.append(f"{number:2} R3  {entry.region.size:#12x} {where} {_pci(entry):<7} {entry.title}")
        return "\n".join([*lines, ""])

    def close(self) -> None:
        """Forget everything; no effect the second time."""
        self._engine = None
        self._hook = _NoHook()
        self._wrappers = []
        for entry in self.entries:
            entry.unmap()
            entry.ports = entry.block = None
        self.entries = []
        self.ports = RegionTable(Ports)
        self.failures.on_failure = None


class _NoHook:
    def get_hookimpls(self) -> list[Any]:
        return []


def _check_port_size(size: int) -> None:
    if size not in (1, 2, 4):
        raise PdmError(
            "VERR_IOM_INVALID_IOPORT_SIZE", f"A port access of {size} bytes is not possible", "Use 1, 2 or 4"
        )


def _range(entry: RegionEntry, width: str) -> str:
    first = entry.address
    assert first is not None
    return f"{format(first, width)}-{format(first + entry.region.size - 1, width)}"


def _pci(entry: RegionEntry) -> str:
    function = entry.function
    return "" if function is None else f"{function.device:02x}.{function.function}"
