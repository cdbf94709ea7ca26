"""PDM as a whole: building from the configuration, the life cycle, chains at run time, saved states,
and that nothing stays behind."""

from __future__ import annotations

import gc
import os
import threading
from typing import Any

import pytest
from attrs import frozen

from vbox_pdm import (
    CharStream,
    Clock,
    ConfigError,
    Device,
    DeviceClass,
    DeviceType,
    Driver,
    DriverType,
    Mmio,
    Msi,
    PciIdentity,
    PdmError,
    Ports,
    Ram,
    Rom,
    RuntimeErrorFlags,
    ShadowMode,
    State,
    StateError,
    hookimpl,
    key,
)
from vbox_pdm.instance import Phase
from vbox_pdm.pci import BAR0, COMMAND

HOOKS = [
    "pdm_init_complete", "pdm_mem_setup", "pdm_power_on", "pdm_reset", "pdm_soft_reset", "pdm_suspend",
    "pdm_resume", "pdm_power_off", "pdm_destruct", "pdm_attach", "pdm_detach",
]  # fmt: skip


@frozen
class Config:
    port: int = key(0x100, span=(0, 0xFFFF), help="first port")
    fail: str = key("", help="where to fail")


@frozen
class ThingState(State, version=1):
    value: int


class Recorder:
    """Writes down which hook of whom is called."""

    log: list[str]
    helpers: Any
    config: Any
    instance: int
    kind = ""

    def note(self, hook: str) -> None:
        self.log.append(f"{self.kind}{self.instance}.{hook}")
        if self.config.fail == hook:
            raise ValueError(f"{hook} fails")


def _noting(hook: str) -> Any:
    names = {"pdm_mem_setup": "at_reset", "pdm_attach": "lun", "pdm_detach": "lun"}
    if hook in names:
        source = f"def {hook}(self, {names[hook]}): self.note({hook[4:]!r})"
    else:
        source = f"def {hook}(self): self.note({hook[4:]!r})"
    scope: dict[str, Any] = {}
    exec(source, scope)
    return scope[hook]


for _hook in HOOKS:
    setattr(Recorder, _hook, _noting(_hook))


class Thing(Recorder, Device[Config]):
    """A device with one of everything."""

    kind = "thing"
    luns = 1

    def pdm_construct(self) -> None:
        self.note("construct")
        helpers = self.helpers
        self.value = 0
        self.got: list[Any] = []
        self.irq = helpers.isa_irq(5)
        self.timer = helpers.timer("tick", Clock.VIRTUAL, self.tick)
        self.queue = helpers.queue("input", self.got.append)
        self.ends = [helpers.lun(n, CharStream, f"stream {n}") for n in range(self.luns)]
        self.mapping = helpers.map_ports(
            self.config.port + 16 * self.instance, Ports("regs", 4, self.read, self.write)
        )
        if self.config.fail == "late":
            raise ValueError("late")

    def tick(self) -> None:
        self.value += 1
        if self.config.fail == "tick":
            raise ValueError("tick")

    def read(self, offset: int, size: int) -> int:
        return self.value

    def write(self, offset: int, size: int, value: int) -> None:
        self.value = value

    def char_received(self, data: bytes) -> None:
        self.got.append(data)

    def pdm_save(self) -> ThingState:
        return ThingState(self.value)

    def pdm_load(self, state: ThingState) -> None:
        if state.value == 666:
            raise ValueError("not that one")
        self.value = state.value

    def pdm_info(self, arguments: str) -> str:
        return f"value {self.value} {arguments}"


class Filter(Recorder, Driver[Config]):
    kind = "filter"

    def pdm_construct(self) -> None:
        self.note("construct")
        self.timer = self.helpers.timer("t", Clock.VIRTUAL, lambda: None)

    def char_send(self, data: bytes) -> int:
        return int(self.below.char_send(data))

    def char_received(self, data: bytes) -> None:
        self.above.char_received(data)


class Bottom(Recorder, Driver[Config]):
    kind = "bottom"

    def pdm_construct(self) -> None:
        self.note("construct")
        self.sent: list[bytes] = []

    def char_send(self, data: bytes) -> int:
        self.sent.append(data)
        return len(data)


