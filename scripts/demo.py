#!/usr/bin/env python3
"""`make demo`: boots the best guest that can be had, to a shell on this terminal."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

import guests
import packages


def main() -> int:
    """Becomes `vbox run`."""
    try:
        guest = guests.best()
    except packages.Unavailable as error:
        print(f"demo: there is no guest to boot: {error}", file=sys.stderr)
        return 1
    vbox = Path(sys.executable).parent / "vbox"
    words = [str(vbox), "run", *guest.words()]
    print(f"demo: {guest.note}, by:\n  {shlex.join(words)}", file=sys.stderr)
    print("demo: Ctrl-A x leaves the machine", file=sys.stderr, flush=True)
    os.execv(words[0], words)


if __name__ == "__main__":
    sys.exit(main())
