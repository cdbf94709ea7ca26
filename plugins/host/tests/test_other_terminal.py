"""The terminal drivers at a terminal that is not the process's own."""

from __future__ import annotations

import os
import select
import termios
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import host_streams
import pytest
import screens

from vbox_pdm import CharStream, ConfigError, Display, Keyboard
from vbox_pdm.testing import Bench, fake_above
from vbox_plugin_host import stdio, terminal_keys, terminal_screen, us_layout

DRIVERS: dict[str, tuple[ModuleType, Any]] = {
    "stdio": (stdio, CharStream),
    "terminal-keys": (terminal_keys, Keyboard),
    "terminal-screen": (terminal_screen, Display),
}


class Other:
    """A terminal, seen from the side of whoever sits at it."""

    def __init__(self) -> None:
        self.master, self.slave = os.openpty()
        self.path = os.ttyname(self.slave)
        self.seen = b""

    @property
    def cooked(self) -> bool:
        return bool(termios.tcgetattr(self.master)[3] & termios.ECHO)

    def type(self, keys: bytes) -> None:
        os.write(self.master, keys)

    def shows(self, words: bytes) -> bool:
        while words not in self.seen and select.select([self.master], [], [], 10)[0]:
            self.seen += os.read(self.master, 65536)
        return words in self.seen

    def close(self) -> None:
        os.close(self.master)
        os.close(self.slave)


@pytest.fixture
def other() -> Iterator[Other]:
    made = Other()
    yield made
    made.close()


def descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def add(bench: Bench, name: str, **config: Any) -> tuple[Any, Any]:
    module, layer = DRIVERS[name]
    bench.plugin(module)
    above = fake_above(layer)
    return bench.add_driver(name, above=above, **config), above


def test_console_at_another_terminal_is_raw_and_passes_both_directions(other: Other) -> None:
    with Bench() as bench:
        line, _ = host_streams.make(bench, stdio, "stdio", terminal=other.path)
        assert not other.cooked

        line.send(b"hello\n")
        assert other.shows(b"hello\n")
        other.type(b"\x03k")
        assert bench.wait(lambda: line.taken == b"\x03k")

    assert other.cooked


def test_console_at_another_terminal_powers_off_by_its_escape(other: Other) -> None:
    with Bench() as bench:
        host_streams.make(bench, stdio, "stdio", terminal=other.path)

        other.type(b"\x01x")

        assert bench.wait(lambda: bench.exit_code is not None)


def test_keys_of_another_terminal_are_typed(other: Other) -> None:
    with Bench() as bench:
        _, above = add(bench, "terminal-keys", terminal=other.path)
        bench.power_on()
        assert not other.cooked

        other.type(b"aB")
        assert bench.wait(lambda: above.named("key_event") == us_layout.strokes("aB"))

    assert other.cooked


def test_screen_is_drawn_in_another_terminal(other: Other) -> None:
    with Bench() as bench:
        _, above = add(bench, "terminal-screen", terminal=other.path)
        above.answers["display_text"] = screens.text_screen("far away")
        bench.power_on()
        bench.run_until_idle()

        assert other.shows(b"far away")
        bench.power_off()

    assert other.shows(b"\x1b[?1049lfar away")


@pytest.mark.parametrize("name", DRIVERS)
@pytest.mark.parametrize(
    ("path", "status"),
    [("missing", "VERR_FILE_NOT_FOUND"), ("", "VERR_ACCESS_DENIED"), ("file", "VERR_NOT_SUPPORTED")],
)
def test_other_terminal_that_is_none_is_refused(tmp_path: Path, name: str, path: str, status: str) -> None:
    (tmp_path / "file").write_bytes(b"")
    before = descriptors()

    with Bench() as bench, pytest.raises(ConfigError, match=r"`tty` says") as caught:
        add(bench, name, terminal=str(tmp_path / path))

    assert caught.value.status == status
    assert descriptors() == before


def test_console_that_is_refused_is_destructed_without_an_error() -> None:
    with Bench(strict=False) as bench:
        with pytest.raises(ConfigError, match="no control character"):
            host_streams.make(bench, stdio, "stdio", escape="x")

        assert not bench.failures
