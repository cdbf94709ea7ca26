"""TRPM: the trap manager, which holds the one pending event of a vCPU at an engine boundary.

Facts: vmm.md section 4; the fault rules are those of the Intel SDM, volume 3A, "Interrupt 8: Double
Fault Exception" (tables of fault classes and of conditions), the priorities those of "Priority among
concurrent events".

A running engine delivers exceptions and interrupts natively.  TRPM is for the moments between: an
injected event of the debugger, an NMI, a change of engine, a saved state.

Traps of the subject:
* Only some exceptions push an error code, and only as exceptions: INT 13 pushes none.
* A contributory fault and then a page fault are handled one after another; a page fault and then a
  contributory fault are a double fault.
* MOV SS holds back NMIs too, STI may; the shadow flag does not tell them apart, so both do.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable

from attrs import evolve, frozen

from vbox_pdm import PdmError, State, StateError

XCPT_DE, XCPT_NMI, XCPT_DF, XCPT_TS, XCPT_NP, XCPT_SS, XCPT_GP, XCPT_PF = 0, 2, 8, 10, 11, 12, 13, 14
XCPT_AC, XCPT_VE, XCPT_CP = 17, 20, 21

WITH_ERROR_CODE = frozenset({XCPT_DF, XCPT_TS, XCPT_NP, XCPT_SS, XCPT_GP, XCPT_PF, XCPT_AC, XCPT_CP})
"""The exceptions that push an error code."""

_CONTRIBUTORY = frozenset({XCPT_DE, XCPT_TS, XCPT_NP, XCPT_SS, XCPT_GP, XCPT_CP})
_PAGE_FAULTS = frozenset({XCPT_PF, XCPT_VE})

_NAMES = {0: "#DE", 1: "#DB", 2: "NMI", 3: "#BP", 4: "#OF", 5: "#BR", 6: "#UD", 7: "#NM", 8: "#DF", 10: "#TS"}
_NAMES |= {11: "#NP", 12: "#SS", 13: "#GP", 14: "#PF", 16: "#MF", 17: "#AC", 18: "#MC", 19: "#XF"}
_NAMES |= {20: "#VE", 21: "#CP"}


class EventType(enum.IntEnum):
    """What kind of event is pending; the numbers are those of saved states."""

    TRAP = 0  # an exception
    HARDWARE_INT = 1
    SOFTWARE_INT = 2
    NMI = 3


class Escalation(enum.Enum):
    """What becomes of an exception that is raised while another event is being delivered."""

    SERIAL = "serial"  # the second is delivered; the first is raised again by the restarted instruction
    DOUBLE_FAULT = "double fault"
    TRIPLE_FAULT = "triple fault"


@frozen
class TrapEvent(State, version=1):
    """One event, also as it is saved.

    `error_code` is an int exactly for an exception that pushes one, else None.  `fault_address` is
    CR2 of a page fault, else None.  `instruction_length` is 0..15 bytes, of interest for software
    interrupts and ICEBP.
    """

    vector: int
    type: EventType
    error_code: int | None = None
    fault_address: int | None = None
    instruction_length: int = 0
    icebp: bool = False

    @property
    def name(self) -> str:
        """ "#GP", "NMI", or "int 0x30" for what is no exception."""
        if self.type in (EventType.TRAP, EventType.NMI):
            return _NAMES.get(self.vector, f"exception {self.vector:#x}")
        return f"int {self.vector:#x}"


@frozen
class TrpmState(State, version=1):
    """The saved state of one vCPU's TRPM (unit "trpm")."""

    event: TrapEvent | None = None


def pushes_error_code(vector: int, kind: EventType) -> bool:
    """Whether the delivery of this event pushes an error code."""
    return kind is EventType.TRAP and vector in WITH_ERROR_CODE


def escalation(first: TrapEvent | None, second_vector: int) -> Escalation:
    """The outcome of exception `second_vector` during the delivery of `first` (None: of nothing).

    Interrupts, NMIs and benign exceptions as the first never escalate.
    """
    if first is None or first.type is not EventType.TRAP:
        return Escalation.SERIAL
    severe = second_vector in _CONTRIBUTORY or second_vector in _PAGE_FAULTS
    if first.vector == XCPT_DF:
        return Escalation.TRIPLE_FAULT if severe else Escalation.SERIAL
    if first.vector in _CONTRIBUTORY and second_vector in _CONTRIBUTORY:
        return Escalation.DOUBLE_FAULT
    if first.vector in _PAGE_FAULTS and severe:
        return Escalation.DOUBLE_FAULT
    return Escalation.SERIAL


