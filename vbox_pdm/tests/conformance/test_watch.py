"""What is watched while a plugin is called."""

from __future__ import annotations

import gc
import threading
import time

import pytest

from vbox_pdm.testing.conformance import watch as watching
from vbox_pdm.testing.conformance.violations import Hang
from vbox_pdm.testing.conformance.watch import Watch


def test_step_does_not_collect_garbage_within() -> None:
    watch = Watch()
    within = []

    with watch.step("looking"):
        within.append(gc.isenabled())

    assert within == [False]
    assert gc.isenabled()


def test_step_that_sleeps_is_a_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "ACCESS_WALL", 0.2)

    with pytest.raises(Hang, match=r"not over after 0\.2 s"), Watch().step("sleeping"):
        time.sleep(20)


def test_thread_that_computes_is_at_work_and_one_that_waits_is_not() -> None:
    over = threading.Event()
    waiting = threading.Thread(target=over.wait)
    waiting.start()
    watch = Watch()
    while watch.at_work():  # until it waits
        time.sleep(0.001)

    spinning = threading.Thread(target=lambda: [None for _ in iter(over.is_set, True)])
    spinning.start()
    seen = [watch.at_work() for _ in range(100) if time.sleep(0.001) is None]
    over.set()
    for thread in (waiting, spinning):
        thread.join()

    assert any(seen)


def test_step_that_waits_for_a_thread_at_work_has_more_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "ACCESS_WALL", 0.1)
    monkeypatch.setattr(Watch, "at_work", lambda self: True)

    with Watch().step("waiting"):
        time.sleep(0.5)


def test_step_has_the_time_again_in_which_the_host_was_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    waited = iter([0.0, 0.3, 0.3])  # as if the first 0.3 s had passed without a CPU
    monkeypatch.setattr(watching, "ACCESS_WALL", 0.3)
    monkeypatch.setattr(watching, "_waited", lambda: next(waited))
    begin = time.monotonic()

    with pytest.raises(Hang), Watch().step("sleeping"):
        time.sleep(20)

    assert time.monotonic() - begin >= 0.6
