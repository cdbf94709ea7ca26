#!/usr/bin/env python3
"""An initial RAM disk with busybox and our own init: what tests and `make demo` boot Linux with.

The archive is a cpio of the newc format (buffer-format.rst of the kernel's documentation),
uncompressed, because unpacking is the guest's time, and the same for the same contents: sorted
names, time 0, owner root.

In the guest, init links busybox's applets into /bin, mounts /proc, /sys and /dev, loads the modules
in /modules with the parameters that the kernel's command line has for them (`libata.dma=0`, with `_` for
`-` in names), runs the commands it was given, and keeps a shell with job control on the console that is
last on the command line: ttyS0 with `console=ttyS0`.
"""

from __future__ import annotations

import argparse
import stat
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import packages
from kmodules import ModuleError, Modules

PROMPT = "guest# "
BANNER = "vbox-vmm guest: Linux"
"""The first words of the line that says that the guest is up; then come version and machine."""

INIT = f"""#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/sbin:/bin HOME=/root TERM=vt100 ENV=/etc/shell PS1='{PROMPT}'
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts
mount -t devpts devpts /dev/pts
hostname guest
# The kernel's messages would come into the middle of what the shell says.
dmesg -n 1
read -r line < /proc/cmdline
for module in /modules/*.ko; do
    [ -e "$module" ] || continue
    name=${{module##*/???-}}
    parameters=
    for word in $line; do
        case $word in "${{name%.ko}}".*=*) parameters="$parameters ${{word#*.}}" ;; esac
    done
    insmod "$module" $parameters || echo "init: $module was not loaded"
done
cd /root
[ ! -e /commands ] || sh /commands
echo
echo "{BANNER} $(uname -r) on $(uname -m), $(cut -d ' ' -f 1 /proc/uptime) s after its start"
while true; do
    setsid cttyhack sh
done
"""
SHELL = """# There is no init that could be asked: straight to the kernel.
halt() { busybox halt -f; }
poweroff() { busybox poweroff -f; }
reboot() { busybox reboot -f; }
"""
"""What the interactive shell reads first.  Functions, because this busybox prefers its applets to files."""

Entry = tuple[int, bytes, tuple[int, int]]
"""mode, contents, (major, minor) of a device."""


FILE_SYSTEM_PROGRAMS = ("mkfs.ext4", "e2fsck", "debugfs")


def file_system_tools() -> dict[str, Path]:
    """`files` for build(): programs that make, check and show ext4, from Debian, in /sbin.

    With the libraries that they load, the loader, and their settings.  Raises packages.Unavailable."""
    found = {"etc/mke2fs.conf": packages.find(packages.FILE_SYSTEM_TOOLS, "etc/mke2fs.conf")}
    for name in FILE_SYSTEM_PROGRAMS:
        program = packages.Program(packages.FILE_SYSTEM_TOOLS, f"sbin/{name}")
        found[f"sbin/{name}"] = program.path.resolve()
        found[f"lib64/{program.loader.name}"] = program.loader.resolve()
        found.update((f"lib/{path.name}", path.resolve()) for path in program.objects())
    return found


def build(
    busybox: Path,
    *,
    modules_dir: Path | None = None,
    modules: Sequence[str] = (),
    files: Mapping[str, bytes | Path] | None = None,
    commands: Sequence[str] = (),
) -> bytes:
    """The archive.

    `modules` are loaded at boot, after all that they depend on; those that the kernel has inside need
    no file.  `files` maps paths in the guest to contents, or to files and folders of the host.
    `commands` are lines of shell, run before the shell comes up.  Raises ModuleError, OSError."""
    tree = Tree()
    for folder in ("dev", "proc", "sys", "tmp", "root", "bin", "etc"):
        tree.folder(folder)
    tree.device("dev/console", 5, 1)
    tree.device("dev/null", 1, 3)
    tree.file("bin/busybox", busybox.read_bytes(), 0o755)
    tree.file("init", INIT.encode(), 0o755)
    tree.file("etc/shell", SHELL.encode())
    tree.file("etc/passwd", b"root::0:0:root:/root:/bin/sh\n")
    tree.file("etc/group", b"root:x:0:\n")
    if modules:
        if modules_dir is None:
            raise ModuleError(f"there is no kernel to take {', '.join(modules)} from")
        available = Modules(modules_dir)
        for number, name in enumerate(available.closure(modules)):
            tree.file(f"modules/{number:03}-{name}.ko", available.read(name))
    for path, source in (files or {}).items():
        tree.add(path, source)
    if commands:
        tree.file("commands", "".join(f"{line}\n" for line in commands).encode())
    return tree.archive()


