"""The fakes, and the pytest plugin."""

from __future__ import annotations

import doctest
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import vbox_pdm.testing
from vbox_pdm import CharStream, Device, Keyboard, Mouse
from vbox_pdm.testing import Bench, FakeKeyboard, FakeMouse, FakeStream, Recorder, fake, fake_above


class Terminal(Device[None]):
    """A receiver with a little room on each layer."""

    room = 4

    def pdm_construct(self) -> None:
        self.stream = self.helpers.lun(0, CharStream, "stream")
        self.keyboard = self.helpers.lun(1, Keyboard, "keyboard")
        self.mouse = self.helpers.lun(2, Mouse, "mouse")
        self.data = bytearray()
        self.calls: list[tuple[Any, ...]] = []
        self.keys: list[tuple[int, bool]] = []

    def char_room(self) -> int:
        return self.room - len(self.data)

    def char_received(self, data: bytes) -> None:
        self.data += data

    def char_sendable(self) -> None:
        self.calls.append(("sendable",))

    def char_status(self, cts: bool, dsr: bool, ri: bool, dcd: bool) -> None:
        self.calls.append(("status", cts, dsr, ri, dcd))

    def char_break_received(self) -> None:
        self.calls.append(("break",))

    def key_event(self, usage: int, down: bool) -> bool:
        if len(self.keys) == self.room:
            return False
        self.keys.append((usage, down))
        return True

    def key_release_all(self) -> None:
        self.calls.append(("release all",))

    def mouse_event(self, dx: int, dy: int, dz: int, dw: int, buttons: int) -> bool:
        if len(self.calls) == self.room:
            return False
        self.calls.append((dx, dy, dz, dw, buttons))
        return True


@pytest.fixture
def setup() -> Any:
    with Bench() as bench:
        stream, keyboard, mouse = FakeStream(), FakeKeyboard(), FakeMouse()
        terminal = bench.add(Terminal, lun0=stream, lun1=keyboard, lun2=mouse)
        yield terminal, stream, keyboard, mouse, bench


def test_stream_feed_ignores_room_and_offer_respects_it(setup: Any) -> None:
    terminal, stream, _, _, bench = setup
    assert stream.offer(b"abcdef") == 4
    assert bench.state == "running"
    assert (terminal.data, stream.pending) == (b"abcd", b"ef")
    terminal.data.clear()
    terminal.stream.char_ready()
    assert (terminal.data, stream.pending) == (b"ef", b"")
    stream.feed(b"overrun")
    assert terminal.data == b"efoverrun"


def test_stream_accepts_so_much_and_says_when_it_takes_more(setup: Any) -> None:
    terminal, stream, _, _, _ = setup
    stream.accept = 3
    assert terminal.calls == []
    assert [terminal.stream.char_send(b"ab") for _ in range(3)] == [2, 1, 0]
    stream.accept = 0
    assert terminal.calls == []
    stream.accept = None
    assert terminal.calls == [("sendable",)]
    assert terminal.stream.char_send(b"xyz") == 3
    assert stream.take() == b"abaxyz"
    assert stream.sent == b""


def test_stream_notes_line_settings_and_reports_status(setup: Any) -> None:
    terminal, stream, _, _, _ = setup
    terminal.stream.char_parameters(9600, 8, "N", 1.0)
    terminal.stream.char_lines(True, False)
    terminal.stream.char_break(True)
    terminal.stream.char_break(False)
    assert stream.parameters == (9600, 8, "N", 1.0)
    assert (stream.lines.dtr, stream.lines.rts) == (True, False)
    assert stream.breaks == [True, False]
    stream.set_status(cts=True)
    stream.set_status(ri=True, cts=False)
    stream.send_break()
    assert terminal.calls == [
        ("status", True, False, False, False),
        ("status", False, False, True, False),
        ("break",),
    ]


def test_keyboard_types_on_a_us_layout_and_waits_for_room(setup: Any) -> None:
    terminal, _, keyboard, _, _ = setup
    keyboard.type("aB")
    assert terminal.keys == [(4, True), (4, False), (0xE1, True), (5, True)]
    assert keyboard.pending == [(5, False), (0xE1, False)]
    terminal.keys.clear()
    terminal.keyboard.key_ready()
    assert terminal.keys == [(5, False), (0xE1, False)]
    keyboard.press(0x29)
    keyboard.release(0x29)
    keyboard.release_all()
    assert terminal.keys[2:] == [(0x29, True), (0x29, False)]
    assert terminal.calls == [("release all",)]
    terminal.keyboard.key_leds(True, False, True)
    assert keyboard.leds == (True, False, True)
    with pytest.raises(ValueError, match="no key"):
        keyboard.type("ä")


