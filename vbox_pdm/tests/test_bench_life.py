"""The life of instances on the bench: order of hooks, chains, completion, saved states."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from attrs import frozen
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from vbox_pdm import (
    CharStream,
    Clock,
    Device,
    DeviceType,
    Driver,
    DriverType,
    Keyboard,
    PdmError,
    Ports,
    Ram,
    State,
    StateError,
    hookimpl,
    key,
)
from vbox_pdm.instance import Phase
from vbox_pdm.testing import Bench, FakeStream, fake, fake_above

CALLS: list[str] = []
HOOKS = [
    "init_complete",
    "mem_setup",
    "power_on",
    "reset",
    "soft_reset",
    "suspend",
    "resume",
    "power_off",
    "destruct",
]


@pytest.fixture(autouse=True)
def no_calls() -> None:
    CALLS.clear()


def noting(name: str) -> dict[str, Callable[..., None]]:
    """All life-cycle hooks, each adding "name:hook" to CALLS."""

    def hook(which: str) -> Callable[..., None]:
        def plain(self: Any) -> None:
            CALLS.append(f"{name}:{which}")

        def with_reset(self: Any, at_reset: bool) -> None:
            CALLS.append(f"{name}:{which}({at_reset})")

        return with_reset if which == "mem_setup" else plain

    def with_lun(which: str) -> Callable[..., None]:
        return lambda self, lun: CALLS.append(f"{name}:{which}({lun})")

    found = {f"pdm_{which}": hook(which) for which in HOOKS}
    return found | {f"pdm_{which}": with_lun(which) for which in ("attach", "detach")}


def device_type(name: str, **options: Any) -> DeviceType:
    def construct(self: Any) -> None:
        CALLS.append(f"{name}:construct")
        self.line = self.helpers.lun(0, CharStream, "line")
        self.keys = self.helpers.lun(1, Keyboard, "keys")
        self.received = b""

    def received(self: Any, data: bytes) -> None:
        self.received += data

    members = {**noting(name), "pdm_construct": construct, "char_received": received}
    return DeviceType(name, type("Thing", (Device,), members), **options)


def driver_type(name: str, **options: Any) -> DriverType:
    """A filter of CharStream that adds its name to all that passes."""

    def construct(self: Any) -> None:
        CALLS.append(f"{name}:construct")

    def received(self: Any, data: bytes) -> None:
        self.above.char_received(data + name.encode())

    def send(self: Any, data: bytes) -> int:
        self.below.char_send(data + name.encode())
        return len(data)

    members = {**noting(name), "pdm_construct": construct, "char_received": received, "char_send": send}
    options = {"serves": CharStream, "wants": CharStream} | options
    return DriverType(name, type("Filter", (Driver,), members), **options)


UPPER, LOWER = driver_type("upper"), driver_type("lower")


def since() -> list[str]:
    found = list(CALLS)
    CALLS.clear()
    return found


# --- order


def test_hooks_are_called_in_order_of_the_facts() -> None:
    with Bench() as bench:
        bench.add(device_type("one"), lun0=[UPPER, LOWER])
        bench.add(device_type("two"))
        since()
        bench.power_on()
        assert since() == [
            *(f"{who}:init_complete" for who in ("upper", "lower", "one", "two")),
            *(f"{who}:mem_setup(False)" for who in ("upper", "lower", "one", "two")),
            *(f"{who}:power_on" for who in ("upper", "lower", "one", "two")),
        ]
        bench.reset()
        assert since() == [
            *(f"{who}:reset" for who in ("upper", "lower", "one", "two")),
            *(f"{who}:mem_setup(True)" for who in ("upper", "lower", "one", "two")),
        ]
        bench.suspend()
        bench.resume()
        bench.soft_reset()
        assert since() == [
            f"{who}:{hook}"
            for hook in ("suspend", "resume", "soft_reset")
            for who in ("upper", "lower", "one", "two")
        ]
    assert since() == [
        *(f"{who}:power_off" for who in ("upper", "lower", "one", "two")),
        *(f"{who}:destruct" for who in ("lower", "upper", "one", "two")),
    ]


def test_constructor_of_the_device_runs_first_and_drivers_from_the_bottom_up() -> None:
    with Bench() as bench:
        bench.add(device_type("one"), lun0=[UPPER, LOWER])
        assert since() == ["one:construct", "lower:construct", "upper:construct"]


@pytest.mark.parametrize(
    ("option", "hook", "act"),
    [
        ("reset_first", "reset", Bench.reset),
        ("suspend_first", "suspend", Bench.suspend),
        ("power_off_first", "power_off", Bench.power_off),
    ],
)
def test_first_notification_puts_the_device_before_its_drivers(
    option: str, hook: str, act: Callable[[Bench], None]
) -> None:
    with Bench() as bench:
        bench.add(device_type("one", **{option: True}), lun0=[UPPER])
        bench.power_on()
        since()
        act(bench)
        assert [call for call in since() if hook in call] == [f"one:{hook}", f"upper:{hook}"]


def test_destruct_is_called_once_whatever_happened_before() -> None:
    for steps in ([], ["power_on"], ["power_on", "power_off"], ["power_on", "suspend"], ["destruct"]):
        with Bench() as bench:
            bench.add(device_type("one"))
            for step in steps:
                getattr(bench, step)()
        calls = since()
        assert calls.count("one:destruct") == 1
        assert calls[-1] == "one:destruct"
        assert calls.count("one:power_off") == ("power_on" in steps)


def test_init_complete_that_raises_aborts_and_destruct_still_follows() -> None:
    def fail(self: Any) -> None:
        raise OSError("no role")

    kind = device_type("one")
    kind.device.pdm_init_complete = fail  # type: ignore[attr-defined]
    with Bench() as bench:
        bench.add(kind)
        with pytest.raises(OSError, match="no role"):
            bench.power_on()
        with pytest.raises(PdmError):
            bench.power_on()
    assert since() == ["one:construct", "one:destruct"]


@pytest.mark.parametrize("hook", ["reset", "suspend", "resume", "power_off", "destruct", "soft_reset"])
def test_notification_that_raises_is_a_failure_and_the_others_are_notified(hook: str) -> None:
    def fail(self: Any) -> None:
        raise OSError("broken")

    kind = device_type("bad")
    setattr(kind.device, f"pdm_{hook}", fail)
    bench = Bench(strict=False)
    bench.add(kind)
    bench.add(device_type("good"))
    bench.power_on()
    for step in ("reset", "soft_reset", "suspend", "resume", "power_off", "destruct"):
        getattr(bench, step)()
    assert [(f.title, f.where) for f in bench.failures] == [("bad#0", f"pdm_{hook}")]
    assert f"good:{hook}" in since()


@pytest.mark.parametrize(
    ("steps", "last"),
    [
        (["suspend", "suspend"], "suspend"),
        (["power_on", "power_on"], "power_on"),
        (["resume"], "resume"),
        (["power_on", "power_off", "resume"], "resume"),
        (["power_on", "power_off", "reset"], "reset"),
        (["power_on", "destruct", "suspend"], "suspend"),
    ],
)
def test_transition_that_is_not_legal_is_refused_and_calls_nobody(steps: list[str], last: str) -> None:
    with Bench() as bench:
        bench.add(device_type("one"))
        for step in steps[:-1]:
            getattr(bench, step)()
        since()
        if last == "resume" and len(steps) == 1:
            bench.power_on()
            since()
        with pytest.raises(PdmError) as caught:
            getattr(bench, last)()
        assert caught.value.status == "VERR_VM_INVALID_VM_STATE"
        assert since() == []


def test_phases_follow_the_machine() -> None:
    with Bench() as bench:
        instance = bench.instance(bench.add(device_type("one")))
        seen = [instance.phase]
        for step in ("power_on", "suspend", "resume", "power_off", "destruct"):
            getattr(bench, step)()
            seen.append(instance.phase)
    assert seen == [Phase.CONSTRUCTED, Phase.RUNNING, Phase.READY, Phase.RUNNING, Phase.OFF, Phase.DESTROYED]


# --- completion that comes later


class Slow(Device[None]):
    """Completes reset, suspend and power off when a queued item arrives."""

    def pdm_construct(self) -> None:
        self.queue = self.helpers.queue("done", self.arrived)
        self.pending = 0
        self.asked = 0
        self.busy = True

    def begin(self) -> None:
        if self.busy:
            self.pending = 1
            self.helpers.set_async_notification(self.done)
            threading.Timer(0.02, self.queue.put, [None]).start()

    pdm_reset = pdm_suspend = pdm_power_off = begin

    def done(self) -> bool:
        self.asked += 1
        return not self.pending

    def arrived(self, item: None) -> None:
        self.pending = 0
        self.helpers.async_notification_completed()


def test_async_notification_is_waited_for() -> None:
    with Bench() as bench:
        slow = bench.add(Slow)
        for step in ("reset", "suspend", "resume"):
            getattr(bench, step)()
            assert slow.pending == 0
        assert slow.asked >= 2


def test_device_waits_for_a_driver_that_is_pending() -> None:
    order: list[str] = []
    polls: list[None] = []

    class Below(Driver[None]):
        def pdm_reset(self) -> None:
            order.append("driver asked")
            self.helpers.set_async_notification(self.done)

        def done(self) -> bool:
            polls.append(None)
            if len(polls) < 3:
                return False
            order.append("driver done")
            return True

    kind = device_type("one")
    kind.device.pdm_reset = lambda self: order.append("device")  # type: ignore[attr-defined]
    other = device_type("two")
    other.device.pdm_reset = lambda self: order.append("other")  # type: ignore[attr-defined]
    with Bench() as bench:
        bench.add(kind, lun0=DriverType("below", Below, serves=CharStream))
        bench.add(other)
        bench.reset()
    assert order == ["driver asked", "other", "driver done", "device"]


def test_async_notification_outside_its_hooks_is_refused() -> None:
    with Bench() as bench:
        slow = bench.add(Slow)
        slow.busy = False
        bench.power_on()
        with pytest.raises(PdmError) as caught:
            slow.helpers.set_async_notification(lambda: True)
        assert caught.value.status == "VERR_WRONG_ORDER"


# --- chains


def test_traffic_passes_a_chain_in_both_directions() -> None:
    with Bench() as bench:
        device = bench.add(device_type("one"), lun0=[UPPER, LOWER, stream := FakeStream()])
        device.line.char_send(b">")
        stream.feed(b"<")
        assert stream.sent == b">upperlower"
        assert device.received == b"<lowerupper"
        assert [driver.instance for driver in bench.drivers(device)] == [0, 0]


def test_chain_from_a_tree_and_by_name_takes_its_configuration() -> None:
    @frozen
    class Config:
        size: int = key(64, span=(1, 1000))

    sized = driver_type("sized", config=Config)
    with Bench() as bench:
        bench.register(sized)
        bench.register(LOWER)
        tree = {"Driver": "sized", "Config": {"size": "5"}, "AttachedDriver": {"Driver": "lower"}}
        first = bench.add(device_type("one"), lun0=tree)
        second = bench.add(device_type("two"), lun0=("sized", {"size": 6}))
        third = bench.add(device_type("three"), lun0="sized")
        assert [bench.drivers(device)[0].config.size for device in (first, second, third)] == [5, 6, 64]
        assert [bench.drivers(device)[0].instance for device in (first, second, third)] == [0, 1, 2]
        assert len(bench.drivers(first)) == 2


TERMINAL = driver_type("terminal", wants=None)
NEEDY = driver_type("needy", needs_below=True)
SINGLE = driver_type("single", max_instances=1)


@pytest.mark.parametrize(
    ("below", "status"),
    [
        ("no such driver", "VERR_PDM_DRIVER_NOT_FOUND"),
        ({"Config": {}}, "VERR_PDM_CFG_MISSING_DRIVER_NAME"),
        ({"Driver": "upper", "Other": 1}, "VERR_CFGM_CONFIG_UNKNOWN_NODE"),
        ((UPPER, {"bogus": 1}), "VERR_CFGM_CONFIG_UNKNOWN_VALUE"),
        ([TERMINAL, LOWER], "VERR_PDM_DRVINS_NO_ATTACH"),
        ([TERMINAL, FakeStream()], "VERR_PDM_DRVINS_NO_ATTACH"),
        ([NEEDY], "VERR_PDM_NO_ATTACHED_DRIVER"),
        ([driver_type("keys", serves=Keyboard)], "VERR_PDM_MISSING_INTERFACE_BELOW"),
        ([SINGLE, SINGLE], "VERR_PDM_TOO_MANY_DRIVER_INSTANCES"),
        ([FakeStream(), LOWER], "VERR_INVALID_PARAMETER"),
        (type(UPPER.driver), "VERR_INVALID_PARAMETER"),
    ],
)
def test_chain_that_is_wrong_is_an_error_and_leaves_nothing(below: Any, status: str) -> None:
    if status == "VERR_INVALID_PARAMETER" and isinstance(below, type):
        below = UPPER.driver
    with Bench() as bench:
        bench.register(UPPER)
        with pytest.raises(PdmError) as caught:
            bench.add(device_type("one"), lun0=below)
        assert caught.value.status == status
        assert bench.backend.instances() == []
    calls = since()
    assert sum(call.endswith("construct") and "one" not in call for call in calls) == sum(
        call.endswith("destruct") and "one" not in call for call in calls
    )


def test_driver_that_fails_to_construct_destroys_the_chain_from_the_bottom_up() -> None:
    bad = driver_type("bad")

    def fail(self: Any) -> None:
        self.helpers.set_error("the cable is missing")
        raise OSError(5)

    bad.driver.pdm_construct = fail  # type: ignore[attr-defined]
    with Bench() as bench:
        text = "Failed to construct driver 'bad' instance #0: the cable is missing"
        with pytest.raises(PdmError, match=text) as caught:
            bench.add(device_type("one"), lun0=[UPPER, bad, LOWER])
        assert caught.value.status == "VERR_GENERAL_FAILURE"
    assert since() == ["one:construct", "lower:construct", "lower:destruct", "bad:destruct", "one:destruct"]


def test_driver_calls_up_in_construct_find_an_open_end() -> None:
    class Eager(Driver[None]):
        def pdm_construct(self) -> None:
            self.room = self.above.char_room()
            self.above.char_received(b"too early")
            self.connected = self.below.connected

    with Bench() as bench:
        kind = DriverType("eager", Eager, serves=CharStream, wants=CharStream)
        device = bench.add(device_type("one"), lun0=[kind, FakeStream()])
        (driver,) = bench.drivers(device)
        assert (driver.room, driver.connected, device.received) == (0, True, b"")


def test_attach_and_detach_at_run_time() -> None:
    with Bench() as bench:
        device = bench.add(device_type("one"), lun1=(keys := fake(Keyboard)))
        assert not device.line.connected
        bench.power_on()
        since()
        bench.attach(device, 0, [UPPER, stream := FakeStream()])
        assert since() == ["upper:construct", "upper:init_complete", "upper:power_on", "one:attach(0)"]
        assert device.line.connected
        assert device.line.char_send(b"x") == 1
        assert stream.sent == b"xupper"
        bench.detach(device, 0)
        assert since() == ["one:detach(0)", "upper:power_off", "upper:destruct"]
        assert not device.line.connected
        assert stream.above is None
        assert device.keys.connected
        assert keys.above is not None
        bench.attach("one#0", 0, stream)
        stream.feed(b"again")
        assert device.received == b"again"


def test_attach_and_detach_errors_leave_the_lun_as_it_was() -> None:
    with Bench() as bench:
        device = bench.add(device_type("one"), lun0=(stream := FakeStream()))
        for action, status in (
            (lambda: bench.attach(device, 0, FakeStream()), "VERR_PDM_DRIVER_ALREADY_ATTACHED"),
            (lambda: bench.attach(device, 5, FakeStream()), "VERR_PDM_LUN_NOT_FOUND"),
            (lambda: bench.detach(device, 5), "VERR_PDM_LUN_NOT_FOUND"),
            (lambda: bench.detach(device, 1), "VERR_PDM_NO_DRIVER_ATTACHED_TO_LUN"),
            (lambda: bench.attach(device, 1, UPPER), "VERR_PDM_MISSING_INTERFACE_BELOW"),
        ):
            with pytest.raises(PdmError) as caught:
                action()
            assert caught.value.status == status
        assert not device.keys.connected
        stream.feed(b"ok")
        assert device.received == b"ok"


def test_link_plugin_is_told_of_each_link_and_may_observe() -> None:
    class Sniffer:
        def __init__(self) -> None:
            self.links: list[tuple[str, int]] = []
            self.sent: list[bytes] = []

        @hookimpl
        def pdm_link_created(self, instance: Any, lun: int, link: Any) -> None:
            self.links.append((instance.title, lun))
            if instance.name == "one" and lun == 0:
                link.observe(self)

        @hookimpl(wrapper=True)
        def char_send(self, data: bytes) -> Any:
            self.sent.append(data)
            return (yield)

    sniffer = Sniffer()
    with Bench() as bench:
        bench.plugin(sniffer)
        device = bench.add(device_type("one"), lun0=[UPPER, stream := FakeStream()])
        assert sniffer.links == [("upper#0", 0), ("one#0", 0), ("one#0", 1)]
        device.line.char_send(b"q")
        assert sniffer.sent == [b"q"]
        assert stream.sent == b"qupper"
        assert bench.link(device).lower is bench.drivers(device)[0]
        assert bench.link(bench.drivers(device)[0]).lower is stream


# --- drivers alone, workers


def test_driver_stands_between_two_fakes() -> None:
    with Bench() as bench:
        above, below = fake_above(CharStream), fake(CharStream)
        above.answers["char_room"] = 9
        driver = bench.add_driver(UPPER, above=above, below=below)
        assert above.below.char_send(b"d") == 1
        below.traffic(lambda: below.above.char_received(b"u"))
        assert below.named("char_send") == [(b"dupper",)]
        assert above.calls == [("char_received", (b"uupper",))]
        assert below.above.char_room() == 0  # the filter does not pass it on
        assert driver.instance == 0


def test_bench_with_a_driver_that_ended_is_freed() -> None:
    with Bench() as bench:
        bench.add_driver(UPPER, above=fake_above(CharStream), below=fake(CharStream))
        bench.save()
    gone = weakref.ref(bench)
    del bench

    gc.collect()

    assert gone() is None  # nothing remembers it by a class that was made for it


def test_fakes_of_a_layer_are_of_one_class() -> None:
    assert type(fake(CharStream)) is type(fake(CharStream))
    assert type(fake_above(CharStream)) is type(fake_above(CharStream)) is not type(fake(CharStream))


class Reader(Driver[None]):
    """Reads from a pipe of the test in a worker."""

    source: Any

    def pdm_construct(self) -> None:
        self.queue = self.helpers.queue("read", self.arrived, capacity=4)
        self.event = threading.Event()
        self.items: list[bytes] = []
        self.runs = 0
        self.worker = self.helpers.worker("reader", self.run, self.event.set)

    def run(self, worker: Any) -> None:
        self.runs += 1
        while worker.running:
            self.event.wait()
            self.event.clear()
            while self.items:
                self.queue.put(self.items.pop(0))

    def arrived(self, data: bytes) -> None:
        self.above.char_received(data)


READER = DriverType("reader", Reader, serves=CharStream)


def test_worker_runs_while_the_machine_does_and_its_results_come_by_queue() -> None:
    with Bench() as bench:
        device = bench.add(device_type("one"), lun0=READER)
        (reader,) = bench.drivers(device)
        assert not reader.worker.running
        bench.power_on()
        assert reader.worker.running
        reader.items.append(b"hello")
        reader.event.set()
        assert bench.wait(lambda: device.received == b"hello")
        bench.suspend()
        assert not reader.worker.running
        bench.resume()
        assert reader.worker.running
        assert bench.wait(lambda: reader.runs == 2)
        bench.detach(device, 0)
        assert not reader.worker.running
        assert not bench.wait(lambda: False, timeout=0.01)


def test_worker_that_raises_is_a_failure_in_the_test() -> None:
    class Broken(Reader):
        def run(self, worker: Any) -> None:
            raise OSError("cable cut")

    with Bench() as bench:
        bench.add_driver(DriverType("broken", Broken, serves=CharStream))
        with pytest.raises(OSError, match="cable cut"):
            bench.wait(lambda: False, timeout=5)


# --- saved states


@frozen
class CounterState(State, version=1):
    count: int
    line: bool


class Counter(Device[None]):
    """Counts writes, keeps the last in RAM, ticks by a timer, raises its line when odd."""

    def pdm_construct(self) -> None:
        self.count = 0
        self.irq = self.helpers.isa_irq(7)
        self.ram = self.helpers.ram(Ram("vram", 4096))
        self.helpers.map_ram(0xD0000000, self.ram)
        self.tick = self.helpers.timer("tick", Clock.VIRTUAL_SYNC, self.write_tick)
        self.real = self.helpers.timer("real", Clock.REAL, lambda: None)
        self.helpers.map_ports(0x40, Ports("counter", 1, lambda o, s: self.count & 0xFF, self.write))

    def write(self, offset: int, size: int, value: int) -> None:
        self.count += 1
        self.ram.view[0] = value
        if value:
            self.tick.set_relative(value)
            self.real.set_relative(2 * value)
        self.update()

    def write_tick(self) -> None:
        self.count += 100
        self.update()

    def update(self) -> None:
        self.irq.set(bool(self.count & 1))

    def pdm_reset(self) -> None:
        self.count = 0
        self.tick.stop()
        self.real.stop()

    def pdm_save(self) -> CounterState:
        return CounterState(self.count, self.irq.level)

    def pdm_load(self, state: CounterState) -> None:
        self.count = state.count
        self.update()


COUNTER = DeviceType("counter", Counter)


class SavingMachine(RuleBasedStateMachine):
    """Whatever was done: a saved state loaded here or elsewhere is the machine that was saved."""

    def __init__(self) -> None:
        super().__init__()
        self.bench = Bench(ram=1 << 20)
        self.counter = self.bench.add(COUNTER)
        self.saved: dict[str, bytes] | None = None
        self.then: tuple[Any, ...] = ()

    def view(self) -> tuple[Any, ...]:
        bench, counter = self.bench, self.counter
        timers = counter.tick.expires, counter.real.active
        return (
            counter.count,
            bench.irq(7),
            counter.ram.view[0],
            timers,
            bench.now,
            bench.memory_read(0x100, 4),
        )

    @rule(value=st.integers(0, 255))
    def write(self, value: int) -> None:
        self.bench.port_write(0x40, 1, value)

    @rule(ns=st.integers(0, 300))
    def advance(self, ns: int) -> None:
        self.bench.advance(ns)

    @rule(data=st.binary(min_size=4, max_size=4))
    def memory(self, data: bytes) -> None:
        self.bench.memory_write(0x100, data)

    @rule()
    def reset(self) -> None:
        self.bench.reset()
        assert not self.bench.irq(7)
        once = self.view()
        self.bench.reset()
        assert self.view() == once

    @rule()
    def save(self) -> None:
        self.saved, self.then = self.bench.save(), self.view()

    @precondition(lambda self: self.saved is not None)
    @rule()
    def load(self) -> None:
        assert self.saved is not None
        edges = len(self.bench.irq_edges)
        self.bench.load(self.saved)
        assert self.view() == self.then
        assert len(self.bench.irq_edges) == edges
        assert self.bench.save() == self.saved

    @precondition(lambda self: self.saved is not None)
    @rule()
    def move(self) -> None:
        assert self.saved is not None
        self.bench.destruct()
        self.bench = Bench(ram=1 << 20)
        self.counter = self.bench.add(COUNTER)
        self.bench.load(self.saved)
        assert self.view() == self.then
        assert self.bench.save() == self.saved

    @invariant()
    def line_is_a_function_of_the_count(self) -> None:
        assert self.bench.irq(7) is bool(self.counter.count & 1)
        assert self.counter.irq.level is self.bench.irq(7)

    def teardown(self) -> None:
        self.bench.destruct()


TestSavingMachine = SavingMachine.TestCase
TestSavingMachine.settings = settings(max_examples=40, stateful_step_count=20, deadline=None)


def counting(value: int = 5) -> tuple[Bench, Any]:
    bench = Bench(ram=1 << 20)
    counter = bench.add(COUNTER)
    bench.port_write(0x40, 1, value)
    return bench, counter


def test_units_are_named_after_instances_and_the_host_has_its_own() -> None:
    bench, _ = counting()
    assert {unit for unit in bench.save() if ":" not in unit} == {"counter#0"}


@pytest.mark.parametrize("cut", [0, 1, 5, -1])
def test_load_of_a_damaged_unit_changes_nothing(cut: int) -> None:
    bench, counter = counting()
    saved = bench.save()
    bench.port_write(0x40, 1, 9)
    before = bench.save()
    for unit in saved:
        with pytest.raises(StateError):
            bench.load(saved | {unit: saved[unit][:cut]})
        assert bench.save() == before
    assert counter.count == 2
    assert bench.state == "running"


def test_load_of_other_units_is_a_mismatch_that_names_them() -> None:
    bench, _ = counting()
    saved = bench.save()
    for wrong, name in (
        ({k: v for k, v in saved.items() if not k.startswith("counter#0")}, "counter#0"),
        (saved | {"vga#0": b""}, "vga#0"),
    ):
        with pytest.raises(StateError, match=name) as caught:
            bench.load(wrong)
        assert caught.value.status == "VERR_SSM_LOAD_CONFIG_MISMATCH"


def test_load_into_other_memory_is_a_mismatch() -> None:
    bench, _ = counting()
    other = Bench(ram=2 << 20)
    other.add(COUNTER)
    with pytest.raises(StateError) as caught:
        other.load(bench.save())
    assert caught.value.status == "VERR_SSM_LOAD_MEMORY_SIZE_MISMATCH"


def test_load_that_the_device_refuses_puts_the_old_state_back() -> None:
    bench, counter = counting()
    saved = bench.save()
    bench.port_write(0x40, 1, 9)
    before = bench.save()
    original = Counter.pdm_load

    class Picky(Counter):
        def pdm_load(self, state: CounterState) -> None:
            if state.count == 1:
                raise ValueError("not that one")
            original(self, state)

    counter.__class__ = Picky
    manager = bench.instance(counter).manager
    manager.unregister(counter)
    manager.register(counter)
    with pytest.raises(StateError, match="not that one"):
        bench.load(saved)
    assert bench.save() == before


def test_device_that_raises_its_line_while_loading_is_a_failure() -> None:
    class Noisy(Counter):
        def pdm_load(self, state: CounterState) -> None:
            self.irq.set(True)

    with Bench(ram=1 << 20) as bench:
        noisy = bench.add(Noisy)
        saved = bench.save()
        with pytest.raises(PdmError, match="ISA line 7 changed while"):
            bench.load(saved)
        assert not bench.irq(7)
        assert not noisy.irq.level


def test_real_timer_keeps_its_remaining_time() -> None:
    bench, counter = counting(5)
    saved = bench.save()
    bench.advance(1000)
    bench.load(saved)
    bench.advance(9)
    assert counter.real.active
    bench.advance(1)
    assert not counter.real.active


def test_timers_of_one_expiry_fire_in_their_order_after_load() -> None:
    fired: list[str] = []

    def construct(self: Any) -> None:
        self.a = self.helpers.timer("a", Clock.VIRTUAL, lambda: fired.append("a"))
        self.b = self.helpers.timer("b", Clock.VIRTUAL, lambda: fired.append("b"))

    with Bench(ram=1 << 20) as bench:
        thing = bench.add(DeviceType("thing", type("Thing", (Device,), {"pdm_construct": construct})))
        thing.b.set(10)
        thing.a.set(10)
        saved = bench.save()
        bench.load(saved)
        bench.advance(10)
    assert fired == ["b", "a"]


def test_save_of_what_the_annotation_does_not_say_is_an_error() -> None:
    class Liar(Counter):
        def pdm_save(self) -> CounterState:
            return State()  # type: ignore[return-value]

    with Bench(ram=1 << 20) as bench:
        bench.add(Liar)
        with pytest.raises(StateError, match="Liar#0 returned a State"):
            bench.save()
        assert bench.state == "running"


def test_info_is_what_the_device_says() -> None:
    class Talker(Device[None]):
        def pdm_info(self, arguments: str) -> str:
            return f"said {arguments}"

    with Bench() as bench:
        assert bench.info(bench.add(Talker), "x") == "said x"
        assert bench.info(bench.add(COUNTER)) is None