def next_event(
    *,
    exception: bool,
    nmi: bool,
    interrupt: bool,
    interrupts_enabled: bool,
    interrupt_shadow: bool,
    nmi_blocked: bool = False,
) -> EventType | None:
    """Which of the concurrent events the CPU takes now; None: none of them.

    Exceptions come before NMIs, NMIs before external interrupts.  `interrupts_enabled` is RFLAGS.IF,
    `interrupt_shadow` the instruction after STI or MOV SS, `nmi_blocked` an NMI being served (no IRET
    yet).
    """
    if exception:
        return EventType.TRAP
    if interrupt_shadow:
        return None
    if nmi and not nmi_blocked:
        return EventType.NMI
    if interrupt and interrupts_enabled:
        return EventType.HARDWARE_INT
    return None


class Trpm:
    """The pending event of one vCPU, at most one.  EMT only."""

    def __init__(self, cpu: int = 0) -> None:
        self.cpu = cpu
        self._event: TrapEvent | None = None

    @property
    def has_trap(self) -> bool:
        """Whether an event is pending."""
        return self._event is not None

    @property
    def is_software_interrupt(self) -> bool:
        """Whether the pending event is a software interrupt; False without one."""
        return self._event is not None and self._event.type is EventType.SOFTWARE_INT

    def assert_trap(self, vector: int, kind: EventType, error_code: int | None = None) -> TrapEvent:
        """Make an event pending.  `vector` is 0..255; an omitted error code is 0 where one is pushed.

        Raises PdmError VERR_TRPM_ACTIVE_TRAP when one is pending, VERR_INVALID_PARAMETER for a vector
        out of range or an error code where the CPU pushes none.
        """
        self._require_none(f"vector {vector:#x}")
        self._event = _event(vector, kind, error_code)
        return self._event

    def assert_page_fault(self, cr2: int, error_code: int) -> TrapEvent:
        """Make a #PF at linear address `cr2` pending.  Raises PdmError VERR_TRPM_ACTIVE_TRAP."""
        self._require_none("a page fault")
        self._event = evolve(_event(XCPT_PF, EventType.TRAP, error_code), fault_address=cr2)
        return self._event

    def query_trap(self) -> TrapEvent:
        """The pending event, which stays pending.  Raises PdmError VERR_TRPM_NO_ACTIVE_TRAP."""
        return self._active()

    def reset(self) -> TrapEvent:
        """Take the pending event away and return it.  Raises PdmError VERR_TRPM_NO_ACTIVE_TRAP."""
        event = self._active()
        self._event = None
        return event

    def clear(self) -> None:
        """Drop the pending event, if there is one (VM reset)."""
        self._event = None

    def set_error_code(self, error_code: int) -> None:
        """Raises PdmError VERR_TRPM_NO_ACTIVE_TRAP, or VERR_INVALID_PARAMETER when the event has none."""
        event = self._active()
        self._event = evolve(event, error_code=_checked_error_code(event.vector, event.type, error_code))

    def set_fault_address(self, cr2: int) -> None:
        """Raises PdmError VERR_TRPM_NO_ACTIVE_TRAP, or VERR_INVALID_PARAMETER when it is no page fault."""
        event = self._active()
        if event.type is not EventType.TRAP or event.vector != XCPT_PF:
            raise _invalid(f"{event.name} has no fault address")
        self._event = evolve(event, fault_address=cr2)

    def set_instruction_length(self, length: int) -> None:
        """`length` is 0..15 bytes.  Raises PdmError VERR_TRPM_NO_ACTIVE_TRAP, VERR_INVALID_PARAMETER."""
        event = self._active()
        if not 0 <= length <= 15:
            raise _invalid(f"instruction length {length} is not 0..15")
        self._event = evolve(event, instruction_length=length)

    def set_icebp(self) -> None:
        """The pending #DB is due to INT1 (ICEBP).  Raises as `set_fault_address` does."""
        event = self._active()
        if event.type is not EventType.TRAP or event.vector != 1:
            raise _invalid(f"{event.name} cannot be due to ICEBP, only #DB can")
        self._event = evolve(event, icebp=True)

    def error_code(self) -> int:
        """Of the pending event.  Raises PdmError VERR_TRPM_NO_ACTIVE_TRAP, VERR_INVALID_PARAMETER."""
        event = self._active()
        if event.error_code is None:
            raise _invalid(f"{event.name} has no error code")
        return event.error_code

    def fault_address(self) -> int:
        """Of the pending event.  Raises PdmError VERR_TRPM_NO_ACTIVE_TRAP, VERR_INVALID_PARAMETER."""
        event = self._active()
        if event.fault_address is None:
            raise _invalid(f"{event.name} has no fault address")
        return event.fault_address

    def escalate(self, vector: int, error_code: int | None = None, cr2: int | None = None) -> Escalation:
        """Exception `vector` was raised while the pending event was being delivered.

        The pending event becomes that exception, or #DF with error code 0; after TRIPLE_FAULT none is
        pending and the CPU shuts down.  Raises PdmError VERR_TRPM_NO_ACTIVE_TRAP.
        """
        outcome = escalation(self._active(), vector)
        if outcome is Escalation.SERIAL:
            second = _event(vector, EventType.TRAP, error_code)
            self._event = evolve(second, fault_address=(cr2 or 0) if vector == XCPT_PF else None)
        elif outcome is Escalation.DOUBLE_FAULT:
            self._event = _event(XCPT_DF, EventType.TRAP, 0)
        else:
            self._event = None
        return outcome

    def inject_event(
        self, sources: Iterable[Callable[[], int]], deliver: Callable[[TrapEvent], None]
    ) -> TrapEvent | None:
        """Take the first vector that a source gives (the APIC comes before the PIC) to the engine.

        A source answers a vector 0..255, or -1 for none.  Returns the delivered event, or None when
        no source had one.  Raises PdmError VERR_TRPM_ACTIVE_TRAP; no source is asked then, since an
        acknowledged interrupt would be lost.
        """
        self._require_none("an external interrupt")
        for acknowledge in sources:
            vector = acknowledge()
            if vector >= 0:
                event = _event(vector, EventType.HARDWARE_INT, None)
                deliver(event)
                return event
        return None

    def save(self) -> TrpmState:
        """What is pending, as a record."""
        return TrpmState(self._event)

    def load(self, state: TrpmState) -> None:
        """Raises StateError, with nothing changed, for an impossible event."""
        event = state.event
        if event is not None:
            try:
                checked = _event(event.vector, event.type, event.error_code)
            except PdmError as error:
                raise StateError("VERR_SSM_UNEXPECTED_DATA", f"trpm: {error.message}") from None
            # Fields of another kind of event are dropped rather than trusted.
            is_fault = event.type is EventType.TRAP and event.vector == XCPT_PF
            event = evolve(
                checked,
                fault_address=event.fault_address if is_fault else None,
                instruction_length=event.instruction_length & 15,
                icebp=event.icebp and event.type is EventType.TRAP and event.vector == 1,
            )
        self._event = event

    def info(self) -> str:
        """The text of `info trpmevent`."""
        lines = [f"CPU[{self.cpu:2}]: Trap event"]
        event = self._event
        if event is None:
            return "\n".join([*lines, "  No event pending", ""])
        lines.append(f"  Type:               {event.type.name} ({event.type:d})")
        lines.append(f"  Vector:             {event.vector:#04x} {event.name}")
        if event.error_code is not None:
            lines.append(f"  Error code:         {event.error_code:#010x}")
        if event.fault_address is not None:
            lines.append(f"  Fault address:      {event.fault_address:#018x}")
        lines.append(f"  Instruction length: {event.instruction_length}")
        lines.append(f"  ICEBP:              {'yes' if event.icebp else 'no'}")
        return "\n".join([*lines, ""])

    def _active(self) -> TrapEvent:
        if self._event is None:
            raise PdmError("VERR_TRPM_NO_ACTIVE_TRAP", f"CPU {self.cpu} has no pending event")
        return self._event

    def _require_none(self, wanted: str) -> None:
        if self._event is not None:
            raise PdmError(
                "VERR_TRPM_ACTIVE_TRAP",
                f"CPU {self.cpu} cannot take {wanted}: {self._event.name} is pending",
                "Deliver or reset it first",
            )


def _event(vector: int, kind: EventType, error_code: int | None) -> TrapEvent:
    if not 0 <= vector <= 255:
        raise _invalid(f"vector {vector} is not 0..255")
    if kind is EventType.TRAP and vector > 31:
        raise _invalid(f"vector {vector:#x} is no exception, only 0..31 are")
    if kind is EventType.NMI and vector != XCPT_NMI:
        raise _invalid(f"an NMI has vector 2, not {vector:#x}")
    if error_code is None and pushes_error_code(vector, kind):
        error_code = 0
    return TrapEvent(vector, kind, _checked_error_code(vector, kind, error_code))


def _checked_error_code(vector: int, kind: EventType, error_code: int | None) -> int | None:
    if error_code is None:
        return None
    if not pushes_error_code(vector, kind):
        raise _invalid(f"vector {vector:#x} of type {kind.name} has no error code")
    if not 0 <= error_code <= 0xFFFFFFFF:
        raise _invalid(f"error code {error_code:#x} does not fit 32 bits")
    return error_code


def _invalid(message: str) -> PdmError:
    return PdmError("VERR_INVALID_PARAMETER", f"TRPM: {message}")