def types(log: list[str], **more: Any) -> list[Any]:
    thing = type("Thing", (Thing,), {"log": log})
    return [
        DeviceType("thing", thing, Config, device_class=DeviceClass.SERIAL, **more),
        DeviceType("early", type("Early", (Thing,), {"log": log, "kind": "early", "luns": 0}), Config,
                   device_class=DeviceClass.ARCH),
        DriverType("filter", type("Filter", (Filter,), {"log": log}), Config, serves=CharStream, wants=CharStream),
        DriverType("bottom", type("Bottom", (Bottom,), {"log": log}), Config, serves=CharStream, max_instances=2),
    ]  # fmt: skip


def chain(vm: Any, *names: str, where: str = "Devices/thing/0/LUN#0") -> None:
    for name in names:
        vm.configure(f"{where}/Driver", name)
        where += "/AttachedDriver"


@pytest.fixture
def log() -> list[str]:
    return []


@pytest.fixture
def thing_vm(vm: Any, log: list[str]) -> Any:
    vm.register(*types(log))
    return vm


# --- building


def test_devices_are_built_by_class_then_in_the_order_of_the_tree(thing_vm: Any, log: list[str]) -> None:
    for path in ("Devices/thing/2/", "Devices/thing/0/", "Devices/early/0/Config/"):
        thing_vm.configure(path, 0)
    thing_vm.configure("Devices/early/0/Config/port", 0x400)
    thing_vm.pdm.construct()
    assert log == [
        "early0.construct", "thing0.construct", "thing2.construct",
        "early0.init_complete", "thing0.init_complete", "thing2.init_complete",
    ]  # fmt: skip


def test_priority_beats_the_class(thing_vm: Any, log: list[str]) -> None:
    thing_vm.configure("Devices/thing/Priority", 0)
    thing_vm.configure("Devices/thing/0/", 0)
    thing_vm.configure("Devices/early/Priority", 1)
    thing_vm.configure("Devices/early/0/Config/port", 0x400)
    thing_vm.pdm.construct()
    assert log[:2] == ["thing0.construct", "early0.construct"]


@pytest.mark.parametrize(
    ("path", "value", "status", "text"),
    [
        ("Devices/nothing/0/", 0, "VERR_PDM_DEVICE_NOT_FOUND", "nothing"),
        ("Devices/thing/x/", 0, "VERR_CFGM_INVALID_CHILD_PATH", "'x' below /Devices/thing"),
        ("Devices/thing/00/", 0, "VERR_CFGM_NODE_EXISTS", "'0' and '00'"),
        ("Devices/thing/0/Bogus", 1, "VERR_CFGM_CONFIG_UNKNOWN_VALUE", "'/Bogus'.*thing instance #0"),
        ("Devices/thing/0/Bogus/", 0, "VERR_CFGM_CONFIG_UNKNOWN_NODE", "'/Bogus'.*thing instance #0"),
        ("Devices/thing/Bogus", 1, "VERR_CFGM_CONFIG_UNKNOWN_VALUE", "'/Bogus'"),
        ("Devices/thing/0/Config/bogus", 1, "VERR_CFGM_CONFIG_UNKNOWN_VALUE", "'/bogus'.*thing instance #0"),
        ("Devices/thing/0/Config/bogus/", 1, "VERR_CFGM_CONFIG_UNKNOWN_NODE", "'/bogus'.*thing instance #0"),
        ("Devices/thing/0/Config/port", 0x10000, "VERR_OUT_OF_RANGE", "port"),
        ("Devices/thing/0/Config/port", "text", "VERR_CFGM_NOT_INTEGER", "port"),
        ("Devices/thing/0/LUN#x/Driver", "bottom", "VERR_CFGM_CONFIG_UNKNOWN_NODE", "LUN#x"),
        ("Devices/thing/0/LUN#0/", 0, "VERR_PDM_CFG_MISSING_DRIVER_NAME", "LUN#0 of thing instance #0"),
        ("Devices/thing/0/LUN#0/Driver", "nothing", "VERR_PDM_DRIVER_NOT_FOUND", "nothing"),
        ("Devices/thing/0/LUN#7/Driver", "bottom", "VERR_PDM_LUN_NOT_FOUND", "LUN#7"),
        ("Devices/thing/0/TracingEnabled", 1, "VERR_INCOMPATIBLE_CONFIG", "Tracing"),
        ("Devices/thing/0/PCIBusNo", 1, "VERR_PDM_NO_PCI_BUS", "bus 1"),
        ("Devices/thing/0/PCIDeviceNo", 32, "VERR_OUT_OF_RANGE", "0..31"),
    ],
)
def test_wrong_configuration_is_refused_by_name_and_nothing_stays(
    thing_vm: Any, path: str, value: Any, status: str, text: str
) -> None:
    thing_vm.configure("Devices/thing/0/", 0)
    thing_vm.configure(path, value)
    with pytest.raises(PdmError, match=text) as caught:
        thing_vm.pdm.construct()
    assert caught.value.status == status
    assert thing_vm.pdm.instances() == []
    assert thing_vm.iom.entries == []


