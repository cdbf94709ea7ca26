"""scripts/: packages, initrds and kernel modules for guests, with a Debian archive of our own making."""

from __future__ import annotations

import lzma
import os
import stat
import struct
import subprocess
import sys
from pathlib import Path

import initrd
import kmodules
import packages
import pytest
from hypothesis import given
from hypothesis import strategies as st
from machines import ROOT, clean_environment

NAMES = st.text("abcxyz-_.0189", min_size=1, max_size=12).filter(lambda name: name not in (".", ".."))
TREES = st.dictionaries(
    st.lists(NAMES, min_size=2, max_size=4).map("/".join), st.binary(max_size=40), max_size=6
)


def unpack_cpio(archive: bytes) -> dict[str, tuple[int, bytes]]:
    """path -> (mode, contents), in the order of the archive."""
    found: dict[str, tuple[int, bytes]] = {}
    at = 0
    while True:
        assert archive[at : at + 6] == b"070701"
        fields = [int(archive[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in range(13)]
        mode, size, name_size = fields[1], fields[6], fields[11]
        name = archive[at + 110 : at + 110 + name_size - 1].decode()
        start = (at + 110 + name_size + 3) & ~3
        if name == "TRAILER!!!":
            return found
        assert name not in found
        found[name] = (mode, archive[start : start + size])
        at = (start + size + 3) & ~3


def module(depends: str) -> bytes:
    """A kernel module that is nothing but its .modinfo."""
    info = f"license=GPL\0depends={depends}\0name=x\0".encode()
    names = b"\0.shstrtab\0.modinfo\0"
    header = bytearray(64)
    header[:6] = b"\x7fELF\x02\x01"
    struct.pack_into("<Q", header, 0x28, 64 + len(info) + len(names))
    struct.pack_into("<3H", header, 0x3A, 64, 3, 1)
    sections = bytes(64)
    sections += struct.pack("<II4Q", 1, 3, 0, 0, 64 + len(info), len(names)) + bytes(24)
    sections += struct.pack("<II4Q", 11, 1, 0, 0, 64, len(info)) + bytes(24)
    return bytes(header) + info + names + sections


@pytest.fixture
def kernel_modules(tmp_path: Path) -> Path:
    """A folder lib/modules/VERSION: top needs mid-dle and base, mid-dle needs base, core is built in."""
    folder = tmp_path / "6.1"
    (folder / "kernel" / "drivers").mkdir(parents=True)
    (folder / "modules.builtin").write_text("kernel/lib/core.ko\n")
    for name, depends in (("top", "mid_dle,base"), ("mid-dle", "base,core"), ("base", "")):
        (folder / "kernel" / "drivers" / f"{name}.ko").write_bytes(module(depends))
    (folder / "kernel" / "packed.ko.xz").write_bytes(lzma.compress(module("base")))
    return folder


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Programs named apt-get, apt-cache and dpkg-deb that log what they are asked for; a cache."""
    folder = tmp_path / "programs"
    folder.mkdir()
    programs = {
        "apt-get": 'case "$*" in *download*) touch "thing_1_amd64.deb" ;; esac',
        "apt-cache": 'printf "x\\n  Depends: linux-image-9.9-amd64\\n"',
        "dpkg-deb": """case "$1" in
            -x) mkdir -p "$3/boot"; touch "$3/boot/vmlinuz-9.9" ;;
            -f) case "$*" in *Depends*) printf 'Depends: libx1 (>= 2), liby:any | libz, tool\\n' ;; esac ;;
        esac""",
    }
    for name, body in programs.items():
        write_program(folder / name, f'echo "{name} $*" >> {tmp_path}/log\n{body}')
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("VBOX_CACHE", str(tmp_path / "cache"))
    return folder


def write_program(path: Path, body: str) -> None:
    """A shell script."""
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


@given(TREES)
def test_archive_of_any_tree_holds_all_of_it_and_folders_first(tree: dict[str, bytes]) -> None:
    made = initrd.Tree()
    wanted = {}
    for path, data in tree.items():
        if not any(other != path and (other + "/").startswith(path + "/") for other in tree):
            made.file(path, data)
            wanted[path] = data

    found = unpack_cpio(made.archive())

    assert {path: data for path, (mode, data) in found.items() if stat.S_ISREG(mode)} == wanted
    seen = set()
    for path in found:
        assert "/" not in path or path.rpartition("/")[0] in seen
        seen.add(path)


def test_initrd_of_the_same_input_is_the_same(tmp_path: Path) -> None:
    busybox = tmp_path / "busybox"
    busybox.write_bytes(b"program")
    extra = tmp_path / "extra"
    (extra / "sub").mkdir(parents=True)
    (extra / "sub" / "file").write_bytes(b"text")

    first = initrd.build(busybox, files={"opt": extra, "etc/x": b"y"}, commands=["echo hello"])
    os.utime(busybox, (1, 1))
    second = initrd.build(busybox, files={"opt": extra, "etc/x": b"y"}, commands=["echo hello"])

    found = unpack_cpio(first)
    assert first == second
    assert found["opt/sub/file"][1] == b"text"
    assert found["etc/x"][1] == b"y"
    assert found["commands"][1] == b"echo hello\n"
    assert found["init"][0] == stat.S_IFREG | 0o755
    assert stat.S_ISCHR(found["dev/console"][0])


def test_initrd_with_modules_holds_them_in_the_order_of_loading(tmp_path: Path, kernel_modules: Path) -> None:
    busybox = tmp_path / "busybox"
    busybox.write_bytes(b"program")

    found = unpack_cpio(initrd.build(busybox, modules_dir=kernel_modules, modules=["top", "packed"]))

    names = [name for name in found if name.endswith(".ko")]
    assert names == [
        f"modules/00{number}-{name}.ko" for number, name in enumerate(["base", "mid_dle", "top", "packed"])
    ]
    assert found["modules/003-packed.ko"][1] == module("base")


def test_init_gives_modules_their_parameters_of_the_command_line(tmp_path: Path) -> None:
    start, end = initrd.INIT.index("read -r line"), initrd.INIT.index("cd /root")
    script = initrd.INIT[start:end].replace("/proc/cmdline", "line").replace("/modules/", "modules/")
    (tmp_path / "line").write_text("quiet libata.dma=0 libata.x=y libata2.z=1 a=libata.b=2 sd_mod.c=3\n")
    (tmp_path / "modules").mkdir()
    for name in ("000-libata", "001-cdrom", "002-sd_mod"):
        (tmp_path / "modules" / f"{name}.ko").touch()

    done = subprocess.run(
        ["sh", "-c", f'insmod() {{ echo "$@"; }}\n{script}'],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout.splitlines() == [
        "modules/000-libata.ko dma=0 x=y",
        "modules/001-cdrom.ko",
        "modules/002-sd_mod.ko c=3",
    ]


def test_modules_built_in_need_no_file(kernel_modules: Path) -> None:
    assert kmodules.Modules(kernel_modules).closure(["core"]) == []


def test_modules_unknown_name_is_told(kernel_modules: Path) -> None:
    with pytest.raises(kmodules.ModuleError, match="nonesuch"):
        kmodules.Modules(kernel_modules).closure(["nonesuch"])


def test_package_is_fetched_once_by_the_name_behind_the_meta_package(archive: Path, tmp_path: Path) -> None:
    first = packages.kernel()
    log = (tmp_path / "log").read_text()
    second = packages.kernel()

    assert first == second
    assert first.name == "vmlinuz-9.9"
    assert "download linux-image-9.9-amd64" in log
    assert (tmp_path / "log").read_text() == log
    assert sorted(path.name for path in first.parent.parent.parent.iterdir()) == ["linux-image-amd64"]


def test_package_that_cannot_be_downloaded_says_why_and_leaves_nothing(archive: Path, tmp_path: Path) -> None:
    write_program(archive / "apt-get", "echo 'E: no network here' >&2; exit 100")

    with pytest.raises(packages.Unavailable, match="no network here"):
        packages.busybox()

    assert not list((tmp_path / "cache").glob("packages/*"))


def test_package_half_unpacked_is_unpacked_again(archive: Path, tmp_path: Path) -> None:
    (tmp_path / "cache" / "packages" / "linux-image-amd64" / "boot").mkdir(parents=True)

    assert packages.kernel().is_file()


def test_libraries_of_a_package_are_those_it_depends_on_each_once(archive: Path) -> None:
    # All packages of this archive depend on the same ones, libraries on themselves.
    assert packages.libraries("thing") == ["libx1", "liby"]


def test_program_of_a_package_without_libc_says_so(archive: Path) -> None:
    with pytest.raises(packages.Unavailable, match="loader"):
        packages.Program("thing", "boot/vmlinuz-*")


def test_package_with_folders_below_usr_is_searched_there_too(archive: Path, tmp_path: Path) -> None:
    for name, folder in (("old", "bin"), ("new", "usr/bin")):
        place = tmp_path / "cache" / "packages" / name / folder
        place.mkdir(parents=True)
        (place / "program").touch()
        (tmp_path / "cache" / "packages" / name / "PACKAGE").touch()

    assert packages.find("old", "bin/program").parent.name == "bin"
    assert packages.find("new", "bin/program").is_relative_to(tmp_path / "cache" / "packages" / "new" / "usr")
    with pytest.raises(packages.Unavailable, match="nothing"):
        packages.find("old", "bin/nothing")


def test_packages_without_apt_say_so(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.setenv("PATH", str(empty))

    with pytest.raises(packages.Unavailable, match="apt-get"):
        packages.busybox()


def test_demo_without_any_guest_says_why(archive: Path, tmp_path: Path) -> None:
    write_program(archive / "apt-get", "exit 100")
    environment = clean_environment() | {
        "PATH": f"{archive}:/usr/bin:/bin",
        "CC": "no-such-compiler",
        "VBOX_CACHE": str(tmp_path / "cache"),
    }

    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "demo.py")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 1
    assert "busybox-static" in done.stderr or "linux-image-amd64" in done.stderr
    assert "gcc" in done.stderr
