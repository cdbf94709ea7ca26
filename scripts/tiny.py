#!/usr/bin/env python3
"""Builds the tiny guest of tests/guests/tiny into the cache.

A multiboot 1 kernel for a 32-bit CPU; gcc for x86 and binutils are enough, no 32-bit libraries.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import packages

SOURCE = packages.ROOT / "tests" / "guests" / "tiny"
UNITS = ("start.S", "main.c", "interrupts.c", "serial.c", "shell.c")
FLAGS = (
    *("-m32", "-march=i486", "-O2", "-std=gnu11", "-Wall", "-Wextra", "-Werror"),
    *("-ffreestanding", "-fno-pic", "-fno-pie", "-fno-stack-protector", "-fno-asynchronous-unwind-tables"),
    *("-fcf-protection=none", "-mgeneral-regs-only", "-nostdlib", "-static", "-no-pie"),
    *("-Wl,--build-id=none", "-Wl,-z,noexecstack", "-Wl,--no-warn-rwx-segments"),
)


def tiny_kernel() -> Path:
    """The kernel file, built when its sources are newer.  Raises packages.Unavailable."""
    sources = sorted(path for path in SOURCE.iterdir() if path.suffix in (".c", ".h", ".S", ".ld"))
    digest = hashlib.sha256(b"".join([" ".join(FLAGS).encode(), *(path.read_bytes() for path in sources)]))
    target = packages.cache_folder() / "tiny" / f"tiny-{digest.hexdigest()[:16]}.elf"
    if not target.is_file():
        _build(target)
    return target


def _build(target: Path) -> None:
    compiler = shutil.which(os.environ.get("CC", "gcc"))
    if compiler is None:
        raise packages.Unavailable(
            "the tiny guest is built with gcc, which is not there (apt-get install gcc)"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        output = Path(scratch) / "tiny.elf"
        units = [str(SOURCE / unit) for unit in UNITS]
        done = subprocess.run(
            [compiler, *FLAGS, "-T", str(SOURCE / "link.ld"), "-o", str(output), *units],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise packages.Unavailable(f"the tiny guest does not build here: {done.stderr.strip()[-2000:]}")
        output.rename(target)


if __name__ == "__main__":
    try:
        print(tiny_kernel())
    except packages.Unavailable as error:
        sys.exit(f"tiny: {error}")