def test_too_many_instances_are_refused(vm: Any, log: list[str]) -> None:
    vm.register(*types(log, max_instances=1))
    vm.configure("Devices/thing/0/", 0)
    vm.configure("Devices/thing/1/", 0)
    with pytest.raises(PdmError) as caught:
        vm.pdm.construct()
    assert caught.value.status == "VERR_PDM_TOO_MANY_DEVICE_INSTANCES"
    assert log == []


@pytest.mark.parametrize("where", ["construct", "late", "init_complete"])
def test_failed_creation_destroys_everything_once_and_says_who(
    thing_vm: Any, log: list[str], where: str
) -> None:
    chain(thing_vm, "filter", "bottom")
    thing_vm.configure("Devices/early/0/Config/port", 0x400)
    thing_vm.configure("Devices/thing/0/Config/fail", where)
    if where == "init_complete":
        with pytest.raises(ValueError, match="fails"):
            thing_vm.pdm.construct()
    else:
        with pytest.raises(
            PdmError, match="Failed to construct device 'thing' instance #0: ValueError"
        ) as caught:
            thing_vm.pdm.construct()
        assert isinstance(caught.value.__cause__, ValueError)
    assert log.count("thing0.destruct") == log.count("early0.destruct") == 1
    if where == "late":
        ends = [line for line in log if line.endswith("destruct")]
        assert ends == ["bottom0.destruct", "filter0.destruct", "thing0.destruct", "early0.destruct"]
    assert thing_vm.pdm.instances() == []
    assert thing_vm.tm.timers == ()
    assert thing_vm.iom.entries == []


def test_failed_driver_destroys_the_partial_chain_from_the_bottom(thing_vm: Any, log: list[str]) -> None:
    chain(thing_vm, "filter", "bottom")
    thing_vm.configure("Devices/thing/0/LUN#0/Config/fail", "construct")
    with pytest.raises(PdmError, match="Failed to construct driver 'filter' instance #0"):
        thing_vm.pdm.construct()
    assert [line for line in log if "destruct" in line] == [
        "bottom0.destruct", "filter0.destruct", "thing0.destruct",
    ]  # fmt: skip


def test_wrong_driver_configuration_leaves_no_instance_behind(thing_vm: Any) -> None:
    chain(thing_vm, "filter", "bottom")
    thing_vm.configure("Devices/thing/0/LUN#0/AttachedDriver/Config/bogus", 1)
    with pytest.raises(ConfigError, match="bogus"):
        thing_vm.pdm.construct()
    assert thing_vm.pdm.owned_records() == []


def test_config_error_of_a_constructor_keeps_its_kind_and_status(vm: Any) -> None:
    class Picky(Device[Any]):
        def pdm_construct(self) -> None:
            raise ConfigError("VERR_PDM_MISSING_INTERFACE", "no screen", "attach one")

    vm.register(DeviceType("picky", Picky))
    with pytest.raises(
        ConfigError, match="Failed to construct device 'picky' instance #0: no screen"
    ) as caught:
        vm.build("picky")
    assert (caught.value.status, caught.value.remedy) == ("VERR_PDM_MISSING_INTERFACE", "attach one")


def test_version_mismatch_of_a_constructor_is_the_devices(vm: Any) -> None:
    class Old(Device[Any]):
        def pdm_construct(self) -> None:
            raise PdmError("VERR_VERSION_MISMATCH", "too old")

    vm.register(DeviceType("old", Old))
    with pytest.raises(PdmError) as caught:
        vm.build("old")
    assert caught.value.status == "VERR_PDM_DEVICE_VERSION_MISMATCH"


