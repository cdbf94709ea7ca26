"""Saved states of the bench: one unit for each instance's own state, one for what helpers made for
it, and two for the machine.

Everything is decoded and checked before anything is touched; when an instance refuses its state in
pdm_load all the same, the state before is put back.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from attrs import define, field, frozen

from vbox_pdm.errors import PdmError, StateError
from vbox_pdm.helpers import ShadowMode
from vbox_pdm.instance import Instance
from vbox_pdm.state import State, decode, encode
from vbox_pdm.testing.clock import BenchTimer
from vbox_pdm.testing.memory import PAGE, fill, sparse
from vbox_pdm.testing.services import Owned
from vbox_pdm.timers import Clock
from vbox_pdm.units import HELPERS, HelpersUnit, TimerUnit, give_state, has_helpers_unit, state_of

if TYPE_CHECKING:
    from vbox_pdm.testing.host import BenchHost

MACHINE, RAM = ":machine", ":ram"


@frozen
class MachineUnit(State, version=1):
    """The machine; `modes` are shadowed pages and their modes."""

    virtual: int
    a20: bool
    nmi_masked: bool
    interrupt: bool
    modes: tuple[tuple[int, int], ...]


@define
class _Decoded:
    machine: MachineUnit
    ram: list[dict[int, bytes]]
    helpers: dict[Instance, HelpersUnit] = field(factory=dict)
    device_ram: dict[Instance, list[dict[int, bytes]]] = field(factory=dict)
    states: dict[Instance, State] = field(factory=dict)


def save(host: BenchHost) -> dict[str, bytes]:
    """All units of a machine."""
    units: dict[str, bytes] = {}
    ranks = _ranks(host)
    for instance, owned in host.owned.items():
        state = state_of(instance)
        if state is not None:
            units[owned.unit] = encode(state)
        if has_helpers_unit(owned.instance, len(owned.timers)):
            units[owned.unit + HELPERS] = encode(_helpers(host, owned, ranks))
    modes = tuple((page, mode.value) for page, mode in sorted(host.memory.modes.items()))
    virtual = host.clocks.virtual
    board = host.board
    machine = MachineUnit(virtual, host.bus.a20, board.nmi_masked, board.interrupt, modes)
    units[MACHINE] = encode(machine)
    units[RAM] = host.memory.save_ram()
    return units


def load(host: BenchHost, saved: Mapping[str, bytes]) -> None:
    """Take over all units of a machine, or none."""
    decoded = _decode(host, saved)
    before = _decode(host, save(host))
    try:
        _apply(host, decoded)
    except Exception as error:
        _apply(host, before)
        if isinstance(error, PdmError):
            raise
        raise StateError("VERR_SSM_UNEXPECTED_DATA", f"Loading failed: {error!r}") from error


def _ranks(host: BenchHost) -> dict[BenchTimer, int]:
    timers = [timer for owned in host.owned.values() for timer in owned.timers.values() if timer.active]
    return {timer: rank for rank, timer in enumerate(sorted(timers, key=lambda timer: timer.order))}


def _helpers(host: BenchHost, owned: Owned, ranks: Mapping[BenchTimer, int]) -> HelpersUnit:
    real = host.clocks.now(Clock.REAL)
    timers = []
    for timer in owned.timers.values():
        expires = timer.expires
        if expires is not None and timer.clock is Clock.REAL:
            expires -= real
        timers.append(TimerUnit(timer.name, expires, ranks.get(timer, 0)))
    return HelpersUnit(
        tuple(handle.level for handle in owned.irqs),
        tuple(function.save() for function in owned.functions),
        tuple(sparse(ram.view) for ram in owned.rams),
        tuple(timers),
    )


def _apply(host: BenchHost, decoded: _Decoded) -> None:
    host.board.loading = True
    try:
        _apply_machine(host, decoded)
        for instance, unit in decoded.helpers.items():
            _apply_helpers(host, host.owned[instance], unit, decoded.device_ram[instance])
        for instance, state in decoded.states.items():
            give_state(instance, state)
        for instance, unit in decoded.helpers.items():
            # What a device did to its lines meanwhile was reported; the saved levels hold.
            for handle, level in zip(host.owned[instance].irqs, unit.irqs, strict=True):
                handle.load(level)
        _apply_timers(host, decoded)
        host.board.interrupt = decoded.machine.interrupt
    finally:
        host.board.loading = False


def _apply_timers(host: BenchHost, decoded: _Decoded) -> None:
    real = host.clocks.now(Clock.REAL)
    saved = [
        (unit.rank, host.owned[instance].timers[unit.name], unit.expires)
        for instance, helpers in decoded.helpers.items()
        for unit in helpers.timers
    ]
    for _, timer, expires in sorted(saved, key=lambda entry: entry[0]):
        if expires is not None and timer.clock is Clock.REAL:
            expires += real
        timer.load(expires)


def _apply_machine(host: BenchHost, decoded: _Decoded) -> None:
    machine = decoded.machine
    host.clocks.load(machine.virtual)
    host.bus.a20 = machine.a20
    host.board.nmi_masked = machine.nmi_masked
    host.board.interrupt = machine.interrupt
    host.memory.modes = {page: ShadowMode(mode) for page, mode in machine.modes}
    host.memory.load_ram(*decoded.ram)


def _apply_helpers(
    host: BenchHost, owned: Owned, unit: HelpersUnit, device_ram: list[dict[int, bytes]]
) -> None:
    for handle, level in zip(owned.irqs, unit.irqs, strict=True):
        handle.load(level)
    for ram, pages in zip(owned.rams, device_ram, strict=True):
        fill(ram.view, pages)
    for function, state in zip(owned.functions, unit.pci, strict=True):
        function.load(state)
        pin = function.identity.pin
        if pin:
            host.board.intx_handle(function, pin).load(function.driven)


def _decode(host: BenchHost, saved: Mapping[str, bytes]) -> _Decoded:
    _check_names(host, saved)
    machine = decode(MachineUnit, saved[MACHINE])
    if any(mode not in (0, 1, 2, 3) or not 0xA0 <= page < 0x100 for page, mode in machine.modes):
        raise StateError("VERR_SSM_UNEXPECTED_DATA", "The machine's shadow modes make no sense")
    low, high = host.memory.pages
    result = _Decoded(machine, _pages(saved[RAM], [low, high], "guest RAM"))
    for instance, owned in host.owned.items():
        if has_helpers_unit(owned.instance, len(owned.timers)):
            unit = decode(HelpersUnit, saved[owned.unit + HELPERS])
            _check_helpers(host, owned, unit)
            result.helpers[instance] = unit
            result.device_ram[instance] = [
                _pages(data, [ram.size // PAGE], f"RAM '{ram.name}' of {instance.title}")[0]
                for data, ram in zip(unit.ram, owned.rams, strict=True)
            ]
        state_class = instance.state_class()
        if state_class is not None and owned.unit in saved:
            result.states[instance] = decode(state_class, saved[owned.unit])
    return result


def _check_names(host: BenchHost, saved: Mapping[str, Any]) -> None:
    required = {MACHINE, RAM} | {
        owned.unit + HELPERS
        for owned in host.owned.values()
        if has_helpers_unit(owned.instance, len(owned.timers))
    }
    possible = {owned.unit for instance, owned in host.owned.items() if instance.state_class() is not None}
    odd = (required - saved.keys()) | (saved.keys() - required - possible)
    if odd:
        raise StateError(
            "VERR_SSM_LOAD_CONFIG_MISMATCH",
            f"The saved state has other units: {', '.join(sorted(odd))}",
            "Load it into a machine with the same devices",
        )


def _check_helpers(host: BenchHost, owned: Owned, unit: HelpersUnit) -> None:
    now = _helpers(host, owned, {})
    same = (
        len(unit.irqs) == len(now.irqs)
        and len(unit.ram) == len(now.ram)
        and [timer.name for timer in unit.timers] == [timer.name for timer in now.timers]
        and [(len(s.config), len(s.msix_table)) for s in unit.pci]
        == [(len(s.config), len(s.msix_table)) for s in now.pci]
    )
    if not same:
        raise StateError(
            "VERR_SSM_LOAD_CONFIG_MISMATCH",
            f"{owned.instance.title} has other lines, timers, RAM or PCI functions than the saved state",
            "Load it into a machine of the same configuration",
        )


def _pages(data: bytes, sizes: list[int], what: str) -> list[dict[int, bytes]]:
    """The pages of `memory.sparse` blocks, one block for each of `sizes` (pages)."""
    found: list[dict[int, bytes]] = []
    at = 0
    for size in sizes:
        header, at = data[at : at + 8], at + 8
        if len(header) != 8 or int.from_bytes(header[:4], "little") != size:
            raise StateError("VERR_SSM_LOAD_MEMORY_SIZE_MISMATCH", f"{what} has another size")
        pages = {}
        for _ in range(int.from_bytes(header[4:], "little")):
            entry, at = data[at : at + 4 + PAGE], at + 4 + PAGE
            page = int.from_bytes(entry[:4], "little")
            if len(entry) != 4 + PAGE or page >= size:
                raise StateError("VERR_SSM_LOADED_TOO_MUCH", f"{what} ends in the middle of a page")
            pages[page] = entry[4:]
        found.append(pages)
    if at != len(data):
        raise StateError("VERR_SSM_LOADED_TOO_LITTLE", f"{len(data) - at} bytes are left over behind {what}")
    return found
