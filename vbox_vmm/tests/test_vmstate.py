"""The state table of vmm.md section 1, and the machine that enforces it."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vbox_pdm import PdmError
from vbox_vmm.vmstate import TRANSITIONS, StateMachine, VmState

STATES = st.sampled_from(VmState)


def test_table_every_state_has_a_row() -> None:
    assert set(TRANSITIONS) == set(VmState)


def test_table_every_state_but_terminated_leads_to_terminated() -> None:
    for start in VmState:
        seen, todo = {start}, [start]
        while todo:
            for state in TRANSITIONS[todo.pop()] - seen:
                seen.add(state)
                todo.append(state)
        # CREATING fails by being destroyed, without a state change of its own; all else ends.
        assert VmState.TERMINATED in seen


def test_table_every_state_is_reachable_from_creating() -> None:
    seen, todo = {VmState.CREATING}, [VmState.CREATING]
    while todo:
        for state in TRANSITIONS[todo.pop()] - seen:
            seen.add(state)
            todo.append(state)
    assert seen == set(VmState)


@given(old=STATES, new=STATES)
def test_change_any_pair_succeeds_exactly_as_the_table_says(old: VmState, new: VmState) -> None:
    machine = StateMachine(old)
    heard: list[tuple[VmState, VmState]] = []
    machine.at_state(lambda new, old: heard.append((new, old)))

    if new in TRANSITIONS[old]:
        assert machine.change(new) is old
        assert machine.current is new
        assert heard == [(new, old)]
    else:
        with pytest.raises(PdmError) as caught:
            machine.change(new)
        assert caught.value.status == "VERR_VM_INVALID_VM_STATE"
        assert f"'{old.name}'" in str(caught.value)
        assert f"'{new.name}'" in str(caught.value)
        assert machine.current is old
        assert heard == []


def test_change_allowed_logs_both_names(caplog: pytest.LogCaptureFixture) -> None:
    machine = StateMachine()
    with caplog.at_level("INFO", "vbox.VM"):
        machine.change(VmState.CREATED)
    assert "Changing the VM state from 'CREATING' to 'CREATED'" in caplog.text


def test_at_state_callback_that_changes_the_state_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    machine = StateMachine(VmState.RUNNING)

    def meddle(new: VmState, old: VmState) -> None:
        machine.change(VmState.SUSPENDED)

    machine.at_state(meddle)
    later: list[VmState] = []
    machine.at_state(lambda new, old: later.append(new))

    machine.change(VmState.SUSPENDING)

    assert machine.current is VmState.SUSPENDING
    assert later == [VmState.SUSPENDING]
    assert "VERR_VM_INVALID_VM_STATE" in caplog.text


def test_at_state_callback_that_destroys_is_delivered_after_its_own_round() -> None:
    machine = StateMachine(VmState.POWERING_OFF)
    heard: list[VmState] = []

    def destroy(new: VmState, old: VmState) -> None:
        if new is VmState.OFF:
            machine.change(VmState.DESTROYING)

    machine.at_state(destroy)
    machine.at_state(lambda new, old: heard.append(new))

    machine.change(VmState.OFF)

    assert heard == [VmState.OFF, VmState.DESTROYING]
    assert machine.current is VmState.DESTROYING


def test_remove_at_state_registered_is_silent_afterwards() -> None:
    machine = StateMachine()
    heard: list[VmState] = []

    def callback(new: VmState, old: VmState) -> None:
        heard.append(new)

    machine.at_state(callback)
    machine.remove_at_state(callback)
    machine.change(VmState.CREATED)

    assert heard == []
    with pytest.raises(PdmError):
        machine.remove_at_state(callback)


def test_require_other_state_raises() -> None:
    machine = StateMachine()
    assert machine.require(VmState.CREATING, VmState.OFF) is VmState.CREATING
    with pytest.raises(PdmError, match="CREATING, not in RUNNING"):
        machine.require(VmState.RUNNING)


def test_wait_for_state_passed_quickly_is_not_missed() -> None:
    machine = StateMachine(VmState.RUNNING)
    waiting = threading.Event()
    found: list[VmState | None] = []

    def wait() -> None:
        waiting.set()
        found.append(machine.wait_for({VmState.SUSPENDED}, 10))

    thread = threading.Thread(target=wait)
    thread.start()
    waiting.wait()
    while not machine._waiters:
        pass
    for state in (VmState.SUSPENDING, VmState.SUSPENDED, VmState.RESUMING, VmState.RUNNING):
        machine.change(state)
    thread.join(10)

    assert found == [VmState.SUSPENDED]


def test_wait_for_timeout_returns_none() -> None:
    assert StateMachine().wait_for(VmState.RUNNING, 0.01) is None
    assert StateMachine().wait_for(VmState.CREATING) is VmState.CREATING


def test_wait_for_state_of_a_terminated_vm_returns_none() -> None:
    assert StateMachine(VmState.TERMINATED).wait_for(VmState.RUNNING) is None


def test_change_from_many_threads_happens_once() -> None:
    machine = StateMachine()
    outcomes: list[bool] = []
    start = threading.Barrier(8)

    def work() -> None:
        start.wait()
        try:
            machine.change(VmState.CREATED)
            outcomes.append(True)
        except PdmError:
            outcomes.append(False)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(outcomes) == [False] * 7 + [True]
