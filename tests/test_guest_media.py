"""scripts/: what guests start from, CDs, disks and initrds, looked at by readers of our own and debugfs."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import disk
import grub
import guests
import initrd
import iso
import media
import packages
import pytest
from attrs import evolve, frozen
from guests import GuestFiles
from hypothesis import given, settings
from hypothesis import strategies as st
from test_guest_scripts import unpack_cpio

BLOCK = 2048
NAMES = st.text("abcxyz_0189", min_size=1, max_size=8)
PATHS = st.tuples(st.lists(NAMES, max_size=3), NAMES, st.sampled_from(["", ".img", ".c32"])).map(
    lambda parts: "/".join([*parts[0], parts[1] + parts[2]])
)


@frozen
class Boot:
    """What El Torito says: how the BIOS starts the disc, the image's block, and how much it loads."""

    emulation: int
    block: int
    sectors: int


class Cd:
    """A reader of ISO 9660 (ECMA-119) with names by Rock Ridge."""

    def __init__(self, path: Path) -> None:
        self.data = path.read_bytes()
        volume = self.block(16)
        assert volume[:6] == b"\x01CD001"
        self.size = struct.unpack_from("<I", volume, 80)[0]
        self.files: dict[str, bytes] = {}
        self.plain: dict[str, str] = {}
        self._walk(volume[156:190], "", "")

    def block(self, number: int, size: int = BLOCK) -> bytes:
        """The bytes from a block on."""
        data = self.data[number * BLOCK : number * BLOCK + size]
        assert len(data) == size
        return data

    def boot(self) -> Boot:
        """The initial entry of the boot catalogue, whose checksum must be right."""
        record = self.block(17)
        assert record[:7] == b"\x00CD001\x01"
        assert record[7:30] == b"EL TORITO SPECIFICATION"
        catalogue = self.block(struct.unpack_from("<I", record, 71)[0])
        assert sum(struct.unpack_from("<16H", catalogue)) & 0xFFFF == 0
        assert (catalogue[0], catalogue[30:32]) == (1, b"\x55\xaa")
        assert catalogue[32] == 0x88
        emulation, sectors, block = catalogue[33], *struct.unpack_from("<HI", catalogue, 38)
        return Boot(emulation, block, sectors)

    def _walk(self, record: bytes, path: str, plain: str) -> None:
        start, size = struct.unpack_from("<I", record, 2)[0], struct.unpack_from("<I", record, 10)[0]
        for entry in records(self.block(start, size)):
            name = entry[33 : 33 + entry[32]].decode("latin-1")
            if name in ("\0", "\1"):
                continue
            inner, inner_plain = f"{path}/{rock_ridge_name(entry)}", f"{plain}/{name}"
            if entry[25] & 2:
                self._walk(entry, inner, inner_plain)
            else:
                at, length = struct.unpack_from("<I", entry, 2)[0], struct.unpack_from("<I", entry, 10)[0]
                self.files[inner] = self.block(at, length)
                self.plain[inner] = inner_plain