def test_no_devices_at_all_is_legal(vm: Any) -> None:
    vm.pdm.construct()
    vm.start()
    vm.pdm.suspend()


# --- the life cycle


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
        "thing0.reset", "bottom0.reset", "thing0.suspend", "bottom0.suspend", "thing0.power_off", "bottom0.power_off",
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


# --- helpers


class Everything(Device[Any]):
    """What the thing above has not."""

    def pdm_construct(self) -> None:
        helpers = self.helpers
        self.vram = helpers.ram(Ram("vram", 0x4000))
        helpers.map_ram(0xA0000, self.vram)
        self.rom = helpers.map_rom(0xF0000, Rom("bios", b"\xea" + bytes(0xFFFF)))
        self.pci = helpers.pci(PciIdentity(0x8086, 0x100E, class_code=0x020000), capabilities=[Msi(1)])
        self.pci.bar(0, Mmio("regs", 0x100, self.read, self.write))
        self.pci.bar(1, Ports("io", 8, self.read))
        self.pci.bar(2, self.vram)
        self.pci.rom(Rom("option", b"\x55\xaa" + bytes(100)))
        self.wrote: list[Any] = []

    def read(self, offset: int, size: int) -> int:
        return 0x42

    def write(self, offset: int, size: int, value: int) -> None:
        self.wrote.append((offset, size, value))


class Bridge(Device[Any]):
    """Host bridge, router, interrupt controller, clock and DMA controller in one."""

    def pdm_construct(self) -> None:
        self.bus = self.helpers.provide_pci_bus()
        self.intr = self.helpers.provide_pic(self)
        self.helpers.provide_pci_router(self)
        self.helpers.provide_rtc(self)
        self.helpers.provide_dmac(self)
        self.irqs: list[Any] = []
        self.routes: list[Any] = []
        self.cmos = bytearray(128)

    def set_irq(self, line: int, level: bool) -> None:
        self.irqs.append((line, level))
        self.intr.interrupt(level)

    def pulse_irq(self, line: int) -> None: ...

    def acknowledge(self) -> int:
        return 0x20

    def route(self, device: int, pin: int, level: bool) -> None:
        self.routes.append((device, pin, level))

    def cmos_read(self, index: int) -> int:
        return self.cmos[index]

    def cmos_write(self, index: int, value: int) -> None:
        self.cmos[index] = value

    def attach(self, channel: int, transfer: Any) -> Any:
        return ("channel", channel)


@pytest.fixture
def pc(vm: Any) -> Any:
    vm.register(
        DeviceType("bridge", Bridge, device_class=DeviceClass.BUS_PCI),
        DeviceType("nic", Everything, device_class=DeviceClass.NETWORK),
    )
    return vm


def test_bars_follow_the_guest_and_reset_unmaps_them(pc: Any) -> None:
    engine = pc.with_engine()
    bridge, nic = pc.build("bridge", "nic")
    assert bridge.bus.function(1, 0) is nic.pci
    assert bridge.bus.function(2, 0) is None
    nic.pci.config_write(BAR0, 4, 0xE0000000)
    nic.pci.config_write(BAR0 + 4, 4, 0xC000)
    nic.pci.config_write(BAR0 + 8, 4, 0xE1000000)
    nic.pci.config_write(0x30, 4, 0xE2000001)
    assert [row.first for row in engine.mmio] == []
    nic.pci.config_write(COMMAND, 2, 7)
    # A ROM of 2 KiB is less than an engine maps: handlers read it.
    assert [(row.first, row.size) for row in engine.mmio] == [(0xE0000000, 0x100), (0xE2000000, 0x800)]
    assert [row.first for row in engine.ports] == [0xC000]
    assert pc.pgm.read(0xE2000000, 2) == b"\x55\xaa"
    assert pc.pgm.read(0xE2000000 + 102, 2) == b"\xff\xff"
    nic.vram.view[0] = 0x99
    assert pc.pgm.read(0xE1000000, 1) == pc.pgm.read(0xA0000, 1) == b"\x99"
    pc.start()
    pc.pdm.reset()
    assert list(engine.mmio) == list(engine.ports) == []
    assert 0xE1000000 not in engine.pages


def test_interrupts_of_pci_functions_reach_the_router(pc: Any) -> None:
    bridge, nic = pc.build("bridge", "nic")
    nic.pci.set_irq(True)
    nic.pci.set_irq(False)
    assert bridge.routes == [(1, 0, True), (1, 0, False)]


