"""The option ROM that starts a Linux kernel through firmware.

`linuxboot.S` is its source and says what it does, `build.py` makes `linuxboot.bin` of it.  The image is kept
with the source, since who installs the package need not have an assembler; a test builds it anew and
compares.
"""

from __future__ import annotations

import functools
from importlib import resources


@functools.cache
def rom() -> bytes:
    """The image: 55 AA, whole units of 512 bytes, right checksums."""
    return resources.files(__name__).joinpath("linuxboot.bin").read_bytes()
