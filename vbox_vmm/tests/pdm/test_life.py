"""The life cycle of all instances, and that nothing stays behind."""

from __future__ import annotations

import gc
import os
import threading
from typing import Any

import pytest
from pdm_things import Bottom, Bridge, Config, Everything, Thing, chain, types

from vbox_pdm import (
    CharStream,
    Clock,
    DeviceClass,
    DeviceType,
    DriverType,
    PdmError,
    Ports,
    RuntimeErrorFlags,
)
from vbox_pdm.instance import Phase


def test_notifications_go_top_down_with_drivers_before_their_device(thing_vm: Any, log: list[str]) -> None:
    chain(thing_vm, "filter", "bottom")
    thing_vm.pdm.construct()
    assert log[:3] == ["thing0.construct", "bottom0.construct", "filter0.construct"]
    for action, hook in (
        (lambda: thing_vm.pdm.mem_setup(at_reset=False), "mem_setup"),
        (thing_vm.pdm.power_on, "power_on"),
        (thing_vm.pdm.suspend, "suspend"),
        (thing_vm.pdm.resume, "resume"),
        (thing_vm.pdm.reset, "reset"),
        (thing_vm.pdm.soft_reset, "soft_reset"),
        (thing_vm.pdm.power_off, "power_off"),
    ):
        log.clear()
        action()
        assert log == [f"filter0.{hook}", f"bottom0.{hook}", f"thing0.{hook}"]
    log.clear()
    thing_vm.pdm.destruct()
    thing_vm.pdm.destruct()
    assert log == ["bottom0.destruct", "filter0.destruct", "thing0.destruct"]


def test_first_notification_flags_put_the_device_before_its_drivers(vm: Any, log: list[str]) -> None:
    vm.register(*types(log, reset_first=True, suspend_first=True, power_off_first=True))
    chain(vm, "bottom")
    vm.pdm.construct()
    vm.start()
    log.clear()
    vm.pdm.reset()
    vm.pdm.suspend()
    vm.pdm.resume()
    vm.pdm.power_off()
    assert [line for line in log if "resume" not in line] == [
        "thing0.reset", "bottom0.reset", "thing0.suspend", "bottom0.suspend",
        "thing0.power_off", "bottom0.power_off",
    ]  # fmt: skip
    assert log.index("bottom0.resume") < log.index("thing0.resume")


def test_pending_driver_holds_back_its_device_and_no_other(vm: Any, log: list[str]) -> None:
    pending = {"count": 3}

    class Slow(Bottom):
        def pdm_suspend(self) -> None:
            self.note("suspend")
            self.helpers.set_async_notification(self.done)

        def done(self) -> bool:
            self.log.append("asked")
            pending["count"] -= 1
            self.helpers.async_notification_completed()
            return pending["count"] == 0

    slow = type("Slow", (Slow,), {"log": log})
    vm.register(*types(log), DriverType("slow", slow, Config, serves=CharStream))
    chain(vm, "slow")
    vm.configure("Devices/thing/1/", 0)
    vm.pdm.construct()
    vm.start()
    log.clear()
    vm.pdm.suspend()
    assert log == [
        "bottom0.suspend", "thing1.suspend", "asked", "asked", "asked", "thing0.suspend",
    ]  # fmt: skip


def test_completion_may_come_by_a_queue_from_another_thread(vm: Any, log: list[str]) -> None:
    class Flushing(Thing):
        def pdm_suspend(self) -> None:
            self.got.clear()
            self.helpers.set_async_notification(lambda: bool(self.got))
            threading.Timer(0.05, lambda: self.queue.put("flushed")).start()

    vm.register(DeviceType("thing", type("F", (Flushing,), {"log": log}), Config))
    (thing,) = vm.build("thing")
    vm.start()
    vm.pdm.suspend()
    assert thing.got == ["flushed"]