def records(folder: bytes) -> Iterator[bytes]:
    """The records of a folder; none crosses the end of a block."""
    at = 0
    while at < len(folder):
        length = folder[at]
        if length:
            yield folder[at : at + length]
            at += length
        else:
            at = (at // BLOCK + 1) * BLOCK


def rock_ridge_name(record: bytes) -> str:
    """The name in the entry NM of a folder's record."""
    at = 33 + record[32] + (record[32] + 1) % 2
    while at + 4 <= len(record) and record[at + 2]:
        if record[at : at + 2] == b"NM":
            return record[at + 5 : at + record[at + 2]].decode()
        at += record[at + 2]
    raise AssertionError("no Rock Ridge name")


def check_boot_image(cd: Cd, path: str, original: bytes) -> None:
    """The BIOS starts this file without emulation, and its boot info table says where it lies."""
    found, boot = cd.files[path], cd.boot()
    assert boot == Boot(emulation=0, block=boot.block, sectors=4)
    assert cd.block(boot.block, len(found)) == found
    volume, block, size, checksum = struct.unpack_from("<4I", found, 8)
    padded = found[64:] + bytes(-len(found) % 4)
    total = sum(struct.unpack(f"<{len(padded) // 4}I", padded)) & 0xFFFFFFFF
    assert (volume, block, size, checksum) == (16, boot.block, len(original), total)
    assert (found[:8], found[64:]) == (original[:8], original[64:])


def or_skip(find: Callable[[], GuestFiles]) -> GuestFiles:
    """The guest, or the reason why there is none."""
    try:
        return find()
    except packages.Unavailable as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def direct() -> GuestFiles:
    """Debian's kernel and our initrd; nothing is booted here."""
    return or_skip(lambda: guests.debian(firmware=False))


@pytest.fixture(scope="module")
def grub_disk(direct: GuestFiles) -> Path:
    """The disk with GRUB."""
    return or_skip(lambda: guests.grub_disk(direct, {"data/x": b"text"})).disks[0]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own."""
    monkeypatch.setenv("VBOX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@settings(max_examples=25, deadline=None)
@given(st.dictionaries(PATHS, st.binary(max_size=5000), max_size=8))
def test_cd_of_any_files_holds_them_under_their_names(
    tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes]
) -> None:
    kept = {
        path: data for path, data in files.items() if not any(other.startswith(path + "/") for other in files)
    }
    target = tmp_path_factory.mktemp("cd") / "cd.iso"

    iso.write(target, "LABEL", kept)

    cd = Cd(target)
    assert cd.files == {f"/{path}": data for path, data in kept.items()}
    assert len(cd.data) >= cd.size * BLOCK + iso.PADDING


def test_cd_with_a_boot_image_is_started_from_it(tmp_path: Path) -> None:
    image = bytes(range(256)) * 20 + b"odd"
    (tmp_path / "kernel").write_bytes(b"kernel" * 1000)
    target = tmp_path / "cd.iso"

    iso.write(target, "LABEL", {"boot/a.bin": image, "vmlinuz": tmp_path / "kernel"}, boot="boot/a.bin")

    cd = Cd(target)
    check_boot_image(cd, "/boot/a.bin", image)
    assert cd.files["/vmlinuz"] == b"kernel" * 1000
    assert cd.plain["/boot/a.bin"] == "/BOOT/A.BIN;1"
    assert cd.plain["/vmlinuz"] == "/VMLINUZ.;1"


def test_cd_with_two_files_of_one_plain_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="A_B"):
        iso.write(tmp_path / "cd.iso", "LABEL", {"a-b": b"", "a+b": b""})


def test_isolinux_cd_starts_the_kernel_without_asking(direct: GuestFiles) -> None:
    guest = or_skip(lambda: guests.isolinux_cd(direct, {"data/x": b"text"}))

    cd = Cd(guest.cdroms[0])
    loader = packages.find(packages.ISOLINUX, "usr/lib/ISOLINUX/isolinux.bin")
    check_boot_image(cd, "/isolinux/isolinux.bin", loader.read_bytes())
    assert direct.kernel is not None
    assert direct.initrd is not None
    assert cd.files["/boot/vmlinuz"] == direct.kernel.read_bytes()
    assert cd.files["/boot/initrd.img"] == direct.initrd.read_bytes()
    assert cd.files["/data/x"] == b"text"
    assert cd.files["/isolinux/ldlinux.c32"][:4] == b"\x7fELF"
    lines = cd.files["/isolinux/isolinux.cfg"].decode().splitlines()
    assert {"PROMPT 0", "  APPEND console=ttyS0", "  KERNEL /boot/vmlinuz"} <= set(lines)


def test_grub_cd_has_a_core_image_that_knows_the_cd(direct: GuestFiles) -> None:
    guest = or_skip(lambda: guests.grub_cd(direct))

    cd = Cd(guest.cdroms[0])
    core = grub.core_image(grub.CD_FORMAT, "(cd)/boot/grub", ("iso9660",))
    check_boot_image(cd, "/boot/grub/eltorito.img", core)
    config = cd.files["/boot/grub/grub.cfg"]
    assert b"linux /boot/vmlinuz console=ttyS0\n" in config
    assert b"set timeout=0\n" in config
    assert "/boot/vmlinuz" in cd.files


def test_grub_cd_that_asks_waits_for_a_key(direct: GuestFiles) -> None:
    guest = or_skip(lambda: guests.grub_cd(direct, interactive=True))

    assert b"set timeout=-1\n" in Cd(guest.cdroms[0]).files["/boot/grub/grub.cfg"]
    assert guest.screen == "GNU GRUB"


def test_grub_disk_sector_0_finds_the_core_image_and_the_partition(grub_disk: Path) -> None:
    data = grub_disk.read_bytes()[: disk.FIRST_SECTOR * 512]

    original = packages.find(packages.GRUB, "usr/lib/grub/i386-pc/boot.img").read_bytes()
    changed = {index for index in range(0x1B8) if data[index] != original[index]}
    assert changed <= {0x66, 0x67}
    assert data[0x66:0x68] == b"\x90\x90"
    assert struct.unpack_from("<QB", data, 0x5C) == (1, 0xFF)
    assert data[0x1FE:0x200] == b"\x55\xaa"
    active, *_, kind = struct.unpack_from("<B3sB", data, 0x1BE)
    start, length = struct.unpack_from("<II", data, 0x1C6)
    assert (active, kind, start) == (0x80, 0x83, 2048)
    assert (start + length) * 512 == grub_disk.stat().st_size
    assert data[0x1CE:0x1FE] == bytes(48)


def test_grub_disk_block_list_covers_the_core_image(grub_disk: Path) -> None:
    data = grub_disk.read_bytes()[512 : disk.FIRST_SECTOR * 512]
    core = grub.core_image(grub.DISK_FORMAT, "(hd0,msdos1)/boot/grub", ("part_msdos", "ext2"))

    start, sectors, segment = struct.unpack_from("<QHH", data, 512 - 12)
    assert (start, segment) == (2, 0x820)
    assert sectors == (len(core) - 1) // 512
    assert struct.unpack_from("<QHH", data, 512 - 24) == (0, 0, 0)
    assert data[512 : len(core)] == core[512:]
    assert not any(data[len(core) :])


def test_grub_disk_file_system_is_whole_and_holds_the_guest(
    grub_disk: Path, direct: GuestFiles, tmp_path: Path
) -> None:
    partition = f"{grub_disk}?offset={disk.FIRST_SECTOR * 512}"
    debugfs = packages.Program(packages.FILE_SYSTEM_TOOLS, "sbin/debugfs")
    checker = packages.Program(packages.FILE_SYSTEM_TOOLS, "sbin/e2fsck")

    checker.run("-fn", partition)  # ends with an error when there is anything to repair
    for name in ("boot/vmlinuz", "boot/grub/grub.cfg", "data/x"):
        debugfs.run("-R", f"dump /{name} {tmp_path}/{Path(name).name}", partition)

    assert direct.kernel is not None
    assert (tmp_path / "vmlinuz").read_bytes() == direct.kernel.read_bytes()
    assert b"terminal_output console" in (tmp_path / "grub.cfg").read_bytes()
    assert (tmp_path / "x").read_bytes() == b"text"
    assert grub_disk.stat().st_blocks * 512 < grub_disk.stat().st_size // 2


@pytest.mark.parametrize(
    ("size", "code", "gap"), [(1, b"", b""), (64, bytes(0x1B9), b""), (64, b"", bytes(2047 * 512 + 1))]
)
def test_disk_with_more_than_has_room_is_refused(tmp_path: Path, size: int, code: bytes, gap: bytes) -> None:
    with pytest.raises(ValueError, match="at least 2"):
        disk.write(tmp_path / "disk", size, {}, boot_code=code, gap=gap)

    assert not list(tmp_path.iterdir())


def test_disk_too_small_for_its_files_says_so(direct: GuestFiles, grub_disk: Path) -> None:
    assert direct.kernel is not None
    with pytest.raises(packages.Unavailable, match=r"(?i)could not allocate"):
        media.grub_disk(direct.kernel, direct.kernel, "", size=8)


@pytest.mark.parametrize(
    ("sector", "expected"),
    [
        (0, (0, 1, 0)),
        (62, (0, 63, 0)),
        (2048, (32, 33, 0)),
        (255 * 63 * 300, (0, 0x41, 44)),
        (1 << 31, (254, 0xFF, 255)),
    ],
)
def test_disk_chs_of_a_sector_is_what_a_bios_counts(sector: int, expected: tuple[int, int, int]) -> None:
    assert disk.chs(sector) == expected


def test_memtest_cd_is_started_as_a_floppy() -> None:
    guest = or_skip(guests.memtest)

    cd = Cd(guest.cdroms[0])
    boot = cd.boot()
    assert boot.emulation == 2  # 1.44 MB
    assert cd.block(boot.block)[0x1FE:0x200] == b"\x55\xaa"


def test_installer_cd_starts_debians_installer_on_the_text_screen() -> None:
    guest = or_skip(guests.installer)

    cd = Cd(guest.cdroms[0])
    assert b"nomodeset" in cd.files["/isolinux/isolinux.cfg"]
    assert cd.files["/boot/vmlinuz"][0x202:0x206] == b"HdrS"
    assert cd.files["/boot/initrd.img"][:2] == b"\x1f\x8b"


def test_storage_initrd_has_every_library_that_its_programs_need() -> None:
    guest = or_skip(guests.storage)
    assert guest.initrd is not None

    found = unpack_cpio(guest.initrd.read_bytes())

    libraries = {path.rpartition("/")[2] for path in found if path.startswith("lib")}
    for path, (_, data) in found.items():
        if path.startswith(("sbin/", "lib")) and data[:4] == b"\x7fELF":
            needed = needed_libraries(data)
            assert set(needed) <= libraries, path
    assert needed_libraries(found["sbin/mkfs.ext4"][1])
    assert found["sbin/mkfs.ext4"][0] & 0o111
    assert found["lib64/ld-linux-x86-64.so.2"][0] & 0o111
    assert b"ext4" in found["etc/mke2fs.conf"][1]


def needed_libraries(elf: bytes) -> list[str]:
    """The DT_NEEDED entries of a 64-bit ELF file."""
    (table,) = struct.unpack_from("<Q", elf, 0x20)
    size, count = struct.unpack_from("<2H", elf, 0x36)
    headers = [struct.unpack_from("<2I6Q", elf, table + size * index) for index in range(count)]
    loads = [(address, offset, length) for kind, _, offset, address, _, length, *_ in headers if kind == 1]
    entries: list[tuple[int, int]] = []
    for kind, _, offset, _, _, length, *_ in headers:
        if kind == 2:
            entries = list(struct.iter_unpack("<2Q", elf[offset : offset + length]))
    names_at = next((value for tag, value in entries if tag == 5), 0)
    names = next((names_at - to + at for to, at, length in loads if to <= names_at < to + length), 0)
    return [
        elf[names + value : elf.index(b"\0", names + value)].decode() for tag, value in entries if tag == 1
    ]


def test_storage_initrd_loads_libata_before_what_needs_it() -> None:
    guest = or_skip(guests.storage)
    assert guest.initrd is not None

    names = [
        path.rpartition("/")[2][4:].removesuffix(".ko")
        for path in unpack_cpio(guest.initrd.read_bytes())
        if path.endswith(".ko")
    ]

    assert set(guests.STORAGE_MODULES) <= set(names)
    assert names.index("scsi_mod") < names.index("libata") < names.index("ata_piix")
    assert names.index("cdrom") < names.index("sr_mod")
    assert names.index("jbd2") < names.index("ext4")


def test_random_file_is_the_same_for_the_same_seed(cache: Path) -> None:
    first = media.random_file((1 << 20) + 5, seed=1).read_bytes()
    other = media.random_file((1 << 20) + 5, seed=2).read_bytes()
    for path in (cache / "media").iterdir():
        path.unlink()
    again = media.random_file((1 << 20) + 5, seed=1).read_bytes()

    assert len(first) == (1 << 20) + 5
    assert first == again
    assert first != other


def test_media_are_made_again_when_what_they_are_made_of_changes(cache: Path, tmp_path: Path) -> None:
    source, made = tmp_path / "source", []

    def make(target: Path) -> None:
        made.append(target)
        target.write_bytes(source.read_bytes())

    source.write_bytes(b"one")
    first = media.kept("thing", ".bin", {"source": source}, make)
    second = media.kept("thing", ".bin", {"source": source}, make)
    source.write_bytes(b"two")
    third = media.kept("thing", ".bin", {"source": source}, make)

    assert first == second != third
    assert len(made) == 2
    assert (first.read_bytes(), third.read_bytes()) == (b"one", b"two")


def test_media_that_fail_half_way_leave_nothing(cache: Path) -> None:
    def make(target: Path) -> None:
        target.write_bytes(b"half")
        raise packages.Unavailable("no more")

    with pytest.raises(packages.Unavailable, match="no more"):
        media.kept("thing", ".bin", {}, make)

    assert not list((cache / "media").iterdir())


def test_words_of_a_guest_by_kernel_go_through_the_firmware_named_where_it_is_not_installed() -> None:
    guest = GuestFiles(Path("/k"), Path("/i"), "a b", 64, "", "", bios=Path("/firmware"))

    assert guest.words() == [
        *("--memory", "64", "--bios", "/firmware", "--kernel", "/k", "--initrd", "/i", "--append", "a b")
    ]
    assert evolve(guest, bios=None).words()[:3] == ["--memory", "64", "--kernel"]
    direct = guest.direct().words()
    assert "--bios" not in direct
    assert direct[direct.index("--firmware") + 1] == "none"


def test_words_of_a_guest_on_a_cd_name_no_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guests, "SYSTEM_FIRMWARE", Path("/nonexistent"))
    monkeypatch.setattr(packages, "firmware_dir", lambda: Path("/firmware"))
    monkeypatch.setattr(media, "isolinux_cd", lambda *_, **__: Path("/cd.iso"))
    guest = GuestFiles(Path("/k"), Path("/i"), "a b", 64, "# ", "", firmware=False)

    started = guests.isolinux_cd(guest)

    assert started.words() == [
        *("--memory", "64", "--bios", "/firmware", "--cdrom", "/cd.iso", "--boot", "cdrom")
    ]
    assert started.prompt == "# "


def test_best_guest_without_firmware_to_be_had_enters_the_kernel_directly(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def missing() -> Path:
        raise packages.Unavailable("no seabios")

    monkeypatch.setattr(guests, "SYSTEM_FIRMWARE", Path("/nonexistent"))
    monkeypatch.setattr(packages, "firmware_dir", missing)
    monkeypatch.setattr(packages, "kernel", lambda: Path("/vmlinuz-1"))
    monkeypatch.setattr(packages, "modules_dir", lambda: Path("/modules"))
    monkeypatch.setattr(packages, "busybox", lambda: Path("/busybox"))
    monkeypatch.setattr(initrd, "build", lambda *_, **__: b"archive")
    monkeypatch.setattr(media, "kept", lambda *_: Path("/initrd"))

    guest = guests.best()

    assert "no seabios" in guest.note
    assert guest.words()[:4] == ["--memory", "256", "--firmware", "none"]
