"""Saved states of instances: a unit for what an instance says of itself, and one for what helpers made.

Everything is decoded and checked against the machine before anything is touched.  When an instance
refuses its state in pdm_load all the same, the state before is put back.  Lines, INTR and messages are
muted meanwhile: the controllers' own states already know of them.

TM's clocks must have been loaded before (timers are absolute).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeVar

from attrs import define, field, frozen

from vbox_pdm.errors import PdmError, StateError
from vbox_pdm.instance import Instance
from vbox_pdm.state import State, decode, encode
from vbox_pdm.timers import Clock
from vbox_pdm.units import HELPERS, HelpersUnit, TimerUnit, give_state, has_helpers_unit, state_of
from vbox_vmm.hostmem import check_packed, pack, unpack
from vbox_vmm.pdm.owned import Owned
from vbox_vmm.tm import Timer, TimerState

if TYPE_CHECKING:
    from vbox_vmm.pdm.manager import Pdm

S = TypeVar("S", bound=State)
MACHINE = ":pdm"


@frozen
class PdmUnit(State, version=1):
    """What PDM itself knows."""

    nmi_masked: bool
    interrupt: bool


@define
class _Decoded:
    pdm: PdmUnit
    helpers: dict[Instance, HelpersUnit] = field(factory=dict)
    states: dict[Instance, State] = field(factory=dict)


def save(pdm: Pdm) -> dict[str, bytes]:
    """Every unit.  Raises StateError when a device answers something else than it announced, and what
    pdm_save raises."""
    units: dict[str, bytes] = {}
    ranks = _ranks(pdm)
    for owned in pdm.owned_records():
        instance = owned.instance
        state = state_of(instance)
        if state is not None:
            units[owned.unit] = encode(state)
        if has_helpers_unit(owned.instance, len(owned.timers)):
            units[owned.unit + HELPERS] = encode(_helpers(pdm, owned, ranks))
    units[MACHINE] = encode(PdmUnit(pdm.nmi_masked, pdm.intr.level))
    return units


def load(pdm: Pdm, saved: Mapping[str, bytes]) -> None:
    """Take over every unit, or none.  Raises StateError (VERR_SSM_*)."""
    decoded = _decode(pdm, saved)
    before = _decode(pdm, save(pdm))
    try:
        _apply(pdm, decoded)
    except Exception as error:
        _apply(pdm, before)
        if isinstance(error, PdmError):
            raise
        raise StateError("VERR_SSM_UNEXPECTED_DATA", f"Loading failed: {error!r}") from error


def _ranks(pdm: Pdm) -> dict[Timer, int]:
    timers = [timer for owned in pdm.owned_records() for timer in owned.timers.values() if timer.active]
    return {timer: rank for rank, timer in enumerate(sorted(timers, key=lambda timer: timer.ticket))}


def _helpers(pdm: Pdm, owned: Owned, ranks: Mapping[Timer, int]) -> HelpersUnit:
    now = pdm.services.tm.now(Clock.REAL)
    timers = []
    for timer in owned.timers.values():
        expires = timer.expires
        if expires is not None and timer.clock is Clock.REAL:
            expires -= now
        timers.append(TimerUnit(timer.name, expires, ranks.get(timer, 0)))
    return HelpersUnit(
        tuple(handle.level for handle in owned.irqs),
        tuple(function.save() for function in owned.functions),
        tuple(pack(memory) for _, memory in owned.rams),
        tuple(timers),
    )


def _apply(pdm: Pdm, decoded: _Decoded) -> None:
    with pdm.muted(), pdm.services.iom.batch():
        pdm.nmi_masked = decoded.pdm.nmi_masked
        pdm.intr.level = decoded.pdm.interrupt
        records = pdm.owned_records()
        for owned in records:
            if owned.instance in decoded.helpers:
                _apply_helpers(owned, decoded.helpers[owned.instance])
        pdm.bus.load_levels()
        for owned in records:
            state = decoded.states.get(owned.instance)
            if state is not None:
                pdm.loading_instance = owned.instance
                try:
                    give_state(owned.instance, state)
                finally:
                    pdm.loading_instance = None
        for owned in records:
            if owned.instance in decoded.helpers:
                # Whatever a device did to its lines meanwhile, the saved levels hold.
                for handle, level in zip(owned.irqs, decoded.helpers[owned.instance].irqs, strict=True):
                    handle.load(level)
        _apply_timers(pdm, records, decoded)
    pdm.intr.load(decoded.pdm.interrupt)


def _apply_timers(pdm: Pdm, records: list[Owned], decoded: _Decoded) -> None:
    now = pdm.services.tm.now(Clock.REAL)
    units = [
        (unit.rank, owned.timers[unit.name], unit.expires)
        for owned in records
        if owned.instance in decoded.helpers
        for unit in decoded.helpers[owned.instance].timers
    ]
    for _, timer, expires in sorted(units, key=lambda entry: entry[0]):
        if expires is not None and timer.clock is Clock.REAL:
            expires += now
        timer.load(TimerState(expires))


def _apply_helpers(owned: Owned, unit: HelpersUnit) -> None:
    for handle, level in zip(owned.irqs, unit.irqs, strict=True):
        handle.load(level)
    for (_, memory), packed in zip(owned.rams, unit.ram, strict=True):
        unpack(memory, packed)
    for function, state in zip(owned.functions, unit.pci, strict=True):
        function.load(state)


def _decode(pdm: Pdm, saved: Mapping[str, bytes]) -> _Decoded:
    records = pdm.owned_records()
    required = {MACHINE} | {
        owned.unit + HELPERS for owned in records if has_helpers_unit(owned.instance, len(owned.timers))
    }
    possible = {owned.unit for owned in records if owned.instance.state_class() is not None}
    odd = (required - saved.keys()) | (saved.keys() - required - possible)
    if odd:
        raise StateError(
            "VERR_SSM_LOAD_CONFIG_MISMATCH",
            f"The saved state has other units: {', '.join(sorted(odd))}",
            "Load it into a machine with the same devices",
        )
    result = _Decoded(_named(MACHINE, PdmUnit, saved[MACHINE]))
    for owned in records:
        if has_helpers_unit(owned.instance, len(owned.timers)):
            unit = _named(owned.unit, HelpersUnit, saved[owned.unit + HELPERS])
            _check(owned, unit)
            result.helpers[owned.instance] = unit
        state_class = owned.instance.state_class()
        if state_class is not None and owned.unit in saved:
            result.states[owned.instance] = _named(owned.unit, state_class, saved[owned.unit])
    return result


def _named(unit: str, state_class: type[S], data: bytes) -> S:
    try:
        return decode(state_class, data)
    except StateError as error:
        raise StateError(error.status, f"Unit '{unit}': {error.message}", error.remedy) from error


def _check(owned: Owned, unit: HelpersUnit) -> None:
    functions = [function.save() for function in owned.functions]
    same = (
        len(unit.irqs) == len(owned.irqs)
        and len(unit.ram) == len(owned.rams)
        and [timer.name for timer in unit.timers] == list(owned.timers)
        and [(len(s.config), len(s.msix_table)) for s in unit.pci]
        == [(len(s.config), len(s.msix_table)) for s in functions]
    )
    if not same:
        raise StateError(
            "VERR_SSM_LOAD_CONFIG_MISMATCH",
            f"{owned.instance.title} has other lines, timers, RAM or PCI functions than the saved state",
            "Load it into a machine of the same configuration",
        )
    for (ram, memory), packed in zip(owned.rams, unit.ram, strict=True):
        check_packed(packed, memory.size, f"RAM '{ram.name}' of {owned.instance.title}")
