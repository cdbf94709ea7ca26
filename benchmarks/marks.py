"""Guests of our own: built from benchmarks/guest, started on a machine, timed by what they say.

A guest says "B name" before and "E name result operations share" behind each of its works (guest/work.h).
The time is the host's, between these lines; where only a part of it counts, the guest knows which.

Trap: a host that is busy with something else reads lines late.  When the next is there already as "B" is
read, nobody knows when the work began, and it is left out.
"""

from __future__ import annotations

import re
import select
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from attrs import frozen
from peers import Machine, Multiboot, Words

GUEST = Path(__file__).resolve().parent / "guest"
MODES = {"flat32": 0, "paged32": 1, "long64": 2}
"""What guest/boot.S calls them: 32 bits without paging, 32 bits with pages of 4 KiB, 64 bits."""
WHOLE = 1 << 16
_COMPILE = [
    *("-march=x86-64", "-O2", "-Wall", "-Werror", "-fno-tree-vectorize", "-ffreestanding", "-fno-pic"),
    *("-fno-stack-protector", "-mno-red-zone", "-nostdlib", "-static", "-Wl,-n", "-Wl,-z,noexecstack"),
    *("-Wl,--build-id=none", "-Wl,--no-warn-rwx-segments", "-Wl,-Ttext=0x101000"),
    "-Wl,--section-start=.multiboot=0x100000",
]


class Failed(Exception):
    """A guest did not come to its end."""


@frozen
class Work:
    """A work that was done: seconds (of its share), how many operations, and what it answered."""

    name: str
    seconds: float
    operations: int
    result: int


def works(source: str) -> tuple[str, ...]:
    """The names of a guest's works, in its order."""
    text = (GUEST / source).read_text().partition("const struct work works[]")[2]
    return tuple(dict.fromkeys(re.findall(r'\{"([\w-]+)",', text)))


def has_mode(mode: str, machine: Machine) -> bool:
    """Whether a machine can run a guest of a mode."""
    return mode != "long64" or not machine.only_32_bits


def build(sources: Sequence[str], mode: str, folder: Path) -> Path:
    """The guest of a mode: a multiboot kernel, which is a 32-bit ELF file whatever its code is.

    Raises CalledProcessError when it does not compile, FileNotFoundError without cc or objcopy."""
    path = folder / f"{'-'.join(sources)}-{mode}.elf".replace(".c", "")
    bits, emulation = ("64", "elf_x86_64") if mode == "long64" else ("32", "elf_i386")
    files = [str(GUEST / name) for name in ("boot.S", "work.c", *sources)]
    options = [f"-m{bits}", f"-Wl,-m,{emulation}", f"-DMODE={MODES[mode]}", *_COMPILE]
    subprocess.run(["cc", *options, "-o", str(path), *files], check=True)
    if mode == "long64":
        subprocess.run(["objcopy", "-O", "elf32-i386", str(path)], check=True)
    return path


@contextmanager
def started(words: Words, patience: float) -> Iterator[subprocess.Popen[bytes]]:
    """A process whose output is read; it is killed at the end, and when patience (seconds) is over."""
    process = subprocess.Popen(
        words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0
    )
    watch = threading.Timer(patience, process.kill)
    watch.start()
    try:
        yield process
    finally:
        watch.cancel()
        process.kill()
        process.wait()


def run(machine: Machine, guest: Multiboot, patience: float = 600.0) -> list[Work]:
    """All works of a guest, in order.  Raises Failed."""
    done: list[Work] = []
    last, begun, late = "", 0.0, False
    with tempfile.TemporaryDirectory() as folder:
        words = machine.start_kernel(guest, Path(folder))
        with started(words, patience) as process:
            assert process.stdout is not None
            for line in process.stdout:
                now = time.monotonic()
                last = line.decode("latin-1").strip() or last
                match last.split():
                    case ["B", _]:
                        begun = now
                        late = bool(select.select([process.stdout], [], [], 0)[0])
                    case ["E", name, *_] if late:
                        print(f"{machine.name} {name}: read too late to be timed, left out", file=sys.stderr)
                    case ["E", name, *numbers] if len(numbers) == 3:
                        result, operations, share = (int(number, 16) for number in numbers)
                        done.append(Work(name, (now - begun) * share / WHOLE, operations, result))
                    case ["END"]:
                        return done
                    case ["STOP", *_]:
                        break
    raise Failed(f"{machine.title} did not come to an end of {guest.kernel.name}; last: {last!r}")