def test_notification_that_raises_when_asked_again_counts_as_done(vm: Any, log: list[str]) -> None:
    class Bad(Thing):
        def pdm_power_off(self) -> None:
            self.helpers.set_async_notification(lambda: 1 // 0 == 0)

    vm.register(DeviceType("thing", type("B", (Bad,), {"log": log}), Config))
    vm.build("thing")
    vm.start()
    vm.pdm.power_off()
    assert vm.iom.failures.counts == {"thing#0": 1}


def test_asynchronous_notification_outside_its_hooks_is_refused(thing_vm: Any) -> None:
    (thing,) = thing_vm.build("thing")
    thing_vm.start()
    with pytest.raises(PdmError) as caught:
        thing.helpers.set_async_notification(lambda: True)
    assert caught.value.status == "VERR_WRONG_ORDER"


@pytest.mark.parametrize("hook", ["power_on", "resume", "reset", "suspend", "power_off"])
def test_hook_that_raises_is_reported_and_the_others_follow(thing_vm: Any, log: list[str], hook: str) -> None:
    thing_vm.configure("Devices/thing/0/Config/fail", hook)
    thing_vm.configure("Devices/thing/1/", 0)
    thing_vm.pdm.construct()
    thing_vm.start()
    thing_vm.pdm.suspend()
    thing_vm.pdm.resume()
    thing_vm.pdm.reset()
    thing_vm.pdm.power_off()
    assert f"thing1.{hook}" in log
    assert thing_vm.iom.failures.counts == {"thing#0": 1}
    suspends = [flags for flags, _, _ in thing_vm.runtime_errors]
    assert suspends == ([RuntimeErrorFlags.SUSPEND] if hook in ("power_on", "resume", "reset") else [])


def test_phases_follow_the_life(thing_vm: Any) -> None:
    thing_vm.build("thing")
    (instance,) = thing_vm.pdm.instances()
    seen = [instance.phase]
    for action in (thing_vm.start, thing_vm.pdm.suspend, thing_vm.pdm.resume, thing_vm.pdm.power_off,
                   thing_vm.pdm.destruct):  # fmt: skip
        action()
        seen.append(instance.phase)
    assert seen == [Phase.READY, Phase.RUNNING, Phase.READY, Phase.RUNNING, Phase.OFF, Phase.DESTROYED]


def test_reset_lowers_lines_first_and_power_off_too(thing_vm: Any) -> None:
    (thing,) = thing_vm.build("thing")
    thing_vm.start()
    for action in (thing_vm.pdm.reset, thing_vm.pdm.power_off):
        thing.irq.set(True)
        assert thing_vm.pdm.isa.level(5)
        action()
        assert not thing_vm.pdm.isa.level(5)
        assert not thing.irq.level


def test_queue_items_wait_while_suspended(thing_vm: Any) -> None:
    (thing,) = thing_vm.build("thing")
    thing_vm.start()
    thing_vm.pdm.suspend()
    thing.queue.put(1)
    thing_vm.serve()
    assert thing.got == []
    thing_vm.pdm.resume()
    thing_vm.serve()
    assert thing.got == [1]


def test_failing_timer_is_reported_with_its_device(thing_vm: Any) -> None:
    thing_vm.configure("Devices/thing/0/Config/fail", "tick")
    (thing,) = thing_vm.build("thing")
    thing_vm.start()
    thing.timer.set_relative(10)
    thing_vm.host += 100
    thing_vm.tm.run_due()
    assert thing.value == 1
    assert thing_vm.iom.failures.counts == {"thing#0": 1}


def test_helpers_that_create_are_refused_later(thing_vm: Any) -> None:
    (thing,) = thing_vm.build("thing")
    for create in (
        lambda: thing.helpers.timer("late", Clock.VIRTUAL, thing.tick),
        lambda: thing.helpers.isa_irq(3),
        lambda: thing.helpers.queue("late", print),
        lambda: thing.helpers.map_ports(0x500, Ports("x", 1)),
        lambda: thing.helpers.lun(9, CharStream, "late"),
    ):
        with pytest.raises(PdmError) as caught:
            create()
        assert caught.value.status == "VERR_WRONG_ORDER"


def test_info_items_are_the_devices_own_texts(thing_vm: Any) -> None:
    thing_vm.build("thing")
    items = thing_vm.pdm.info_items()
    assert items["thing#0"]("all") == "value 0 all"
    assert "thing#0 of test-plugin: ready" in items["pdm"]("")


def test_hundred_machines_leave_neither_memory_nor_files_nor_threads(make_vm: Any) -> None:
    from vbox_vmm.pdm.manager import Pdm

    def one() -> None:
        vm = make_vm()
        vm.register(
            *types([]),
            DeviceType("bridge", Bridge, device_class=DeviceClass.BUS_PCI),
            DeviceType("nic", Everything),
        )
        chain(vm, "filter", "bottom")
        vm.configure("Devices/thing/0/", 0)
        vm.build("bridge", "nic")
        vm.start()
        vm.pdm.power_off()
        vm.close()

    def count() -> tuple[int, int, int]:
        gc.collect()
        machines = sum(isinstance(item, Pdm) and not item._destructed for item in gc.get_objects())
        return len(os.listdir("/proc/self/fd")), threading.active_count(), machines

    one()
    before = count()
    for _ in range(100):
        one()
    assert count() == before


def test_objects_of_a_destroyed_machine_are_freed(make_vm: Any) -> None:
    import weakref

    vm = make_vm()
    vm.register(*types([]))
    chain(vm, "filter", "bottom")
    (thing,) = vm.build("thing")
    references = [weakref.ref(thing), weakref.ref(vm.pdm.wiring.query_lun("thing", 0, 0).object)]
    del thing
    vm.pdm.destruct()
    vm.requests.clear()
    gc.collect()
    assert [reference() for reference in references] == [None, None]