@given(st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=8))
def test_keyboard_has_a_key_for_all_of_ascii_and_leaves_none_pressed(text: str) -> None:
    keyboard, keys = FakeKeyboard(), []

    class Above:
        def key_event(self, usage: int, down: bool) -> bool:
            keys.append((usage, down))
            return True

    keyboard.above = Above()  # type: ignore[assignment]
    keyboard.type(text)
    held: set[int] = set()
    presses = 0
    for usage, down in keys:
        assert (usage in held) != down
        held ^= {usage}
        presses += down and usage != 0xE1
    assert not held
    assert presses == len(text)


def test_mouse_moves_and_waits_for_room(setup: Any) -> None:
    terminal, _, _, mouse, _ = setup
    for at in range(5):
        mouse.move(at, -at, 1, buttons=4)
    assert terminal.calls == [(at, -at, 1, 0, 4) for at in range(4)]
    assert mouse.pending == [(4, -4, 1, 0, 4)]
    terminal.calls.clear()
    terminal.mouse.mouse_ready()
    assert terminal.calls == [(4, -4, 1, 0, 4)]
    terminal.mouse.mouse_modes(True, False)
    assert mouse.modes == (True, False)


def test_fake_that_makes_a_device_raise_fails_the_test(setup: Any) -> None:
    terminal, stream, _, _, bench = setup
    terminal.data = None
    with pytest.raises(TypeError):
        stream.feed(b"x")
    assert len(bench.failures) == 1


def test_recorder_of_any_layer_records_and_answers() -> None:
    below, above = fake(CharStream), fake_above(Keyboard)
    assert isinstance(below, Recorder)
    with Bench() as bench:
        terminal = bench.add(Terminal, lun0=below)
        assert terminal.stream.char_send(data=b"abc") == 3
        below.answers["char_send"] = lambda data: 1
        assert terminal.stream.char_send(b"de") == 1
        below.answers["char_send"] = 0
        assert terminal.stream.char_send(b"f") == 0
        assert below.calls == [("char_send", (b"abc",)), ("char_send", (b"de",)), ("char_send", (b"f",))]
    assert above.key_event(4, True) is True
    assert above.named("key_event") == [(4, True)]


def test_manual_of_the_bench_is_true() -> None:
    found = doctest.testmod(vbox_pdm.testing)
    assert found.attempted > 3
    assert found.failed == 0


# --- the pytest plugin, and what importing costs


def run_pytest(folder: Path, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    code = (
        "import sys, pytest\n"
        "from vbox_pdm.testing import pytest_plugin as plugin\n"
        "sys.exit(pytest.main(['-q', '-p', 'no:cacheprovider', *sys.argv[1:]], plugins=[plugin]))\n"
    )
    # The plugin is handed over explicitly: its distribution need not be installed.
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", **environment}
    return subprocess.run(
        [sys.executable, "-c", code, *options, str(folder)],
        env=environment, cwd=folder, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


@pytest.fixture
def author_test(tmp_path: Path) -> Path:
    (tmp_path / "test_author.py").write_text(
        "from vbox_pdm import Device, Ports\n"
        "class Thing(Device):\n"
        "    def pdm_construct(self): self.helpers.map_ports(0x10, Ports('p', 1, lambda o, s: 7))\n"
        "def test_thing(bench):\n"
        "    bench.add(Thing)\n"
        "    assert bench.port_read(0x10) == 7\n"
    )
    return tmp_path


def test_fixture_bench_is_there_without_an_import(author_test: Path) -> None:
    result = run_pytest(author_test)
    assert "1 passed" in result.stdout, result.stdout + result.stderr


def test_option_and_environment_choose_the_backend(author_test: Path) -> None:
    by_option = run_pytest(author_test, "--vbox-bench", "nowhere")
    by_environment = run_pytest(author_test, VBOX_BENCH="nowhere")
    for result in (by_option, by_environment):
        assert "No bench backend is named 'nowhere'" in result.stdout
    assert "1 passed" in run_pytest(author_test, "--vbox-bench", "bench", VBOX_BENCH="nowhere").stdout


def test_import_of_the_bench_imports_no_test_tools() -> None:
    code = (
        "import sys, vbox_pdm.testing\n"
        "print(sorted({'pytest', 'hypothesis', '_pytest', 'unicorn', 'vbox_vmm'} & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert result.stdout.strip() == "[]"
