"""Debian's unmodified amd64 kernel on a whole machine, entered directly, used by its serial shell."""

from __future__ import annotations

import hashlib
import re
import subprocess
import time
from datetime import UTC, datetime

import guests
import pytest
from guests import GuestFiles
from machines import VBOX, Guest, clean_environment

KEYBOARD_TEXT = ("The quick brown fox, 0123456789 (jumps) over [the] {lazy} dog; 'so' it <says>! " * 13)[
    :1000
]
"""Every kind of key: letters of both cases, digits, and signs with and without Shift."""
RESETS = {
    "8042": r"printf '\376' | dd of=/dev/port bs=1 seek=100",
    "fast": r"printf '\001' | dd of=/dev/port bs=1 seek=146",
    "cf9": r"printf '\006' | dd of=/dev/port bs=1 seek=3321",
    "kernel-kbd": "echo kbd > /sys/kernel/reboot/type; reboot",
    "kernel-pci": "echo pci > /sys/kernel/reboot/type; echo 1 > /sys/kernel/reboot/force; reboot",
}
"""What the guest does to be reset: by the ports directly, and as the kernel does it."""
SETTLING = 5
"""Seconds in which virtual time catches up with what it lost while the guest was busy with devices."""


def uptime(guest: Guest) -> tuple[float, float]:
    """(the guest's clock, the host's clock when the answer was there), in seconds."""
    words = guest.shell("cat /proc/uptime").split()
    return float(words[0]), time.monotonic()


def test_boot_reaches_the_shell_and_commands_answer(running_debian: Guest) -> None:
    assert running_debian.shell("uname -s -m") == "Linux x86_64\n"
    assert running_debian.shell("echo $((6 * 7))") == "42\n"
    assert running_debian.shell("tty") == "/dev/ttyS0\n"
    running_debian.shell("cat /no/such/file", status=1)


def test_boot_on_the_portable_engine_reaches_the_shell_and_computes(debian: GuestFiles) -> None:
    digest = hashlib.sha256(bytes(1 << 20)).hexdigest()

    with Guest(debian.direct(), "--engine", "rem-portable") as guest:
        guest.prompt()

        assert digest in guest.shell("dd if=/dev/zero bs=1k count=1024 2>/dev/null | sha256sum")
        assert guest.shell("echo 'scale=20; sqrt(2)' | bc") == "1.41421356237309504880\n"


def test_console_is_a_16550a_on_line_4(running_debian: Guest) -> None:
    assert re.search(r"ttyS0 at I/O 0x3f8 \(irq = 4,.* is a 16550A", running_debian.shell("dmesg"))


def test_boot_log_has_no_complaint_about_the_machine(running_debian: Guest) -> None:
    log = running_debian.shell("dmesg")

    for bad in ("BUG:", "WARNING:", "Oops", "Call Trace", "unexpected IRQ", "nobody cared", "spurious 8259A"):
        assert bad not in log
    assert "Memory: " in log


def test_memory_is_what_was_configured(running_debian: Guest) -> None:
    ranges = re.findall(
        r"BIOS-e820: \[mem (0x\w+)-(0x\w+)\] usable", running_debian.shell("dmesg | grep e820:")
    )

    top = max(int(last, 16) + 1 for _, last in ranges)
    assert top == running_debian.files.memory << 20


def test_computation_in_the_guest_is_right(running_debian: Guest) -> None:
    digest = hashlib.sha256(bytes(1 << 20)).hexdigest()

    assert digest in running_debian.shell("dd if=/dev/zero bs=1k count=1024 2>/dev/null | sha256sum")
    assert running_debian.shell("echo 'scale=20; sqrt(2)' | bc") == "1.41421356237309504880\n"
    assert running_debian.shell("awk 'BEGIN { printf \"%.15f\\n\", 2 / 3 }'") == "0.666666666666667\n"


def test_real_time_clock_is_the_hosts_utc(running_debian: Guest) -> None:
    now = datetime.now(UTC).timestamp()
    guest_time = running_debian.shell("hwclock -u -r -f /dev/rtc0; date -u +%s").splitlines()[-1]
    clock = running_debian.shell("cat /sys/class/rtc/rtc0/since_epoch")

    assert abs(int(clock) - now) < 5
    assert abs(int(guest_time) - now) < 5


