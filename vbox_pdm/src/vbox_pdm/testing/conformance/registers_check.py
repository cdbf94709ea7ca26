"""Holding a device to its register maps: reset values, declared bits, quiet reads; and PCI rules."""

from __future__ import annotations

from attrs import frozen

from vbox_pdm.pci import BAR0, CAPABILITIES, COMMAND, STATUS, STATUS_CAPABILITIES, PciFunction
from vbox_pdm.registers import Register
from vbox_pdm.testing.conformance.rig import Rig
from vbox_pdm.testing.conformance.steps import Access
from vbox_pdm.testing.conformance.twins import shot_difference
from vbox_pdm.testing.conformance.violations import Violation
from vbox_pdm.testing.conformance.watched_host import Watched


@frozen
class Target:
    """A place to access, and the register there."""

    region: int
    offset: int
    size: int
    register: Register | None


def targets(number: int, watched: Watched, *, write: bool) -> list[Target]:
    """The registers of a region, every instance of each."""
    table = watched.region.registers
    found = []
    for register in table.registers.values() if table is not None else ():
        if ("w" if write else "r") not in register.access:
            continue
        for index in range(register.count):
            offset = register.offset + index * register.stride
            if offset + register.size <= watched.region.size:
                found.append(Target(number, offset, register.size, register))
    return found


def readable(rig: Rig, target: Target) -> list[Register]:
    """All registers that a read there may reach: those of just that place and size, where there are
    any (a word of data beside a byte of errors), else all that it touches."""
    table = rig.regions[target.region].region.registers
    if table is None:
        return []
    exact = [
        register
        for register in table.at(target.offset, False)
        if register.size == target.size
        and (target.offset - register.offset) % max(1, register.stride or register.size) == 0
    ]
    if exact:
        return exact
    found: dict[str, Register] = {}
    for at in range(target.offset, target.offset + target.size):
        found.update((register.name, register) for register in table.at(at, False))
    return list(found.values())


def is_quiet(rig: Rig, target: Target) -> bool:
    """Whether nothing that a read there may reach has a declared effect."""
    found = readable(rig, target)
    return bool(found) and not any(register.read_changes for register in found)


def live(rig: Rig, target: Target) -> list[Register] | None:
    """The registers that a read there reaches now: those whose `when` holds.  None when that cannot be
    told: nobody decodes the region, or a `when` is no FIELD=VALUE of a register that can be looked at."""
    watched = rig.regions[target.region]
    if rig.host.base(watched) is None:
        return None
    found = []
    for register in readable(rig, target):
        holds = _holds(rig, target.region, register.when)
        if holds is None:
            return None
        if holds:
            found.append(register)
    return found


def _holds(rig: Rig, region: int, when: str) -> bool | None:
    if not when:
        return True
    name, equals, text = when.partition("=")
    table = rig.regions[region].region.registers
    if table is None or not equals or not text.isdigit():
        return None
    for register in table.registers.values():
        quiet = "r" in register.access and not register.read_changes and not register.when
        if name in register.fields and quiet:
            bits = register.mask(name)
            ports, address = rig.place(region, register.offset)
            if address is None:
                return None
            read = rig.bench.port_read if ports else rig.bench.mmio_read
            return (read(address, register.size) & bits) // (bits & -bits) == int(text)
    return None


def check_access(rig: Rig, step: Access, value: int) -> None:
    """What was read must not have bits that the register there has not."""
    target = Target(step.region, step.offset, step.size, None)
    candidates = live(rig, target)
    if candidates is None or len(candidates) != 1:
        return
    register = candidates[0]
    if register.bits is None or register.reset is None or register.size != step.size:
        return
    if (step.offset - register.offset) % max(1, register.stride or register.size):
        return
    odd = (value ^ register.reset) & ~register.bits
    if odd:
        name = rig.name_of(step.region, step.offset, step.size, write=False)
        raise Violation(
            "bits", f"{name} reads {value:#x}: bits {odd:#x} can never differ from {register.reset:#x}"
        )


def check_quiet(rig: Rig, target: Target, step: Access) -> None:
    """Read a register that has no effect, and look whether anything changed."""
    before = rig.shot()
    first = rig.perform(step)
    after = rig.shot()
    changed = shot_difference(before, after, set())
    name = rig.name_of(target.region, target.offset, target.size, write=False)
    if changed:
        raise Violation("quiet-read", f"reading {name} changed {changed}")
    if any(part for part in first[1:8]):
        raise Violation("quiet-read", f"reading {name} was heard outside: {first[1:8]!r:.200}")


