#!/usr/bin/env python3
"""The guests of the demo and the tests: Debian's kernel with busybox, or the tiny guest.

    guests.py debian|tiny|best       says which guest it is, and prints the words for `vbox run`, one a line

`best` is Debian's where its packages can be had; else the tiny guest, and a sentence why.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import initrd
import packages
from attrs import frozen
from tiny import tiny_kernel


@frozen
class GuestFiles:
    """What `vbox run` needs to start a guest; `note` tells people which one it is."""

    kernel: Path
    initrd: Path | None
    append: str
    memory: int
    prompt: str
    note: str

    def words(self) -> list[str]:
        """Options of `vbox run`.  Memory in MiB."""
        words = ["--firmware", "none", "--memory", str(self.memory), "--kernel", str(self.kernel)]
        if self.initrd is not None:
            words += ["--initrd", str(self.initrd)]
        return [*words, "--append", self.append] if self.append else words


def debian(
    modules: Sequence[str] = (),
    *,
    append: str = "",
    files: Mapping[str, bytes | Path] | None = None,
    commands: Sequence[str] = (),
) -> GuestFiles:
    """Debian's amd64 kernel with a shell on the first serial line.  Raises packages.Unavailable."""
    kernel = packages.kernel()
    archive = initrd.build(
        packages.busybox(),
        modules_dir=packages.modules_dir(),
        modules=modules,
        files=files,
        commands=commands,
    )
    line = f"console=ttyS0 {append}".strip()
    version = kernel.name.removeprefix("vmlinuz-")
    return GuestFiles(kernel, _kept(archive), line, 256, initrd.PROMPT, f"Debian's kernel {version}")


def tiny(append: str = "") -> GuestFiles:
    """Our own guest, built with gcc and binutils.  Raises packages.Unavailable."""
    return GuestFiles(tiny_kernel(), None, append, 16, "tiny> ", "the tiny guest")


def best() -> GuestFiles:
    """The best guest that can be had here.  Raises packages.Unavailable when there is none."""
    try:
        return debian()
    except packages.Unavailable as no_debian:
        try:
            files = tiny()
        except packages.Unavailable as no_tiny:
            raise packages.Unavailable(f"{no_debian}; and {no_tiny}") from None
        note = f"the tiny guest, because Debian's kernel cannot be had ({no_debian})"
        return GuestFiles(files.kernel, None, files.append, files.memory, files.prompt, note)


def _kept(archive: bytes) -> Path:
    """A file in the cache with these contents, the same for the same contents."""
    folder = packages.cache_folder() / "initrd"
    folder.mkdir(exist_ok=True)
    path = folder / f"{hashlib.sha256(archive).hexdigest()[:16]}.cpio"
    if not path.is_file():
        fresh = path.with_suffix(f".{os.getpid()}")
        fresh.write_bytes(archive)
        fresh.rename(path)
    return path


def main(words: list[str]) -> int:
    """The command line."""
    kinds: dict[str, Callable[[], GuestFiles]] = {"debian": debian, "tiny": tiny, "best": best}
    if len(words) != 1 or words[0] not in kinds:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        files = kinds[words[0]]()
    except packages.Unavailable as error:
        print(f"no guest: {error}", file=sys.stderr)
        return 1
    print(f"guest: {files.note}", file=sys.stderr)
    print("\n".join(files.words()))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
