"""Lines for people: held while the terminal shows the guest's screen."""

from __future__ import annotations

import io
import sys

import pytest

from vbox_vmm.frontends import messages


class Stream(io.StringIO):
    """Standard error, at a terminal or not."""

    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


def standard_error(monkeypatch: pytest.MonkeyPatch, terminal: bool) -> Stream:
    """For this test; a fixture would be too early, as pytest sets its own before each phase."""
    stream = Stream(terminal)
    monkeypatch.setattr(sys, "stderr", stream)
    return stream


def test_lines_wait_for_the_screen_to_go_and_keep_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = standard_error(monkeypatch, True)
    messages.hold()
    messages.complain("one")
    messages.say("two\nthree")
    assert terminal.getvalue() == ""

    assert messages.release()
    assert not messages.release()
    messages.say("four")

    assert terminal.getvalue() == "vbox: one\r\ntwo\r\nthree\r\nfour\r\n"


def test_lines_that_wait_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = standard_error(monkeypatch, True)
    messages.hold()
    for number in range(messages.MOST_HELD + 10):
        messages.say(str(number))

    messages.release()

    assert terminal.getvalue().split()[0] == "10"


def test_lines_that_go_elsewhere_do_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = standard_error(monkeypatch, False)

    messages.hold()
    messages.say("one")
    messages.release()

    assert stream.getvalue() == "one\n"


def test_progress_is_for_terminals(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = standard_error(monkeypatch, True)
    messages.progress("reading kernel x, 40 MiB")
    assert terminal.getvalue() == "vbox: reading kernel x, 40 MiB\r\n"

    pipe = standard_error(monkeypatch, False)
    messages.progress("reading")

    assert pipe.getvalue() == ""