def test_serial_console_thousand_characters_typed_arrive_in_order(running_debian: Guest) -> None:
    text = "".join(chr(ord("!") + index % 94) for index in range(1000))
    running_debian.type("stty -echo; echo 'now ''type'; cat > /tmp/typed; stty echo\r")
    running_debian.expect("now type\r\n")

    running_debian.type(text + "\r\x04")
    running_debian.prompt()

    assert running_debian.shell("cat /tmp/typed") == text + "\n"


def test_serial_console_all_bytes_sent_while_nobody_reads_arrive(running_debian: Guest) -> None:
    # No byte is special to the raw line; the terminal of the host has its escape character, 0x01.
    data = "".join(chr(index) for index in range(2, 256)) * 12
    running_debian.type(
        f"stty raw -echo; echo 'now ''type'; sleep 2; dd bs=1 count={len(data)} of=/tmp/raw 2>/dev/null; "
        "stty sane; echo 'all ''there'\r"
    )
    running_debian.expect("now type")

    running_debian.type(data)
    running_debian.expect("all there\r\n")
    running_debian.prompt()

    digest = hashlib.md5(data.encode("latin-1")).hexdigest()
    assert running_debian.shell("md5sum < /tmp/raw") == f"{digest}  -\n"
    assert " oe:" not in running_debian.shell("cat /proc/tty/driver/serial")


def test_keyboard_thousand_keys_typed_arrive_in_order(debian: GuestFiles) -> None:
    files = guests.debian(
        commands=[
            "echo; echo 'press keys''.'",
            "read -r line < /dev/tty1",
            'echo "[$line]"',
            'echo "heard it all"',
        ]
    )
    words = ["--timeout", "200", "--expect", "press keys.", "--keys", KEYBOARD_TEXT + r"\n"]
    done = subprocess.run(
        [str(VBOX), "run", *files.words(), *words, "--expect", "heard it all"],
        env=clean_environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )

    found = re.search(r"\[(The quick.*)\]\s", done.stdout)
    assert done.returncode == 0, done.stderr + done.stdout[-2000:]
    assert found is not None
    assert found[1] == KEYBOARD_TEXT


def test_keyboard_driver_with_modules_finds_keyboard_and_mouse(debian: GuestFiles) -> None:
    with Guest(guests.debian(modules=["psmouse", "evdev"])) as guest:
        guest.prompt()
        # The kernel looks for a mouse beside everything else.
        find = "for try in $(seq 30); do grep -q Mouse /proc/bus/input/devices && break; sleep 1; done"
        devices = guest.shell(f"{find}; cat /proc/bus/input/devices")

        assert "keyboard" in devices
        assert "Mouse" in devices


def test_clock_of_the_guest_keeps_time_with_the_host(running_debian: Guest) -> None:
    time.sleep(SETTLING)
    guest_first, host_first = uptime(running_debian)
    time.sleep(30)
    guest_last, host_last = uptime(running_debian)

    assert guest_last - guest_first == pytest.approx(host_last - host_first, rel=0.005)


def test_clock_of_a_busy_guest_keeps_time_with_the_host(running_debian: Guest) -> None:
    running_debian.shell("(while true; do :; done) & echo $! > /tmp/busy")
    time.sleep(SETTLING)
    guest_first, host_first = uptime(running_debian)
    time.sleep(20)
    guest_last, host_last = uptime(running_debian)
    running_debian.shell("kill $(cat /tmp/busy)")

    assert guest_last - guest_first == pytest.approx(host_last - host_first, rel=0.01)


def test_command_line_tells_linux_the_rate_of_the_tsc(running_debian: Guest) -> None:
    line = running_debian.shell("cat /proc/cmdline")
    clock = running_debian.shell("cat /sys/devices/system/clocksource/clocksource0/current_clocksource")

    assert line.split() == ["console=ttyS0", "tsc_early_khz=1000000"]
    assert clock.strip() in ("tsc", "tsc-early")


def test_idle_guest_uses_little_of_the_host(running_debian: Guest) -> None:
    assert running_debian.idle_share() < 0.05


@pytest.mark.parametrize("way", RESETS)
def test_reset_starts_the_kernel_again(running_debian: Guest, way: str) -> None:
    before = running_debian.shell("cat /proc/sys/kernel/random/boot_id")

    running_debian.type(RESETS[way] + "\r")
    running_debian.expect(r"Linux version 6\.")
    running_debian.prompt()

    assert running_debian.shell("cat /proc/sys/kernel/random/boot_id") != before
    assert uptime(running_debian)[0] < 100


def test_escape_at_the_terminal_ends_the_process(running_debian: Guest) -> None:
    running_debian.type("\x01x")

    assert running_debian.wait() == 0