def test_message_is_written_to_memory_only_by_a_bus_master(pc: Any) -> None:
    _, nic = pc.build("bridge", "nic")
    nic.pci.config_write(0x44, 4, 0x200000)
    nic.pci.config_write(0x4C, 2, 0x1234)
    nic.pci.config_write(0x42, 2, 1)
    nic.pci.send_message(0)
    assert pc.pgm.read(0x200000, 4) == bytes(4)
    nic.pci.config_write(COMMAND, 2, 4)
    assert pc.pgm.read(0x200000, 4) == b"\x34\x12\0\0"


def test_dma_of_a_function_that_is_no_bus_master_is_scratch(pc: Any) -> None:
    _, nic = pc.build("bridge", "nic")
    pc.pgm.write(0x200000, b"data")
    handle = nic.pci.dma(0x200000, 4)
    assert (bytes(handle.views[0]), handle.complete) == (b"\xff" * 4, False)
    nic.pci.config_write(COMMAND, 2, 4)
    with nic.pci.dma(0x200000, 4) as (view,):
        assert bytes(view) == b"data"


def test_interrupt_controller_drives_intr_and_is_asked_for_the_vector(pc: Any) -> None:
    bridge, nic = pc.build("bridge", "nic")
    assert pc.pdm.acknowledge() == -1
    bridge.intr.interrupt(True)
    bridge.intr.interrupt(True)
    assert pc.intr == [True]
    assert pc.pdm.acknowledge() == 0x20
    bridge.intr.interrupt(False)
    assert pc.pdm.acknowledge() == -1


def test_roles_are_found_or_named_as_missing(pc: Any) -> None:
    bridge, nic = pc.build("bridge", "nic")
    nic.helpers.cmos_write(0x10, 0x40)
    assert nic.helpers.cmos_read(0x10) == bridge.cmos[0x10] == 0x40
    assert nic.helpers.dma_channel(2, lambda position, length: position) == ("channel", 2)
    with pytest.raises(PdmError):
        nic.helpers.dma_channel(4, lambda position, length: position)


def test_pci_device_without_a_bus_is_refused(vm: Any) -> None:
    vm.register(DeviceType("nic", Everything))
    with pytest.raises(PdmError, match="nic#0") as caught:
        vm.build("nic")
    assert caught.value.status == "VERR_PDM_NO_PCI_BUS"


def test_configured_slot_is_used_and_a_taken_one_refused(pc: Any) -> None:
    pc.configure("Devices/nic/0/PCIDeviceNo", 7)
    pc.configure("Devices/nic/0/PCIFunctionNo", 1)
    bridge, nic = pc.build("bridge", "nic")
    assert bridge.bus.function(7, 1) is nic.pci


def test_two_devices_in_one_slot_are_refused_by_name(make_vm: Any) -> None:
    vm = make_vm()
    other = type("Other", (Device,), {
        "pdm_construct": lambda self: self.helpers.pci(PciIdentity(1, 2, class_code=0), device=7) and None})  # fmt: skip
    vm.register(DeviceType("bridge", Bridge, device_class=DeviceClass.BUS_PCI), DeviceType("a", other),
                DeviceType("b", other))  # fmt: skip
    with pytest.raises(PdmError, match=r"b#0 asks for PCI address 7\.0, which a#0 has"):
        vm.build("bridge", "a", "b")


def test_a20_shadow_and_nmi_mask_return_to_power_on_at_reset(pc: Any) -> None:
    _, nic = pc.build("bridge", "nic")
    pc.start()
    helpers = nic.helpers
    helpers.set_a20(False)
    helpers.mask_nmi(True)
    helpers.shadow(0xF0000, 0x10000, ShadowMode.READ_RAM_WRITE_RAM)
    helpers.nmi()
    assert pc.nmis == 0
    assert pc.pgm.read(0xF0000, 1) == b"\0"
    pc.pdm.reset()
    assert helpers.a20()
    assert pc.pgm.read(0xF0000, 1) == b"\xea"
    helpers.nmi()
    assert pc.nmis == 1


# --- chains


