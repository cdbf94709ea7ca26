"""What the main thread of `vbox run` does with what reaches it while a step of the machine is under way."""

from __future__ import annotations

import queue
import signal
import threading

import pytest

from vbox_pdm.catalogue import Catalogue
from vbox_vmm.cfgm import Node
from vbox_vmm.frontends.runner import Mail, Run, Signalled, _Runner, _Signal


@pytest.fixture
def runner() -> _Runner:
    return _Runner(Run(tree=Node(), catalogue=Catalogue()))


def test_stop_signal_during_a_step_is_kept_for_afterwards(runner: _Runner) -> None:
    # The guest may well speak, and the user answer with Ctrl-Z, before power on is over.
    runner._perform(lambda: runner.mail.put(_Signal(signal.SIGTSTP)))

    assert runner.mail.get(timeout=0) == _Signal(signal.SIGTSTP)


def test_stop_signal_while_it_suspends_for_one_is_the_same_wish(runner: _Runner) -> None:
    runner.suspending = True

    runner._perform(lambda: runner.mail.put(_Signal(signal.SIGTSTP)))

    with pytest.raises(queue.Empty):
        runner.mail.get(timeout=0)


def test_mail_hears_of_a_signal_that_came_before_it_waits() -> None:
    mail = Mail()
    before = signal.signal(signal.SIGUSR1, lambda number, frame: mail.put("signal"))
    bell = signal.set_wakeup_fd(mail.descriptor)
    try:
        # The C part of the handler has run on another thread: Python's is called when this one looks.
        tripped = threading.Thread(target=lambda: signal.raise_signal(signal.SIGUSR1))
        tripped.start()

        assert mail.get(timeout=30) == "signal"
        tripped.join()
    finally:
        signal.set_wakeup_fd(bell)
        signal.signal(signal.SIGUSR1, before)


def test_mail_put_by_a_thread_arrives_in_order_and_then_there_is_none() -> None:
    mail = Mail()
    putter = threading.Thread(target=lambda: [mail.put(number) for number in range(100_000)])
    putter.start()

    found = [mail.get(timeout=30) for _ in range(100_000)]

    putter.join()
    assert found == list(range(100_000))
    with pytest.raises(queue.Empty):
        mail.get(timeout=0.001)


def test_fatal_signal_during_a_step_ends_it(runner: _Runner) -> None:
    with pytest.raises(Signalled):
        runner._perform(lambda: runner.mail.put(_Signal(signal.SIGTERM)))