class Tree:
    """The contents of an archive."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}

    def folder(self, path: str) -> None:
        """A folder, and those above it."""
        parts = path.strip("/").split("/")
        for length in range(1, len(parts) + 1):
            self._entries.setdefault("/".join(parts[:length]), (stat.S_IFDIR | 0o755, b"", (0, 0)))

    def file(self, path: str, data: bytes, mode: int = 0o644) -> None:
        """A file; the folders above it come by themselves."""
        self._put(path, (stat.S_IFREG | mode, data, (0, 0)))

    def link(self, path: str, target: str) -> None:
        """A symbolic link."""
        self._put(path, (stat.S_IFLNK | 0o777, target.encode(), (0, 0)))

    def device(self, path: str, major: int, minor: int) -> None:
        """A character device."""
        self._put(path, (stat.S_IFCHR | 0o600, b"", (major, minor)))

    def add(self, path: str, source: bytes | Path) -> None:
        """Contents, or a file or folder of the host with all that is in it."""
        if isinstance(source, bytes):
            self.file(path, source)
        elif source.is_symlink():
            self.link(path, str(source.readlink()))
        elif source.is_dir():
            self.folder(path)
            for child in sorted(source.iterdir()):
                self.add(f"{path}/{child.name}", child)
        else:
            self.file(path, source.read_bytes(), stat.S_IMODE(source.stat().st_mode))

    def archive(self) -> bytes:
        """The cpio archive of it all, its length a multiple of 512."""
        out = bytearray()
        # A folder sorts before what is in it: its name is a prefix of theirs.
        for number, (path, entry) in enumerate(sorted(self._entries.items()), start=1):
            _write_entry(out, path, number, entry)
        _write_entry(out, "TRAILER!!!", 0, (0, b"", (0, 0)))
        out.extend(bytes(-len(out) % 512))
        return bytes(out)

    def _put(self, path: str, entry: Entry) -> None:
        path = path.strip("/")
        if "/" in path:
            self.folder(path.rpartition("/")[0])
        self._entries[path] = entry


def _write_entry(out: bytearray, path: str, number: int, entry: Entry) -> None:
    mode, data, (major, minor) = entry
    name = path.encode() + b"\0"
    links = 2 if stat.S_ISDIR(mode) else 1
    fields = (number, mode, 0, 0, links, 0, len(data), 0, 0, major, minor, len(name), 0)
    out.extend(b"070701" + b"".join(b"%08X" % field for field in fields) + name)
    out.extend(bytes(-len(out) % 4))
    out.extend(data)
    out.extend(bytes(-len(out) % 4))


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Build an initial RAM disk with busybox.")
    parser.add_argument("output", type=Path)
    parser.add_argument("--module", action="append", default=[], metavar="NAME", help="load it at boot")
    parser.add_argument(
        "--add", action="append", default=[], metavar="GUEST=HOST", help="a file or folder to put in"
    )
    parser.add_argument("--command", action="append", default=[], help="a line of shell to run at boot")
    options = parser.parse_args()
    for pair in options.add:
        if "=" not in pair:
            parser.error(f"--add {pair}: wanted GUEST=HOST")
    try:
        archive = build(
            packages.busybox(),
            modules_dir=packages.modules_dir() if options.module else None,
            modules=options.module,
            files={guest: Path(host) for guest, _, host in (pair.partition("=") for pair in options.add)},
            commands=options.command,
        )
        options.output.write_bytes(archive)
    except (packages.Unavailable, ModuleError, OSError) as error:
        print(f"initrd: {error}", file=sys.stderr)
        return 1
    print(f"{options.output}: {len(archive) >> 10} KiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