def test_traffic_goes_through_the_chain_in_both_directions(thing_vm: Any) -> None:
    chain(thing_vm, "filter", "bottom")
    (thing,) = thing_vm.build("thing")
    bottom = thing_vm.pdm.wiring.query_driver_on_lun("thing", 0, 0, "bottom").object
    assert thing.ends[0].connected
    assert thing.ends[0].char_send(b"down") == 4
    assert bottom.sent == [b"down"]
    bottom.above.char_received(b"up")
    assert thing.got == [b"up"]


def test_lookup_errors_come_one_after_the_other(thing_vm: Any) -> None:
    thing_vm.build("thing")
    wiring = thing_vm.pdm.wiring
    for call, status in (
        (lambda: wiring.query_device("nothing", 0), "VERR_PDM_DEVICE_NOT_FOUND"),
        (lambda: wiring.query_device("thing", 5), "VERR_PDM_DEVICE_INSTANCE_NOT_FOUND"),
        (lambda: wiring.query_device_lun("thing", 0, 9), "VERR_PDM_LUN_NOT_FOUND"),
        (lambda: wiring.query_lun("thing", 0, 0), "VERR_PDM_NO_DRIVER_ATTACHED_TO_LUN"),
        (lambda: wiring.device_attach("thing", 0, 0), "VERR_PDM_NO_ATTACHED_DRIVER"),
        (lambda: wiring.device_attach("thing", 0, 9), "VERR_PDM_LUN_NOT_FOUND"),
    ):
        with pytest.raises(PdmError) as caught:
            call()
        assert caught.value.status == status


def test_attach_and_detach_at_run_time_live_through_their_lives(thing_vm: Any, log: list[str]) -> None:
    (thing,) = thing_vm.build("thing")
    thing_vm.start()
    wiring = thing_vm.pdm.wiring
    chain(thing_vm, "filter", "bottom")
    log.clear()
    wiring.device_attach("thing", 0, 0)
    assert thing.ends[0].connected
    assert log == [
        "bottom0.construct", "filter0.construct", "filter0.init_complete", "bottom0.init_complete",
        "filter0.power_on", "bottom0.power_on", "thing0.attach",
    ]  # fmt: skip
    with pytest.raises(PdmError) as caught:
        wiring.device_attach("thing", 0, 0)
    assert caught.value.status == "VERR_PDM_DRIVER_ALREADY_ATTACHED"
    log.clear()
    assert wiring.device_detach("thing", 0, 0) == "VINF_SUCCESS"
    assert not thing.ends[0].connected
    assert log == [
        "thing0.detach", "filter0.power_off", "bottom0.power_off", "bottom0.destruct", "filter0.destruct",
    ]  # fmt: skip
    assert wiring.device_detach("thing", 0, 0) == "VINF_PDM_NO_DRIVER_ATTACHED_TO_LUN"


def test_driver_attached_while_suspended_is_powered_on_at_resume(thing_vm: Any, log: list[str]) -> None:
    thing_vm.build("thing")
    thing_vm.start()
    thing_vm.pdm.suspend()
    chain(thing_vm, "bottom")
    thing_vm.pdm.wiring.device_attach("thing", 0, 0)
    assert "bottom0.power_on" not in log
    log.clear()
    thing_vm.pdm.resume()
    assert log == ["bottom0.power_on", "thing0.resume"]


def test_driver_is_attached_below_the_lowest_and_detached_with_all_below(
    thing_vm: Any, log: list[str]
) -> None:
    chain(thing_vm, "filter")
    (thing,) = thing_vm.build("thing")
    thing_vm.start()
    wiring = thing_vm.pdm.wiring
    thing_vm.configure("Devices/thing/0/LUN#0/AttachedDriver/Driver", "bottom")
    wiring.driver_attach("thing", 0, 0)
    bottom = wiring.query_driver_on_lun("thing", 0, 0, "bottom").object
    thing.ends[0].char_send(b"x")
    assert bottom.sent == [b"x"]
    with pytest.raises(PdmError) as caught:
        wiring.driver_attach("thing", 0, 0)
    assert caught.value.status == "VERR_PDM_DRVINS_NO_ATTACH"
    with pytest.raises(PdmError) as caught:
        wiring.driver_detach("thing", 0, 0, "bottom", 1)
    assert caught.value.status == "VERR_PDM_DRIVER_INSTANCE_NOT_FOUND"
    log.clear()
    assert wiring.driver_detach("thing", 0, 0, "bottom") == "VINF_SUCCESS"
    assert log == ["filter0.detach", "bottom0.power_off", "bottom0.destruct"]
    assert [driver.name for driver in wiring.lun(thing_vm.pdm.instances()[0], 0).drivers] == ["filter"]
    wiring.driver_attach("thing", 0, 0)
    assert wiring.driver_detach("thing", 0, 0) == "VINF_SUCCESS"
    assert not thing.ends[0].connected


