"""Links: connection, resolution, observers, and the check of signatures."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest

from vbox_pdm import CharStream, Keyboard, RegistrationError, hookimpl
from vbox_pdm.links import Link


class Device:
    def __init__(self) -> None:
        self.received = b""

    def char_received(self, data: bytes) -> None:
        self.received += data

    def char_room(self) -> int:
        return 7


class Driver:
    def __init__(self) -> None:
        self.sent = b""

    def char_send(self, data: bytes) -> int:
        self.sent += data
        return len(data) - 1


class Observer:
    def __init__(self) -> None:
        self.seen: list[tuple[str, bytes, Any]] = []

    @hookimpl(wrapper=True)
    def char_send(self, data: bytes) -> Generator[None, Any, Any]:
        result = yield
        self.seen.append(("send", data, result))
        return result

    @hookimpl(wrapper=True)
    def char_received(self, data: bytes) -> Generator[None, Any, Any]:
        result = yield
        self.seen.append(("received", data, result))
        return result


def connected() -> tuple[Link[Any, Any], Device, Driver]:
    link, device, driver = Link(CharStream, "test"), Device(), Driver()
    link.set_upper(device)
    link.set_lower(driver)
    return link, device, driver


def test_open_end_answers_as_the_protocol_says() -> None:
    link = Link(CharStream, "test")
    assert not link.below.connected
    assert link.below.char_send(b"abc") == 3
    assert link.above.char_room() == 0
    assert Link(Keyboard, "test").above.key_event(4, True) is True


def test_connected_end_is_the_bound_method_itself() -> None:
    link, device, driver = connected()
    assert link.below.connected
    assert link.below.char_send == driver.char_send
    assert link.above.char_received == device.char_received
    assert link.below.char_send(b"abc") == 2
    assert (link.upper, link.lower) == (device, driver)


def test_method_that_the_neighbour_lacks_answers_as_open() -> None:
    link, _, _ = connected()
    link.below.char_lines(True, False)
    link.above.char_sendable()


def test_disconnect_opens_the_same_end_again() -> None:
    link, _, driver = connected()
    end = link.below
    link.set_lower(None)
    assert end is link.below
    assert not end.connected
    assert end.char_send(b"abc") == 3
    assert driver.sent == b""


def test_observer_sees_both_directions_and_changes_nothing() -> None:
    link, device, _ = connected()
    observer = Observer()
    link.observe(observer)
    assert link.below.char_send(b"abc") == 2
    link.above.char_received(b"xy")
    assert observer.seen == [("send", b"abc", 2), ("received", b"xy", None)]
    assert device.received == b"xy"


def test_observer_of_an_open_end_sees_the_call_and_the_end_still_answers() -> None:
    link = Link(CharStream, "test")
    observer = Observer()
    link.observe(observer)
    assert link.below.char_send(b"abc") == 3
    assert observer.seen == [("send", b"abc", None)]


def test_observed_link_takes_keywords_like_an_unobserved_one() -> None:
    link, _, _ = connected()
    link.observe(Observer())
    assert link.below.char_send(data=b"abc") == 2


def test_unobserve_resolves_to_the_method_again() -> None:
    link, _, driver = connected()
    observer = Observer()
    link.observe(observer)
    assert link.below.char_send != driver.char_send
    link.unobserve(observer)
    assert link.below.char_send == driver.char_send


def test_observer_survives_reconnection() -> None:
    link, _, _ = connected()
    observer = Observer()
    link.observe(observer)
    link.set_lower(None)
    link.set_lower(other := Driver())
    link.below.char_send(b"q")
    assert other.sent == b"q"
    assert observer.seen == [("send", b"q", 0)]


def test_observer_that_is_no_wrapper_is_refused() -> None:
    link, _, _ = connected()
    with pytest.raises(RegistrationError, match="not a hook wrapper"):
        link.observe(Driver())


def test_neighbour_with_another_signature_is_refused_and_not_connected() -> None:
    class Wrong:
        def char_send(self, data: bytes, more: int) -> int:
            return 0

    link = Link(CharStream, "test")
    with pytest.raises(RegistrationError, match=r"char_send\(data, more\)") as caught:
        link.set_lower(Wrong())
    assert caught.value.status == "VERR_PDM_MISSING_INTERFACE"
    assert not link.below.connected