def check_reset_values(rig: Rig, when: str) -> None:
    """What the registers read that have no effect on reading."""
    for target in _with_reset(rig, effects=False):
        _check_reset_value(rig, target, when)


def check_reset_value_of_effects(rig: Rig, when: str, number: int) -> bool:
    """The same of the `number`-th register whose reading has an effect; False when there is none."""
    found = _with_reset(rig, effects=True)
    if number < len(found):
        _check_reset_value(rig, found[number], when)
    return number < len(found)


def _with_reset(rig: Rig, *, effects: bool) -> list[Target]:
    return [
        target
        for number, watched in enumerate(rig.regions)
        for target in targets(number, watched, write=False)
        if any(register.read_changes for register in readable(rig, target)) == effects
    ]


def _check_reset_value(rig: Rig, target: Target, when: str) -> None:
    candidates = live(rig, target)
    if candidates is None or any(r.reset is None or r.size != target.size for r in candidates):
        return
    value = rig.perform(Access(target.region, target.offset, target.size))[0]
    allowed = {register.reset for register in candidates if register.reset is not None}
    if value not in allowed:
        name = rig.name_of(target.region, target.offset, target.size, write=False)
        wanted = " or ".join(f"{reset:#x}" for reset in sorted(allowed))
        raise Violation("reset-values", f"{when} {name} reads {value:#x}, its map says {wanted}")


# --- PCI

_FIXED = ((0x00, 4, "VENDOR and DEVICE"), (0x08, 4, "REVISION and class"), (0x0E, 1, "HEADER_TYPE"),
          (0x2C, 4, "SUBSYSTEM"), (0x34, 1, "CAPABILITIES"), (0x3D, 1, "INTERRUPT_PIN"))  # fmt: skip


def identity(function: PciFunction) -> tuple[int, ...]:
    """What never changes of a function."""
    return tuple(function.config_read(at, size) for at, size, _ in _FIXED)


def check_identity(function: PciFunction, before: tuple[int, ...]) -> None:
    """Read-only configuration stays as it was."""
    for (at, _, name), old, new in zip(_FIXED, before, identity(function), strict=True):
        if old != new:
            raise Violation("pci", f"{name} ({at:#x}) changed from {old:#x} to {new:#x}")


def check_pci(rig: Rig) -> None:
    """Sizing, decoding and the capability list of each function, on a rig that is thrown away."""
    for function in rig.functions:
        _check_bars(rig, function)
        _check_capabilities(function)


def _check_bars(rig: Rig, function: PciFunction) -> None:
    slot = function.device, function.function
    bars = function.bar_sizes()
    upper = {number + 1 for number, (_, _, wide) in bars.items() if wide}
    rig.bench.pci_write(*slot, COMMAND, 2, 0)
    for number in range(6):
        at = BAR0 + 4 * number
        rig.bench.pci_write(*slot, at, 4, 0xFFFFFFFF)
        value = rig.bench.pci_read(*slot, at, 4)
        if number in upper:
            continue
        if number not in bars:
            if value:
                raise Violation("pci", f"BAR{number} is not declared and reads {value:#x} when it is sized")
            continue
        size, io, _ = bars[number]
        mask = 0xFFFFFFFC if io else 0xFFFFFFF0
        found = (~(value & mask) & 0xFFFFFFFF) + 1
        if size < 1 << 32 and found != size:
            raise Violation("pci", f"BAR{number} of {size:#x} bytes says {found:#x} when it is sized")
        if bool(value & 1) != io:
            raise Violation("pci", f"bit 0 of BAR{number} does not say what it decodes")
    rig.check("sizing BARs")


def _check_capabilities(function: PciFunction) -> None:
    at, seen = function.config_read(CAPABILITIES, 1), set()
    if bool(at) != bool(function.config_read(STATUS, 2) & STATUS_CAPABILITIES):
        raise Violation("pci", "the capability bit of STATUS does not say whether there is a list")
    while at:
        if at in seen or at & 3 or at < 0x40:
            raise Violation("pci", f"the capability list leads to {at:#x}")
        seen.add(at)
        at = function.config_read(at + 1, 1)