def test_device_and_driver_without_callbacks_refuse_run_time_changes(vm: Any) -> None:
    class Fixed(Device[Any]):
        def pdm_construct(self) -> None:
            self.helpers.lun(0, CharStream, "stream")

    class Plain(Driver[Any]):
        def char_send(self, data: bytes) -> int:
            return len(data)

    vm.register(
        DeviceType("fixed", Fixed),
        DriverType("plain", Plain, serves=CharStream, wants=CharStream),
    )
    chain(vm, "plain", where="Devices/fixed/0/LUN#0")
    vm.build("fixed")
    wiring = vm.pdm.wiring
    for call, status in (
        (lambda: wiring.device_detach("fixed", 0, 0), "VERR_PDM_DRIVER_DETACH_NOT_POSSIBLE"),
        (lambda: wiring.driver_attach("fixed", 0, 0), "VERR_PDM_DRIVER_NO_RT_ATTACH"),
    ):
        with pytest.raises(PdmError) as caught:
            call()
        assert caught.value.status == status
    wiring.detach(vm.pdm.instances()[0], 0)
    with pytest.raises(PdmError) as caught:
        wiring.device_attach("fixed", 0, 0)
    assert caught.value.status == "VERR_PDM_DEVICE_NO_RT_ATTACH"


def test_failing_attach_leaves_the_lun_empty_and_usable(thing_vm: Any, log: list[str]) -> None:
    (thing,) = thing_vm.build("thing")
    thing_vm.start()
    chain(thing_vm, "filter", "bottom")
    thing_vm.configure("Devices/thing/0/LUN#0/Config/fail", "init_complete")
    with pytest.raises(ValueError, match="init_complete fails"):
        thing_vm.pdm.wiring.device_attach("thing", 0, 0)
    assert not thing.ends[0].connected
    assert [owned.instance.title for owned in thing_vm.pdm.owned_records()] == ["thing#0"]
    thing_vm.cfgm.child("Devices/thing/0/LUN#0/Config").remove_value("fail")
    thing_vm.pdm.wiring.device_attach("thing", 0, 0)
    assert thing.ends[0].connected


def test_too_many_drivers_are_refused(thing_vm: Any) -> None:
    for number in range(3):
        chain(thing_vm, "bottom", where=f"Devices/thing/{number}/LUN#0")
    with pytest.raises(PdmError) as caught:
        thing_vm.pdm.construct()
    assert caught.value.status == "VERR_PDM_TOO_MANY_DRIVER_INSTANCES"


def test_link_hooks_hear_of_every_link_and_observers_see_the_traffic(thing_vm: Any) -> None:
    seen: list[str] = []
    traffic: list[bytes] = []

    class Sniffer:
        @hookimpl(wrapper=True)
        def char_send(self, data: bytes) -> Any:
            traffic.append(data)
            return (yield)

    class Plugin:
        @hookimpl
        def pdm_link_created(self, instance: Any, lun: int, link: Any) -> None:
            seen.append(f"{instance.title}/{lun}")
            if not getattr(link, "sniffed", False):
                link.sniffed = True
                link.observe(Sniffer())

    thing_vm.catalogue.manager.register(Plugin())
    chain(thing_vm, "filter", "bottom")
    (thing,) = thing_vm.build("thing")
    assert sorted(seen) == ["filter#0/0", "thing#0/0"]
    thing.ends[0].char_send(b"x")
    assert traffic == [b"x", b"x"]


# --- saved states


def saved_pair(make_vm: Any) -> tuple[Any, Any, Any, Any]:
    machines = []
    for _ in range(2):
        vm = make_vm()
        vm.register(*types([]))
        chain(vm, "filter", "bottom")
        (thing,) = vm.build("thing")
        vm.start()
        vm.tm.pause()
        vm.pdm.suspend()
        machines += [vm, thing]
    return tuple(machines)  # type: ignore[return-value]


