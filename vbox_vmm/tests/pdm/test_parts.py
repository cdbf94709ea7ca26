"""The small parts of PDM: lines, queues, workers, roles, the watchdog, failures."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vbox_pdm import Device, DeviceType, PdmError, RuntimeErrorFlags
from vbox_pdm.instance import Instance
from vbox_vmm.failures import LIMIT, Failures
from vbox_vmm.pdm import roles
from vbox_vmm.pdm.lines import IntxPins, IsaLines
from vbox_vmm.pdm.queues import BATCH, Queues
from vbox_vmm.pdm.roles import Roles
from vbox_vmm.pdm.watchdog import Watch, Watchdog
from vbox_vmm.pdm.workers import Workers


class FakePic:
    def __init__(self) -> None:
        self.heard: list[Any] = []

    def set_irq(self, line: int, level: bool) -> None:
        self.heard.append((line, level))

    def pulse_irq(self, line: int) -> None:
        self.heard.append((line, "pulse"))

    def acknowledge(self) -> int:
        return 8


def no_failure(where: str, error: BaseException) -> None:
    raise AssertionError(where) from error


# --- ISA lines


@given(
    st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["high", "low", "pulse", "load"]), st.booleans()))
)
def test_shared_line_is_high_while_any_owner_holds_it(steps: list[tuple[int, str, bool]]) -> None:
    lines, pic = IsaLines(no_failure), FakePic()
    lines.connect(pic)  # type: ignore[arg-type]
    handles = [lines.handle(5) for _ in range(4)]
    held = [False] * 4
    heard: list[Any] = []
    for index, action, loaded in steps:
        before = any(held)
        if action == "pulse":
            if held[index]:
                held[index] = False
                heard += [] if any(held) else [(5, False)]
            elif not before:
                heard.append((5, "pulse"))
            handles[index].pulse()
        elif action == "load":
            held[index] = loaded
            handles[index].load(loaded)
        else:
            held[index] = action == "high"
            if any(held) != before:
                heard.append((5, any(held)))
            handles[index].set(4 if held[index] else 0)  # type: ignore[arg-type]  # any truth will do
        assert [handle.level for handle in handles] == held
        assert lines.level(5) == any(held)
        assert pic.heard == heard


def test_line_that_is_high_when_the_controller_comes_is_told() -> None:
    lines, pic = IsaLines(no_failure), FakePic()
    lines.handle(3).set(True)
    lines.connect(pic)  # type: ignore[arg-type]
    assert pic.heard == [(3, True)]


def test_tap_hears_before_the_controller_and_without_one() -> None:
    order: list[str] = []
    lines = IsaLines(no_failure, lambda line, level: order.append(f"tap {line} {level}"))
    handle = lines.handle(4)
    handle.set(True)
    assert order == ["tap 4 True"]
    pic = FakePic()
    pic.set_irq = lambda line, level: order.append("pic")  # type: ignore[method-assign]
    lines.connect(pic)  # type: ignore[arg-type]
    order.clear()
    handle.set(False)
    handle.pulse()
    assert order == ["tap 4 False", "pic", "tap 4 True", "tap 4 False"]


def test_controller_that_raises_is_blamed_and_not_the_device() -> None:
    failures: list[str] = []
    lines = IsaLines(lambda where, error: failures.append(f"{where}: {error}"))

    class Broken(FakePic):
        def set_irq(self, line: int, level: bool) -> None:
            raise ValueError("pic")

    lines.connect(Broken())  # type: ignore[arg-type]
    lines.handle(7).set(True)
    assert failures == ["set_irq(7, True): pic"]


def test_muted_lines_change_silently_but_are_told_on() -> None:
    lines, pic, said = IsaLines(no_failure), FakePic(), []
    lines.connect(pic)  # type: ignore[arg-type]
    handle = lines.handle(1)
    lines.mute(said.append)
    handle.set(True)
    handle.load(False)
    handle.pulse()
    lines.mute(None)
    assert pic.heard == []
    assert len(said) == 2
    handle.set(True)
    assert pic.heard == [(1, True)]


def test_lower_all_and_drop_let_go_of_the_line() -> None:
    lines, pic = IsaLines(no_failure), FakePic()
    lines.connect(pic)  # type: ignore[arg-type]
    one, two = lines.handle(1), lines.handle(1)
    one.set(True)
    two.set(True)
    lines.lower_all()
    assert pic.heard == [(1, True), (1, False)]
    one.set(True)
    lines.drop(one)
    assert not lines.level(1)
    assert not one.level


# --- INTx


class FakeRouter:
    def __init__(self) -> None:
        self.heard: list[tuple[int, int, bool]] = []

    def route(self, device: int, pin: int, level: bool) -> None:
        self.heard.append((device, pin, level))


def test_pin_is_the_or_of_the_functions_of_a_slot() -> None:
    pins, router = IntxPins(no_failure), FakeRouter()
    pins.connect(router)
    pins.set("a", 3, 0, True)
    pins.set("b", 3, 0, True)
    pins.set("a", 3, 0, False)
    pins.set("b", 3, 0, True)
    assert router.heard == [(3, 0, True)]
    pins.set("b", 3, 0, False)
    assert router.heard == [(3, 0, True), (3, 0, False)]


def test_function_that_changes_its_pin_lets_go_of_the_old_one() -> None:
    pins, router = IntxPins(no_failure), FakeRouter()
    pins.connect(router)
    pins.set("a", 3, 0, True)
    pins.set("a", 3, 2, True)
    assert router.heard == [(3, 0, True), (3, 0, False), (3, 2, True)]
    assert not pins.level(3, 0)


def test_router_that_comes_late_hears_of_high_pins_and_load_is_silent() -> None:
    pins, router = IntxPins(no_failure), FakeRouter()
    pins.load({"a": (4, 1), "b": (4, 1)})
    assert pins.level(4, 1)
    pins.connect(router)
    assert router.heard == [(4, 1, True)]
    pins.set("a", 4, 1, False)
    assert len(router.heard) == 1


# --- queues


class Posted:
    def __init__(self) -> None:
        self.requests: deque[Callable[[], None]] = deque()

    def serve(self) -> int:
        count = 0
        for _ in range(len(self.requests)):
            self.requests.popleft()()
            count += 1
        return count


def test_queue_hands_on_in_order_with_one_request_for_many_items() -> None:
    posted, seen = Posted(), []
    queues = Queues(posted.requests.append)
    queue = queues.create("q", seen.append, 100, no_failure)
    for item in range(10):
        assert queue.put(item)
    assert posted.serve() == 1
    assert seen == list(range(10))


def test_full_queue_takes_nothing() -> None:
    posted, seen = Posted(), []
    queue = Queues(posted.requests.append).create("q", seen.append, 2, no_failure)
    assert [queue.put(item) for item in range(3)] == [True, True, False]
    posted.serve()
    assert seen == [0, 1]
    assert queue.put(3)


def test_queue_without_room_is_refused() -> None:
    with pytest.raises(PdmError):
        Queues(lambda request: None).create("q", print, 0, no_failure)


def test_parked_queue_keeps_its_items_until_it_goes_on() -> None:
    posted, seen = Posted(), []
    queues = Queues(posted.requests.append)
    queue = queues.create("q", seen.append, 100, no_failure)
    queue.put(1)
    queues.park()
    posted.serve()
    queue.put(2)
    posted.serve()
    assert seen == []
    queues.unpark()
    posted.serve()
    assert seen == [1, 2]


def test_consumer_that_raises_is_reported_and_the_rest_follows() -> None:
    posted, failures, seen = Posted(), [], []

    def consume(item: int) -> None:
        if item == 1:
            raise ValueError("one")
        seen.append(item)

    queue = Queues(posted.requests.append).create(
        "q", consume, 10, lambda where, error: failures.append((where, str(error)))
    )
    for item in range(3):
        queue.put(item)
    posted.serve()
    assert seen == [0, 2]
    assert failures == [("queue q", "one")]


def test_queue_that_fills_itself_lets_the_guest_run_in_between() -> None:
    posted = Posted()
    queue: Any = Queues(posted.requests.append).create("q", lambda item: queue.put(item), 10, no_failure)
    queue.put(1)
    posted.serve()
    assert len(posted.requests) == 1
    assert BATCH < 10_000


def test_closed_queue_takes_nothing_and_forgets_what_it_had() -> None:
    posted, seen = Posted(), []
    queues = Queues(posted.requests.append)
    queue = queues.create("q", seen.append, 10, no_failure)
    queue.put(1)
    queues.drop(queue)
    assert not queue.put(2)
    posted.serve()
    assert seen == []


def test_items_from_many_threads_arrive_once_and_in_each_threads_order() -> None:
    requests: deque[Callable[[], None]] = deque()
    seen: list[tuple[int, int]] = []
    queue = Queues(requests.append).create("q", seen.append, 1 << 20, no_failure)

    def put(thread: int) -> None:
        for number in range(2000):
            assert queue.put((thread, number))

    threads = [threading.Thread(target=put, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads) or requests:
        while requests:
            requests.popleft()()
    assert len(seen) == 8000
    for index in range(4):
        assert [number for thread, number in seen if thread == index] == list(range(2000))


# --- workers


class Job:
    """Blocks until it is woken, counts its runs."""

    def __init__(self) -> None:
        self.runs = 0
        self.event = threading.Event()
        self.started = threading.Event()

    def run(self, worker: Any) -> None:
        self.runs += 1
        self.started.set()
        while worker.running:
            self.event.wait(10)
            self.event.clear()

    def wake(self) -> None:
        self.event.set()


def test_worker_runs_while_the_vm_runs_and_leaves_no_thread() -> None:
    before = threading.active_count()
    workers, job = Workers(lambda request: request()), Job()
    worker = workers.create("net#0", "poll", job.run, job.wake, no_failure)
    assert threading.active_count() == before
    for round_ in range(1, 4):
        job.started.clear()
        workers.start()
        assert job.started.wait(5)
        assert job.runs == round_
        workers.halt()
        assert threading.active_count() == before
    workers.drop(worker)
    workers.start()
    assert job.runs == 3


def test_worker_that_raises_is_reported_on_the_emt() -> None:
    posted, failures = Posted(), []
    workers = Workers(posted.requests.append)

    def run(worker: Any) -> None:
        raise ValueError("lost")

    workers.create(
        "net#0", "poll", run, lambda: None, lambda where, error: failures.append((where, str(error)))
    )
    workers.start()
    deadline = time.monotonic() + 5
    while not posted.requests and time.monotonic() < deadline:
        time.sleep(0.001)
    assert failures == []
    posted.serve()
    assert failures == [("worker poll", "lost")]
    workers.halt()


# --- roles


def owner(name: str) -> Instance:
    return Instance(DeviceType(name, Device), 0, Device(), "test-plugin")


@pytest.mark.parametrize(
    ("role", "status"),
    [
        (roles.PIC, "VERR_PDM_NO_PIC_INSTANCE"),
        (roles.RTC, "VERR_PDM_NO_RTC_INSTANCE"),
        (roles.DMAC, "VERR_PDM_NO_DMAC_INSTANCE"),
        (roles.PCI_BUS, "VERR_PDM_NO_PCI_BUS"),
    ],
)
def test_missing_role_has_its_own_status(role: str, status: str) -> None:
    with pytest.raises(PdmError, match="floppy#0 needs") as caught:
        Roles().require(role, "floppy#0")
    assert caught.value.status == status


def test_role_is_played_once_and_free_again_after_release() -> None:
    held, one, two = Roles(), owner("one"), owner("two")
    held.provide(roles.RTC, one, "one")
    with pytest.raises(PdmError, match=r"two#0 wants .* one#0") as caught:
        held.provide(roles.RTC, two, "two")
    assert caught.value.status == "VERR_ALREADY_EXISTS"
    assert held.release(one) == [roles.RTC]
    held.provide(roles.RTC, two, "two")
    assert held.player(roles.RTC) == "two"


def test_stand_in_gives_way_to_a_device() -> None:
    held = Roles()
    held.stand_in(roles.RTC, "stand-in")
    assert held.require(roles.RTC, "x") == "stand-in"
    held.provide(roles.RTC, owner("rtc"), "device")
    assert held.require(roles.RTC, "x") == "device"


# --- the watchdog


def test_watchdog_names_the_call_that_does_not_return() -> None:
    reports: list[tuple[str, str, float, str]] = []
    watch = Watch(0, lambda frame: "slow#0" if frame.f_code.co_name == "callback" else None,
                  lambda *report: reports.append(report))  # fmt: skip

    def callback() -> Any:
        def inner() -> Any:
            return sys._getframe()

        frame = inner()
        for now in (0.0, 4.9, 5.1, 9.0, 10.5, 20.0, 21.5):
            watch.look(frame, now)

    callback()
    assert [(title, round(seconds, 1)) for title, _, seconds, _ in reports] == [
        ("slow#0", 5.1), ("slow#0", 10.5), ("slow#0", 21.5),
    ]  # fmt: skip
    assert "callback" in reports[0][1]
    assert "inner" in reports[0][3]


def test_watchdog_does_not_take_many_short_calls_for_one() -> None:
    reports: list[Any] = []
    watch = Watch(0, lambda frame: "busy#0" if frame.f_code.co_name == "callback" else None,
                  lambda *report: reports.append(report))  # fmt: skip

    def callback(now: float) -> None:
        watch.look(sys._getframe(), now)

    for second in range(30):
        callback(float(second))
    assert reports == []


def test_watchdog_thread_runs_only_while_something_is_watched() -> None:
    def alive() -> bool:
        return any(thread.name == "vbox watchdog" for thread in threading.enumerate())

    dog = Watchdog(interval=0.01)
    assert not alive()
    one = dog.watch(threading.get_ident(), lambda frame: None)
    two = dog.watch(threading.get_ident(), lambda frame: None)
    assert alive()
    dog.unwatch(one)
    assert alive()
    dog.unwatch(two)
    assert not alive()


def test_watchdog_sees_another_thread_and_logs_its_stack(caplog: pytest.LogCaptureFixture) -> None:
    dog, release = Watchdog(interval=0.005), threading.Event()

    def stuck() -> None:
        release.wait(10)

    thread = threading.Thread(target=stuck)
    thread.start()
    assert thread.ident is not None
    watch = dog.watch(thread.ident, lambda frame: "stuck#0" if frame.f_code.co_name == "stuck" else None)
    watch.next_report = 0.02
    try:
        deadline = time.monotonic() + 5
        with caplog.at_level(logging.ERROR):
            while "stuck#0 has been in" not in caplog.text and time.monotonic() < deadline:
                if watch.frame is not None:
                    watch.next_report = min(watch.next_report, 0.02)
                time.sleep(0.005)
        assert "stuck#0 has been in" in caplog.text
        assert "release.wait" in caplog.text
    finally:
        release.set()
        thread.join()
        dog.unwatch(watch)


# --- failures


def test_failures_log_each_kind_once_and_count_all(caplog: pytest.LogCaptureFixture) -> None:
    errors: list[Any] = []
    failures = Failures(lambda *error: errors.append(error))
    one = owner("one")
    for _ in range(3):
        failures.report(one, "timer a", "timer a", ValueError("x"))
    failures.report(one, "timer a", "timer a", KeyError("x"))
    failures.report(one, "timer b", "timer b", ValueError("x"))
    assert len(caplog.records) == 3
    assert failures.counts == {"one#0": 5}
    for _ in range(2 * LIMIT - 5):
        failures.report(one, "timer a", "timer a", ValueError("x"))
    assert [flags for flags, _, _ in errors] == [RuntimeErrorFlags.SUSPEND] * 2
    failures.forget("one#0")
    assert failures.failed == frozenset()


def test_error_whose_text_raises_is_reported_all_the_same() -> None:
    class Nasty(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text")

    seen: list[str] = []
    failures = Failures(lambda flags, error_id, text: seen.append(text))
    logging.disable(logging.CRITICAL)
    try:
        for _ in range(LIMIT):
            failures.report(owner("one"), "x", "x", Nasty())
    finally:
        logging.disable(logging.NOTSET)
    assert "Nasty" in seen[0]
