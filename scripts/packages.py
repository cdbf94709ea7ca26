#!/usr/bin/env python3
"""Debian packages for guests: fetched and unpacked into the cache, never installed.

    packages.py [NAME...]      fetches, and prints "name<TAB>folder" for each

What guests need: Debian's amd64 kernel with its modules, and a static busybox.  Everything goes
through apt-get and dpkg-deb, and works without root: an ordinary user downloads with the machine's
package lists, or, where there are none, with lists of his own in the cache.

The cache is `.cache` at the root of the repository, or $VBOX_CACHE:

    packages/NAME/      an unpacked package; the file PACKAGE in it says which version
    apt/                package lists of our own

A package that is there is not fetched again: remove its folder to get a newer one.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
KERNEL, BUSYBOX = "linux-image-amd64", "busybox-static"
PATIENCE = 600
"""Seconds that one run of apt-get may take."""


class Unavailable(Exception):
    """A guest or package cannot be had; the text says why, and what would help."""


def cache_folder() -> Path:
    """The folder for everything that is fetched or built for guests; made when it is not there."""
    folder = Path(os.environ.get("VBOX_CACHE") or ROOT / ".cache").resolve()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def kernel() -> Path:
    """Debian's amd64 kernel, a bzImage.  Raises Unavailable."""
    return _only(obtain(KERNEL), "boot/vmlinuz-*")


def modules_dir() -> Path:
    """The folder lib/modules/VERSION of that kernel.  Raises Unavailable."""
    folder = obtain(KERNEL)
    merged = folder / "usr/lib/modules"
    return _only(folder, "usr/lib/modules/*" if merged.is_dir() else "lib/modules/*")


def busybox() -> Path:
    """A busybox that needs no libraries.  Raises Unavailable."""
    folder = obtain(BUSYBOX)
    return _only(folder, "usr/bin/busybox" if (folder / "usr/bin/busybox").is_file() else "bin/busybox")


def obtain(name: str) -> Path:
    """The folder with the contents of a package; fetches it the first time.

    A meta package of the kernel stands for the image that it depends on.  Raises Unavailable."""
    target = cache_folder() / "packages" / name
    if (target / "PACKAGE").is_file():
        return target
    with _lock():
        if not (target / "PACKAGE").is_file():
            _fetch(name, target)
    return target


def main(names: list[str]) -> int:
    """Fetch them, or all that guests need; 1 when one had to be left out."""
    status = 0
    for name in names or (KERNEL, BUSYBOX):
        try:
            print(f"{name}\t{obtain(name)}")
        except Unavailable as error:
            print(f"left out: {error}", file=sys.stderr)
            status = 1
    return status


def _fetch(name: str, target: Path) -> None:
    for program in ("apt-get", "apt-cache", "dpkg-deb"):
        if shutil.which(program) is None:
            raise Unavailable(f"{name} comes from Debian's archive, and there is no {program} here")
    reasons = []
    for how, updates, options in _ways():
        try:
            if updates:
                _say(f"fetching package lists (apt-get update) {how}")
                _apt(options, "apt-get", "update")
            _fetch_with(options, name, target)
            return
        except Unavailable as error:
            reasons.append(f"{how}: {error}")
    raise Unavailable(f"{name} cannot be fetched: " + "; ".join(reasons))


def _ways() -> Iterator[tuple[str, bool, list[str]]]:
    """(how, whether package lists are fetched, options for apt) of each way, the cheapest first."""
    if any(Path("/var/lib/apt/lists").glob("*_Packages*")):
        yield "with the lists of this machine", False, []
    if os.geteuid() == 0:
        yield "for this machine", True, []
    yield "into the cache", True, _own_lists()


def _own_lists() -> list[str]:
    """Options that make apt keep all that it writes in the cache."""
    folder = cache_folder() / "apt"
    for part in ("state/lists/partial", "cache/archives/partial", "log"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    places = {
        "Dir::State": folder / "state",
        "Dir::State::status": "/var/lib/dpkg/status",
        "Dir::Cache": folder / "cache",
        "Dir::Log": folder / "log",
    }
    return [word for key, value in places.items() for word in ("-o", f"{key}={value}")]


def _fetch_with(options: list[str], name: str, target: Path) -> None:
    real = _image_of(options, name) if name.startswith("linux-image-") else name
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=target.parent) as scratch:
        download, tree = Path(scratch) / "download", Path(scratch) / "tree"
        download.mkdir()
        tree.mkdir()
        _say(f"downloading {real}")
        _apt(options, "apt-get", "download", real, cwd=download)
        package = _only(download, "*.deb")
        _say(f"unpacking {package.name} ({package.stat().st_size >> 10} KiB)")
        _run("dpkg-deb", "-x", str(package), str(tree))
        (tree / "PACKAGE").write_text(package.name + "\n")
        tree.chmod(0o755)
        if target.exists():
            shutil.rmtree(target)  # without the file PACKAGE it is nothing that we made
        tree.rename(target)


def _image_of(options: list[str], name: str) -> str:
    """The kernel image that a meta package such as linux-image-amd64 depends on."""
    output = _apt(options, "apt-cache", "depends", "--important", name)
    match = re.search(r"^[ |]*Depends: (linux-image-\d\S*)$", output, re.MULTILINE)
    return match[1] if match else name


def _apt(options: list[str], program: str, *words: str, cwd: Path | None = None) -> str:
    # As root, apt would download as the user _apt, who may not write into the cache.
    unsandboxed = ["-o", "APT::Sandbox::User=root"] if os.geteuid() == 0 else []
    return _run(program, "-q", *unsandboxed, *options, *words, cwd=cwd)


def _run(*words: str, cwd: Path | None = None) -> str:
    environment = {**os.environ, "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"}
    try:
        done = subprocess.run(
            words,
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise Unavailable(f"{words[0]} took longer than {PATIENCE} s") from None
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line and not line.startswith("W:")]
        raise Unavailable(" ".join(errors[-2:]) or f"{words[0]} ended with status {done.returncode}")
    return done.stdout


def _only(folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern))
    if not found:
        raise Unavailable(f"there is no {pattern} in {folder}; remove that folder to have it fetched again")
    return found[-1]


@contextmanager
def _lock() -> Iterator[None]:
    """One process fetches at a time; the others wait, and find what it has fetched."""
    with (cache_folder() / "packages.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _say(text: str) -> None:
    print(f"packages: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
