"""TRPM: the one pending event, fault escalation, priorities (vmm.md section 4)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vbox_pdm import PdmError, StateError
from vbox_pdm.state import decode, encode
from vbox_vmm.trpm import (
    Escalation,
    EventType,
    TrapEvent,
    Trpm,
    TrpmState,
    escalation,
    next_event,
)

DF, GP, PF, UD = 8, 13, 14, 6
BENIGN = [1, 2, 3, 4, 5, 6, 7, 9, 16, 17, 18, 19]
CONTRIBUTORY = [0, 10, 11, 12, 13, 21]
WITH_CODE = {8, 10, 11, 12, 13, 14, 17, 21}


def trap(vector: int) -> TrapEvent:
    return TrapEvent(vector, EventType.TRAP, 0 if vector in WITH_CODE else None)


def status(caught: pytest.ExceptionInfo[PdmError]) -> str:
    return caught.value.status


def test_assert_trap_with_one_pending_raises_active_trap() -> None:
    trpm = Trpm()
    trpm.assert_trap(GP, EventType.TRAP)
    with pytest.raises(PdmError) as caught:
        trpm.assert_trap(3, EventType.TRAP)
    assert status(caught) == "VERR_TRPM_ACTIVE_TRAP"
    assert trpm.query_trap().vector == GP


@pytest.mark.parametrize("call", ["query_trap", "reset", "error_code", "fault_address", "set_icebp"])
def test_query_without_pending_event_raises_no_active_trap(call: str) -> None:
    with pytest.raises(PdmError) as caught:
        getattr(Trpm(), call)()
    assert status(caught) == "VERR_TRPM_NO_ACTIVE_TRAP"


@given(vector=st.integers(0, 31), kind=st.sampled_from(EventType))
def test_set_error_code_any_event_works_exactly_where_the_cpu_pushes_one(
    vector: int, kind: EventType
) -> None:
    trpm = Trpm()
    if kind is EventType.NMI:
        vector = 2
    trpm.assert_trap(vector, kind)
    if kind is EventType.TRAP and vector in WITH_CODE:
        trpm.set_error_code(0x18)
        assert trpm.error_code() == 0x18
    else:
        with pytest.raises(PdmError) as caught:
            trpm.set_error_code(0x18)
        assert status(caught) == "VERR_INVALID_PARAMETER"
        assert trpm.query_trap().error_code is None


def test_assert_page_fault_holds_address_and_code() -> None:
    trpm = Trpm()
    trpm.assert_page_fault(0xDEAD0000, 6)
    assert (trpm.fault_address(), trpm.error_code()) == (0xDEAD0000, 6)
    assert trpm.reset().vector == PF
    assert not trpm.has_trap


@pytest.mark.parametrize(
    ("vector", "kind"),
    [(256, EventType.HARDWARE_INT), (-1, EventType.TRAP), (32, EventType.TRAP), (3, EventType.NMI)],
)
def test_assert_trap_impossible_event_is_refused(vector: int, kind: EventType) -> None:
    trpm = Trpm()
    with pytest.raises(PdmError) as caught:
        trpm.assert_trap(vector, kind)
    assert status(caught) == "VERR_INVALID_PARAMETER"
    assert not trpm.has_trap


@pytest.mark.parametrize("first", BENIGN)
@pytest.mark.parametrize("second", [*BENIGN, *CONTRIBUTORY, PF])
def test_escalation_benign_first_is_serial(first: int, second: int) -> None:
    assert escalation(trap(first), second) is Escalation.SERIAL


@pytest.mark.parametrize("first", CONTRIBUTORY)
def test_escalation_contributory_first_doubles_only_with_contributory(first: int) -> None:
    for second in CONTRIBUTORY:
        assert escalation(trap(first), second) is Escalation.DOUBLE_FAULT
    for second in [*BENIGN, PF]:
        assert escalation(trap(first), second) is Escalation.SERIAL


def test_escalation_page_fault_first_doubles_with_page_fault_and_contributory() -> None:
    for second in [*CONTRIBUTORY, PF]:
        assert escalation(trap(PF), second) is Escalation.DOUBLE_FAULT
    for second in BENIGN:
        assert escalation(trap(PF), second) is Escalation.SERIAL


def test_escalation_double_fault_first_triples_unless_benign() -> None:
    for second in [*CONTRIBUTORY, PF]:
        assert escalation(trap(DF), second) is Escalation.TRIPLE_FAULT
    for second in BENIGN:
        assert escalation(trap(DF), second) is Escalation.SERIAL


@pytest.mark.parametrize("kind", [EventType.HARDWARE_INT, EventType.SOFTWARE_INT, EventType.NMI])
def test_escalation_interrupt_first_is_serial(kind: EventType) -> None:
    assert escalation(TrapEvent(GP, kind), GP) is Escalation.SERIAL
    assert escalation(None, GP) is Escalation.SERIAL


def test_escalate_fault_chain_ends_in_a_triple_fault_with_nothing_pending() -> None:
    trpm = Trpm()
    trpm.assert_trap(GP, EventType.TRAP, 0x10)

    assert trpm.escalate(11, 0x20) is Escalation.DOUBLE_FAULT
    assert trpm.query_trap() == TrapEvent(DF, EventType.TRAP, 0)
    assert trpm.escalate(PF, 2, 0x1000) is Escalation.TRIPLE_FAULT
    assert not trpm.has_trap


def test_escalate_page_fault_in_an_interrupt_replaces_it() -> None:
    trpm = Trpm()
    trpm.assert_trap(0x30, EventType.HARDWARE_INT)
    assert trpm.escalate(PF, 2, 0x5000) is Escalation.SERIAL
    assert trpm.query_trap() == TrapEvent(PF, EventType.TRAP, 2, 0x5000)


@given(*[st.booleans()] * 6)
def test_next_event_follows_the_priorities(
    exception: bool, nmi: bool, interrupt: bool, enabled: bool, shadow: bool, blocked: bool
) -> None:
    chosen = next_event(
        exception=exception,
        nmi=nmi,
        interrupt=interrupt,
        interrupts_enabled=enabled,
        interrupt_shadow=shadow,
        nmi_blocked=blocked,
    )
    candidates = [
        (exception, EventType.TRAP),
        (nmi and not blocked and not shadow, EventType.NMI),
        (interrupt and enabled and not shadow, EventType.HARDWARE_INT),
    ]
    assert chosen == next((kind for ready, kind in candidates if ready), None)


def test_inject_event_apic_without_vector_asks_the_pic() -> None:
    delivered: list[TrapEvent] = []
    event = Trpm().inject_event([lambda: -1, lambda: 0x20, lambda: 0x21], delivered.append)
    assert delivered == [event] == [TrapEvent(0x20, EventType.HARDWARE_INT)]


def test_inject_event_nobody_has_a_vector_delivers_nothing() -> None:
    assert Trpm().inject_event([lambda: -1], lambda event: pytest.fail("delivered")) is None


def test_inject_event_with_one_pending_acknowledges_nothing() -> None:
    trpm = Trpm()
    trpm.assert_trap(2, EventType.NMI)
    with pytest.raises(PdmError) as caught:
        trpm.inject_event([lambda: pytest.fail("acknowledged")], lambda event: None)
    assert status(caught) == "VERR_TRPM_ACTIVE_TRAP"


@given(
    vector=st.integers(0, 31),
    kind=st.sampled_from(EventType),
    length=st.integers(0, 15),
    pending=st.booleans(),
)
def test_save_and_load_any_event_restores_it(
    vector: int, kind: EventType, length: int, pending: bool
) -> None:
    trpm, other = Trpm(), Trpm()
    if pending:
        trpm.assert_trap(2 if kind is EventType.NMI else vector, kind)
        trpm.set_instruction_length(length)
    other.assert_page_fault(1, 2)

    other.load(decode(TrpmState, encode(trpm.save())))

    assert other.save() == trpm.save()


def test_load_impossible_event_is_refused_and_changes_nothing() -> None:
    trpm = Trpm()
    trpm.assert_trap(UD, EventType.TRAP)
    with pytest.raises(StateError):
        trpm.load(TrpmState(TrapEvent(0x80, EventType.TRAP)))
    assert trpm.query_trap().vector == UD


def test_info_pending_event_names_it() -> None:
    trpm = Trpm()
    assert "No event pending" in trpm.info()
    trpm.assert_page_fault(0x1234, 2)
    assert "#PF" in trpm.info()
    assert "0x0000000000001234" in trpm.info()
