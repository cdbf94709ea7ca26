#!/usr/bin/env python3
"""Make `linuxboot.bin` of `linuxboot.S`: GNU as, ld and objcopy, then size and checksums.

    python -m vbox_plugin_pc.linuxboot.build [TARGET]

The result depends on the source alone: no time, no path and no version of the tools gets into it.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from vbox_pdm import optionrom

FOLDER = Path(__file__).resolve().parent
SOURCE, TARGET = FOLDER / "linuxboot.S", FOLDER / "linuxboot.bin"
_PNP_AT = 0x20
_PNP_LENGTH, _PNP_CHECKSUM = 32, 9


def build(source: Path = SOURCE) -> bytes:
    """The image.  FileNotFoundError without binutils, CalledProcessError when they refuse the source."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _run("as", "--32", "-o", str(folder / "rom.o"), str(source))
        _run(
            "ld",
            "-m",
            "elf_i386",
            "-Ttext=0",
            "-e",
            "_start",
            "-o",
            str(folder / "rom.elf"),
            str(folder / "rom.o"),
        )
        _run("objcopy", "-O", "binary", "-j", ".text", str(folder / "rom.elf"), str(folder / "rom.bin"))
        code = (folder / "rom.bin").read_bytes()
    image = bytearray(optionrom.padded(code))
    header = image[_PNP_AT : _PNP_AT + _PNP_LENGTH]
    image[_PNP_AT + _PNP_CHECKSUM] = -sum(header) & 0xFF
    return optionrom.with_checksum(bytes(image))


def _run(*words: str) -> None:
    subprocess.run(words, check=True)


def main(words: list[str]) -> int:
    """The command line."""
    target = Path(words[0]) if words else TARGET
    target.write_bytes(build())
    print(f"{target}: {target.stat().st_size} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
