"""The tiny guest on a whole machine: what firmware leaves, interrupts, resets, memory."""

from __future__ import annotations

import re
import time

import pytest
from guests import GuestFiles
from machines import Guest

RESETS = ("reboot", "reset92", "resetcf9")
GURU = 4
"""The exit code of `vbox run` after a guru meditation."""


def irqs(guest: Guest) -> dict[str, int]:
    """How often each line interrupted."""
    return {name: int(count) for name, count in re.findall(r"(\w+):(\d+)", guest.tiny("irqs"))}


def test_shell_unknown_command_is_named(running_tiny: Guest) -> None:
    assert running_tiny.tiny("frobnicate 7") == "unknown command: frobnicate\n"


def test_guest_runs_on_the_portable_engine(tiny: GuestFiles) -> None:
    with Guest(tiny, "--engine", "rem-portable") as guest:
        guest.prompt()
        before = irqs(guest)

        assert guest.tiny("echo 0123456789") == "0123456789\n"
        guest.tiny("poke 0x300000 0x11223344")
        assert guest.tiny("peek 0x300000") == "0x11223344\n"
        assert irqs(guest)["4"] > before["4"]


def test_command_line_append_arrives(tiny: GuestFiles) -> None:
    with Guest(tiny, "--append", "one two=3") as guest:
        guest.prompt()

        assert guest.tiny("cmdline").endswith(" one two=3\n")


@pytest.mark.parametrize("megabytes", [4, 16, 64, 3000])
def test_memory_map_of_any_size_adds_up(tiny: GuestFiles, megabytes: int) -> None:
    with Guest(tiny, "--memory", str(megabytes)) as guest:
        guest.prompt()
        entries = re.findall(r"0x(\w{16}) \+ 0x(\w{16}) type (\d)", guest.tiny("mem"))

    ram = [(int(first, 16), int(size, 16)) for first, size, kind in entries if kind == "1"]
    assert ram[0] == (0, 0x9FC00)
    assert ram[-1] == (0x100000, (megabytes - 1) << 20)


def test_memory_above_one_megabyte_holds_what_is_written(running_tiny: Guest) -> None:
    # An A20 gate that is closed would make these two the same.
    running_tiny.tiny("poke 0x300000 0x11223344")
    running_tiny.tiny("poke 0x200000 0x55667788")

    assert running_tiny.tiny("peek 0x300000") == "0x11223344\n"
    assert running_tiny.tiny("peek 0x200000") == "0x55667788\n"


def test_port_without_device_reads_all_ones(running_tiny: Guest) -> None:
    assert running_tiny.tiny("in 0x5ff") == "0xff\n"
    assert running_tiny.tiny("inl 0x5f0") == "0xffffffff\n"


def test_echo_of_long_line_is_complete_and_in_order(running_tiny: Guest) -> None:
    text = "".join(chr(ord("!") + index % 94) for index in range(1000))

    assert running_tiny.tiny(f"echo {text}") == text + "\n"


def test_serial_interrupts_come_with_typed_characters(running_tiny: Guest) -> None:
    before = irqs(running_tiny)["4"]

    running_tiny.tiny("echo 0123456789")

    assert irqs(running_tiny)["4"] > before


def test_timer_at_100_hz_keeps_time_with_the_host(running_tiny: Guest) -> None:
    first, host_first = float(running_tiny.tiny("uptime")), time.monotonic()
    time.sleep(10)
    last, host_last = float(running_tiny.tiny("uptime")), time.monotonic()

    # Each reading is late by up to what the guest's answer takes to arrive.
    assert last - first == pytest.approx(host_last - host_first, rel=0.005, abs=0.1)


def test_masked_timer_does_not_interrupt(running_tiny: Guest) -> None:
    running_tiny.tiny("mask 0")
    before = irqs(running_tiny)

    running_tiny.tiny("echo " + 100 * "x")
    after = irqs(running_tiny)

    assert after["0"] == before["0"]
    assert after["spurious"] == before["spurious"] == 0


@pytest.mark.parametrize("command", RESETS)
def test_reset_starts_the_kernel_again(running_tiny: Guest, command: str) -> None:
    running_tiny.tiny("poke 0x300000 0x11223344")

    running_tiny.type(f"{command}\r")
    running_tiny.expect("tiny guest, loaded by multiboot")
    running_tiny.prompt()

    assert float(running_tiny.tiny("uptime")) < 60
    assert irqs(running_tiny)["spurious"] == 0
    assert running_tiny.tiny("echo again") == "again\n"


def test_reset_again_and_again_works(running_tiny: Guest) -> None:
    for command in RESETS * 5:
        running_tiny.type(f"{command}\r")
        running_tiny.expect("tiny guest, loaded by multiboot")
        running_tiny.prompt()

    assert running_tiny.tiny("echo alive") == "alive\n"


def test_triple_fault_is_a_guru_meditation(running_tiny: Guest) -> None:
    running_tiny.type("crash\r")
    running_tiny.expect("[Tt]riple fault")

    assert running_tiny.wait() == GURU


def test_triple_fault_configured_to_reset_starts_the_kernel_again(tiny: GuestFiles) -> None:
    with Guest(tiny, "--set", "CPUM/TripleFaultReset=1") as guest:
        guest.prompt()
        guest.type("crash\r")
        guest.expect("tiny guest, loaded by multiboot")


def test_debug_exit_ends_the_process_with_its_code(tiny: GuestFiles) -> None:
    with Guest(tiny, "--device", "isa-debug-exit,io_base=0xf4") as guest:
        guest.prompt()
        guest.type("poweroff 21\r")

        assert guest.wait() == 43


def test_escape_at_the_terminal_ends_the_process(running_tiny: Guest) -> None:
    running_tiny.type("\x01x")

    assert running_tiny.wait() == 0


def test_idle_guest_uses_little_of_the_host(running_tiny: Guest) -> None:
    assert running_tiny.idle_share() < 0.05
