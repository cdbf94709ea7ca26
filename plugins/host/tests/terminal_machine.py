"""A process with a screen and a keyboard at its terminal, for the tests: it shows the keys it gets.

Usage u echoes; Ctrl-E raises, Ctrl-K kills the process, Ctrl-P suspends until a line is entered,
Ctrl-G switches to a graphics mode, Ctrl-B fills the screen.
"""

from __future__ import annotations

import os
import signal
import sys

import screens

from vbox_pdm import Display, Keyboard
from vbox_pdm.testing import Bench, fake_above
from vbox_plugin_host import terminal_keys, terminal_screen

MS = 1_000_000
CONTROL = 0xE0


class Stop(Exception):
    """What SIGTERM becomes, as in a front end."""


def on_signal(number: int, frame: object) -> None:
    raise Stop(number)


def main() -> int:
    signal.signal(signal.SIGTERM, on_signal)
    with Bench() as bench:
        bench.plugin(terminal_screen)
        bench.plugin(terminal_keys)
        display, keyboard = fake_above(Display), fake_above(Keyboard)
        lines = ["The guest's screen", ""]
        held: list[int] = []

        def text() -> object:
            return screens.text_screen(*lines, attribute=0x1E, cursor=(2, 1))

        def key(usage: int, down: bool) -> bool:
            (held.append if down else held.remove)(usage)
            if down and usage < CONTROL:
                lines[1] += f" {'+'.join(f'{each:x}' for each in held)}"
                display.below.display_changed()
                act(bench, display, lines, usage if CONTROL in held else 0)
            return True

        display.answers["display_text"] = text
        keyboard.answers["key_event"] = key
        screen = bench.add_driver("terminal-screen", above=display, rate=100)
        keys = bench.add_driver("terminal-keys", above=keyboard)
        bench.power_on()
        keys.introduce(screen)
        try:
            while bench.exit_code is None:
                bench.wait(lambda: bench.exit_code is not None or suspended, 0.02)
                bench.advance(20 * MS)
                if suspended:
                    suspended.clear()
                    bench.suspend()
                    print("paused", flush=True)
                    input()
                    bench.resume()
        except Stop:
            pass
    print("off", bench.exit_code, flush=True)
    return 0


suspended: list[bool] = []


def act(bench: Bench, display: object, lines: list[str], usage: int) -> None:
    if usage == 0x08:  # Ctrl-E
        raise RuntimeError("something went wrong")
    if usage == 0x0E:  # Ctrl-K
        os.kill(os.getpid(), signal.SIGKILL)
    if usage == 0x13:  # Ctrl-P
        suspended.append(True)
    if usage == 0x0A:  # Ctrl-G
        display.answers["display_text"] = None  # type: ignore[attr-defined]
        display.answers["display_picture"] = screens.picture(64, 40)  # type: ignore[attr-defined]
    if usage == 0x05:  # Ctrl-B
        lines[2:] = ["#" * 80] * 23


if __name__ == "__main__":
    sys.exit(main())
