#!/usr/bin/env python3
"""Debian packages for guests: fetched and unpacked into the cache, never installed.

    packages.py [NAME...]      fetches, and prints "name<TAB>folder" for each

What guests need: Debian's amd64 kernel with its modules, a static busybox, firmware, boot loaders, a
memory test and the installer.  Everything goes through apt-get and dpkg-deb, and works without root: an
ordinary user downloads with the machine's package lists, or, where there are none, with lists of his own
in the cache.  Programs from packages run with the libraries of packages (`Program`), so that it does not
matter what the machine has.

The cache is `.cache` at the root of the repository, or $VBOX_CACHE:

    packages/NAME/      an unpacked package; the file PACKAGE in it says which version, and what it needs
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
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
KERNEL, BUSYBOX, FIRMWARE = "linux-image-amd64", "busybox-static", "seabios"
ISOLINUX, SYSLINUX = "isolinux", "syslinux-common"
GRUB, GRUB_TOOLS, FILE_SYSTEM_TOOLS = "grub-pc-bin", "grub-common", "e2fsprogs"
MEMTEST, INSTALLER = "memtest86+", "debian-installer-12-netboot-i386"
ALL = (KERNEL, BUSYBOX, FIRMWARE, ISOLINUX, SYSLINUX, GRUB, GRUB_TOOLS, FILE_SYSTEM_TOOLS, MEMTEST, INSTALLER)
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
    return find(KERNEL, "lib/modules/*")


def busybox() -> Path:
    """A busybox that needs no libraries.  Raises Unavailable."""
    return find(BUSYBOX, "bin/busybox")


def firmware_dir() -> Path:
    """The folder with SeaBIOS (bios-256k.bin) and its VGA BIOSes (vgabios-*.bin).  Raises Unavailable."""
    return find(FIRMWARE, "usr/share/seabios/bios-256k.bin").parent


def find(name: str, pattern: str) -> Path:
    """The file or folder in a package whose path matches; the last one when several do.

    Releases of Debian differ in whether /bin, /lib and /sbin are folders of their own or below /usr: a
    pattern without usr/ means both.  Raises Unavailable."""
    folder = obtain(name)
    merged = sorted(folder.glob(f"usr/{pattern}"))
    return merged[-1] if merged else _only(folder, pattern)


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


class Program:
    """A program of a package, run with libraries of packages.  Making one raises Unavailable.

    The package's libc brings the loader, which is told where the libraries are."""

    def __init__(self, name: str, pattern: str) -> None:
        self.path = find(name, pattern)
        folders = [obtain(library) for library in libraries(name)]
        places = [place for folder in folders for place in folder.glob("**/*-linux-gnu") if place.is_dir()]
        loaders = [loader for place in places for loader in place.glob("ld-linux*.so.*")]
        if not loaders:
            raise Unavailable(
                f"no package that {name} needs has a loader; remove {obtain(name)} to fetch it again"
            )
        self.loader = loaders[0]
        self._by = [str(self.loader), "--library-path", ":".join(map(str, places))]

    def run(self, *words: str | Path, environment: Mapping[str, str] | None = None) -> str:
        """Run it; its standard output.  Raises Unavailable with its error output when it fails."""
        return _run(*self._by, str(self.path), *map(str, words), more_environment=environment)

    def objects(self) -> list[Path]:
        """The shared libraries that it loads, without the loader itself."""
        listed = _run(*self._by, "--list", str(self.path))
        found = [Path(path) for path in re.findall(r"=> (/\S+) \(", listed)]
        return [path for path in found if path.name != self.loader.name]


def libraries(name: str) -> list[str]:
    """The packages of libraries that a package needs, and those that they need.  Raises Unavailable."""
    found: list[str] = []
    waiting = [name]
    while waiting:
        for needed in _depends(waiting.pop()):
            if needed.startswith("lib") and needed not in found:
                found.append(needed)
                waiting.append(needed)
    return found


def _depends(name: str) -> list[str]:
    """The packages in the fields Pre-Depends and Depends; of alternatives the first."""
    text = (obtain(name) / "PACKAGE").read_text()
    fields = re.findall(r"^(?:Pre-)?Depends: (.*)$", text, re.MULTILINE)
    return [
        match[0]
        for field in fields
        for part in field.split(",")
        if (match := re.match(r"[^\s(:|]+", part.strip()))
    ]


def main(names: list[str]) -> int:
    """Fetch them, or all that guests need; 1 when one had to be left out."""
    status = 0
    for name in names or ALL:
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
        needs = _run("dpkg-deb", "-f", str(package), "Pre-Depends", "Depends")
        (tree / "PACKAGE").write_text(f"{package.name}\n{needs}")
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


def _run(*words: str, cwd: Path | None = None, more_environment: Mapping[str, str] | None = None) -> str:
    environment = {**os.environ, "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"}
    environment.update(more_environment or {})
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
