"""What the main thread of `vbox run` does with what reaches it while a step of the machine is under way."""

from __future__ import annotations

import queue
import signal

import pytest

from vbox_pdm.catalogue import Catalogue
from vbox_vmm.cfgm import Node
from vbox_vmm.frontends.runner import Run, Signalled, _Runner, _Signal


@pytest.fixture
def runner() -> _Runner:
    return _Runner(Run(tree=Node(), catalogue=Catalogue()))


def test_stop_signal_during_a_step_is_kept_for_afterwards(runner: _Runner) -> None:
    # The guest may well speak, and the user answer with Ctrl-Z, before power on is over.
    runner._perform(lambda: runner.mail.put(_Signal(signal.SIGTSTP)))

    assert runner.mail.get_nowait() == _Signal(signal.SIGTSTP)


def test_stop_signal_while_it_suspends_for_one_is_the_same_wish(runner: _Runner) -> None:
    runner.suspending = True

    runner._perform(lambda: runner.mail.put(_Signal(signal.SIGTSTP)))

    with pytest.raises(queue.Empty):
        runner.mail.get_nowait()


def test_fatal_signal_during_a_step_ends_it(runner: _Runner) -> None:
    with pytest.raises(Signalled):
        runner._perform(lambda: runner.mail.put(_Signal(signal.SIGTERM)))