def test_saved_state_of_everything_comes_back_and_is_identical(make_vm: Any) -> None:
    one, thing, two, other = saved_pair(make_vm)
    thing.value, other.value = 7, 0
    thing.irq.set(True)
    thing.timer.set(5000)
    saved = one.pdm.save()
    assert sorted(saved) == [
        ":pdm", "thing#0", "thing#0/LUN#0/filter#0:helpers", "thing#0:helpers",
    ]  # fmt: skip
    two.pdm.load(saved)
    two.pdm.load(saved)
    assert (other.value, other.irq.level, other.timer.expires) == (7, True, 5000)
    assert two.pdm.isa.level(5)
    assert two.pdm.save() == saved
    two.pdm.resume()
    other.irq.set(False)
    assert not two.pdm.isa.level(5)


@pytest.mark.parametrize(
    ("damage", "status"),
    [
        (lambda saved: saved.pop("thing#0:helpers"), "VERR_SSM_LOAD_CONFIG_MISMATCH"),
        (lambda saved: saved.update(extra=b""), "VERR_SSM_LOAD_CONFIG_MISMATCH"),
        (lambda saved: saved.update({"thing#0": saved["thing#0"][:-1]}), "VERR_SSM_LOADED_TOO_MUCH"),
        (lambda saved: saved.update({"thing#0": saved["thing#0"] + b"\0"}), "VERR_SSM_LOADED_TOO_LITTLE"),
        (lambda saved: saved.update({"thing#0": b"\x09" + saved["thing#0"][1:]}),
         "VERR_SSM_UNSUPPORTED_DATA_UNIT_VERSION"),
    ],
)  # fmt: skip
def test_state_that_does_not_fit_changes_nothing(make_vm: Any, damage: Any, status: str) -> None:
    one, thing, _, _ = saved_pair(make_vm)
    saved = one.pdm.save()
    thing.value = 9
    thing.irq.set(True)
    before = one.pdm.save()
    damage(saved)
    with pytest.raises(StateError) as caught:
        one.pdm.load(saved)
    assert caught.value.status == status
    assert one.pdm.save() == before


def test_state_that_the_device_refuses_is_rolled_back(make_vm: Any) -> None:
    one, thing, _, _ = saved_pair(make_vm)
    thing.value = 666
    saved = one.pdm.save()
    thing.value = 9
    before = one.pdm.save()
    with pytest.raises(StateError, match="thing#0 cannot load its state"):
        one.pdm.load(saved)
    assert one.pdm.save() == before


def test_loading_tells_no_controller_and_pci_comes_back_mapped(make_vm: Any) -> None:
    machines = []
    for _ in range(2):
        vm = make_vm()
        vm.register(
            DeviceType("bridge", Bridge, device_class=DeviceClass.BUS_PCI), DeviceType("nic", Everything)
        )
        vm.with_engine()
        machines.append((vm, *vm.build("bridge", "nic")))
    (one, bridge, nic), (two, bridge2, nic2) = machines
    nic.pci.config_write(BAR0, 4, 0xE0000000)
    nic.pci.config_write(COMMAND, 2, 7)
    nic.pci.set_irq(True)
    bridge.intr.interrupt(True)
    nic.vram.view[0x123] = 0x77
    two.pdm.load(one.pdm.save())
    assert bridge2.routes == bridge2.irqs == []
    assert two.pdm.intx.level(1, 0)
    assert two.intr == [True]
    assert nic2.vram.view[0x123] == 0x77
    assert [row.first for row in two.engine.mmio] == [0xE0000000]
    nic2.pci.set_irq(False)
    assert bridge2.routes == [(1, 0, False)]
    assert two.pdm.save() == two.pdm.save()


def test_device_that_raises_a_line_while_loading_is_reported(make_vm: Any) -> None:
    class Eager(Thing):
        def pdm_load(self, state: ThingState) -> None:
            self.irq.set(True)

    vm = make_vm()
    vm.register(DeviceType("thing", type("E", (Eager,), {"log": []}), Config))
    (thing,) = vm.build("thing")
    vm.pdm.load(vm.pdm.save())
    assert vm.iom.failures.counts == {"thing#0": 1}
    assert not vm.pdm.isa.level(5)
    assert not thing.irq.level


# --- nothing stays behind


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
