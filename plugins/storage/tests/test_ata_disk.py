"""The ATA disk, on a medium in memory."""

from __future__ import annotations

import random
from typing import Any

import pytest
from fake_controller import Controller, Result
from hypothesis import example, given, settings
from hypothesis import strategies as st

from vbox_pdm import ConfigError, DriveRequest, DriveReset, MediaOp, StateError, TaskFile, ata
from vbox_pdm.drive import ATA_SIGNATURE
from vbox_pdm.testing import Bench
from vbox_pdm.testing.fake_media import FakeMedia

ABRT, IDNF, UNC, WP = 0x04, 0x10, 0x40, 0x40
SECTORS = 600
LBA = 0x40


def pattern(sectors: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(sectors * 512)


class Setup:
    """A disk between a controller and a medium."""

    def __init__(
        self, content: bytes | int | None = SECTORS * 512, *, bench: Bench | None = None,
        media: dict[str, Any] | None = None, **config: Any,
    ) -> None:  # fmt: skip
        self.bench = bench or Bench()
        self.media = FakeMedia(content, **(media or {}))
        self.host = Controller()
        self.drive = self.bench.add_driver("ata-disk", above=self.host, below=self.media, config=config)
        self.bench.power_on()

    def words(self) -> list[int]:
        data = self.host.command(0xEC).data
        return [int.from_bytes(data[at : at + 2], "little") for at in range(0, 512, 2)]

    def read(self, lba: int, count: int, command: int = 0x20) -> Result:
        return self.host.command(command, count=count, lba=lba & 0xFFFFFF, device=LBA | lba >> 24)


def test_disk_identify_describes_the_disk(bench: Bench) -> None:
    disk = Setup(bench=bench)
    result = disk.host.command(0xEC)
    words = disk.words()
    assert result.status == 0x50
    assert sum(result.data) & 0xFF == 0
    assert result.data[510] == 0xA5
    assert ata.read_string(result.data, 27, 40) == "VBOX HARDDISK"
    assert ata.read_string(result.data, 23, 8) == "1.0"
    serial = ata.read_string(result.data, 10, 20)
    assert serial.startswith("VB")
    assert len(serial) == 19
    assert words[60] | words[61] << 16 == SECTORS
    assert words[100] | words[101] << 16 | words[102] << 32 == SECTORS
    assert (words[1], words[3], words[6]) == (1, 16, 63)
    assert words[83] & 0x4400 == 0x4400
    assert words[169] == 1


def test_disk_serial_number_is_that_of_the_medium() -> None:
    def serial(identity: str) -> str:
        return ata.read_string(Setup(media={"identity": identity}).host.command(0xEC).data, 10, 20)

    assert serial("a") == serial("a") != serial("b")


def test_disk_large_geometry_is_16383_16_63_and_configured_one_wins() -> None:
    disk = Setup()
    disk.drive.native = 1
    assert ata.default_geometry(16383 * 16 * 63) == ata.Geometry(16383, 16, 63)
    assert ata.default_geometry(1 << 40) == ata.Geometry(16383, 16, 63)
    configured = Setup(cylinders=30, heads=4, sectors=5, lchs_cylinders=10, lchs_heads=8, lchs_sectors=9)
    words = configured.words()
    assert (words[1], words[3], words[6]) == (30, 4, 5)
    assert configured.host.below.drive_lchs() == (10, 8, 9)
    assert disk.host.below.drive_lchs() is None


@pytest.mark.parametrize(
    "config", [{"serial_number": "x" * 21}, {"model_number": "\u00e9"}, {"cylinders": 3}, {"heads": 17}]
)
def test_disk_impossible_configuration_is_refused(config: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Setup(**config)


def test_disk_without_medium_is_no_drive(bench: Bench) -> None:
    disk = Setup(None, bench=bench)
    assert disk.host.below.drive_signature() is None
    assert disk.host.command(0xEC).error == ABRT
    disk.media.change(4096)
    assert disk.host.below.drive_signature() == ATA_SIGNATURE
    assert disk.host.notified == 1
    assert disk.words()[60] == 8


# --- reads and writes against a model


@st.composite
def transfers(draw: st.DrawFn) -> list[dict[str, Any]]:
    out = []
    for _ in range(draw(st.integers(1, 6))):
        command = draw(st.sampled_from(sorted(ata.READS | ata.WRITES | ata.VERIFIES)))
        out.append(
            {
                "command": command,
                "mode": draw(st.sampled_from(["lba", "chs"])),
                "first": draw(st.integers(0, SECTORS + 2)),
                "count": draw(st.one_of(st.integers(1, 20), st.integers(0, 255), st.integers(256, 300))),
                "steps": draw(st.lists(st.integers(1, 9).map(lambda n: n * 512), max_size=4)),
                "cuts": draw(st.lists(st.integers(1, 1500), max_size=4)),
                "seed": draw(st.integers(0, 99)),
            }
        )
    return out


@settings(max_examples=60, deadline=None)
@given(transfers())
def test_disk_transfers_equal_a_model_in_any_pieces(script: list[dict[str, Any]]) -> None:
    disk = Setup(pattern(SECTORS))
    disk.host.command(0xC6, count=8)
    model = bytearray(pattern(SECTORS))
    geometry = ata.Geometry(10, 15, 4)  # all sectors by CHS: 10 * 15 * 4 = 600
    disk.host.command(0x91, count=4, device=14)
    for item in script:
        command, first = item["command"], item["first"]
        wide = command in ata.EXT
        count = item["count"] if wide else item["count"] & 0xFF
        if wide or item["mode"] == "lba":
            task = TaskFile(command, 0, count, first, LBA)
        else:
            cylinder, head, sector = geometry.chs(first)
            task = TaskFile(command, 0, count, sector | cylinder << 8, head)
        sectors = count or (65536 if wide else 256)
        usable = max(0, min(sectors, SECTORS - first))
        data = pattern(min(sectors, SECTORS + 1), item["seed"])
        disk.host.steps, disk.host.cuts = list(item["steps"]), list(item["cuts"])
        result = disk.host.run(task, data)
        short = usable < sectors
        assert result.error == (IDNF if short else 0)
        assert result.status == (0x51 if short else 0x50)
        if command in ata.READS:
            assert result.data == model[first * 512 : (first + usable) * 512]
        elif command in ata.WRITES and usable:
            model[first * 512 : (first + usable) * 512] = data[: usable * 512]
        if short and (wide or item["mode"] == "lba"):
            assert result.lba | (0 if wide else (result.device & 15) << 24) == first + usable
    assert disk.media.data == model


@pytest.mark.parametrize(
    ("count", "bad"), [(1, 0), (2, 0), (2, 1), (7, 0), (7, 6), (256, 0), (256, 1), (256, 100), (256, 255)]
)
@pytest.mark.parametrize("command", [0x20, 0x25, 0x40])
def test_disk_read_error_is_found_and_what_lies_before_it_is_transferred(
    count: int, bad: int, command: int
) -> None:
    content = pattern(SECTORS)
    disk = Setup(content)
    disk.media.fail(MediaOp.READ, "VERR_READ_ERROR", (100 + bad) * 512, 512)
    result = disk.host.command(command, count=count & 0xFF if command != 0x25 else count, lba=100, device=LBA)
    assert (result.status, result.error) == (0x51, UNC)
    assert result.lba == 100 + bad
    if command != 0x40:
        assert result.data == content[100 * 512 : (100 + bad) * 512]


def test_disk_write_error_names_the_sector_and_keeps_what_lies_before() -> None:
    disk = Setup()
    disk.media.fail(MediaOp.WRITE, "VERR_WRITE_ERROR", 13 * 512, 512)
    data = pattern(16)
    result = disk.host.command(0x30, count=16, lba=4, device=LBA, data=data)
    assert (result.status, result.error, result.lba) == (0x51, ABRT, 13)
    assert disk.media.data is not None
    assert disk.media.data[4 * 512 : 13 * 512] == data[: 9 * 512]
    assert not any(disk.media.data[13 * 512 : 14 * 512])


def test_disk_transient_read_error_is_overcome() -> None:
    content = pattern(SECTORS)
    disk = Setup(content)
    disk.media.fail(MediaOp.READ, "VERR_READ_ERROR", times=3)
    result = disk.read(0, 200)
    assert result.error == 0
    assert result.data == content[: 200 * 512]


def test_disk_read_only_medium_refuses_writes_without_data(bench: Bench) -> None:
    disk = Setup(bench=bench, media={"read_only": True})
    result = disk.host.command(0x30, count=1, device=LBA)
    assert (result.status, result.error) == (0x51, WP | ABRT)
    assert result.phase.length == 0
    assert disk.media.seen == []
    assert disk.host.command(0x06, features=1, count=1, data=bytes(512)).error == ABRT


def test_disk_medium_pulled_while_read_ends_with_an_error() -> None:
    disk = Setup(media={"hold": True})
    disk.host.start(TaskFile(0xC8, 0, 4, 0, LBA))
    assert disk.host.under_way is not None
    disk.media.data = None
    disk.media.release_all()
    assert disk.host.ended[-1].error == ABRT


def test_disk_odd_image_ends_with_a_whole_sector_of_zeros() -> None:
    disk = Setup(b"x" * 1000)
    assert disk.words()[60] == 2
    assert disk.read(1, 1).data == b"x" * 488 + bytes(24)
    assert disk.read(2, 1).error == IDNF


def test_disk_verify_of_65536_sectors_needs_little_memory_and_no_stack() -> None:
    disk = Setup(70000 * 512)
    assert disk.host.command(0x42, count=0, lba=10, device=LBA).error == 0
    assert max(seen.length for seen in disk.media.seen) <= 128 << 10
    assert sum(seen.length for seen in disk.media.seen) == 65536 * 512


# --- the cache


def test_disk_flush_reaches_the_medium_and_ends_with_it(bench: Bench) -> None:
    disk = Setup(bench=bench, media={"hold": True})
    for number, command in enumerate((0xE7, 0xEA, 0xE0, 0xE2), 1):
        disk.host.start(TaskFile(command))
        assert len(disk.host.ended) == number - 1
        disk.media.release_all()
        assert disk.host.ended[-1].status == 0x50
    assert len(disk.media.operations(MediaOp.FLUSH)) == 4


def test_disk_flush_error_is_reported() -> None:
    disk = Setup()
    disk.media.fail(MediaOp.FLUSH, "VERR_WRITE_ERROR")
    assert disk.host.command(0xE7).error == ABRT
    assert disk.host.command(0xEF, features=0x82).error == ABRT
    assert disk.words()[85] & 0x20  # the cache stays on


@pytest.mark.parametrize(
    ("command", "cache", "flushes"), [(0x35, True, 0), (0x3D, True, 1), (0x35, False, 1), (0x3D, False, 1)]
)
def test_disk_write_through_flushes_once_at_the_end(command: int, cache: bool, flushes: int) -> None:
    disk = Setup()
    if not cache:
        disk.host.command(0xEF, features=0x82)
    disk.media.seen.clear()
    disk.host.steps = [512, 512]
    data = pattern(4)
    assert disk.host.command(command, count=4, device=LBA, data=data).error == 0
    assert len(disk.media.operations(MediaOp.FLUSH)) == flushes
    if flushes:
        assert disk.media.seen[-1].op is MediaOp.FLUSH
        assert disk.media.stable[:2048] == data


# --- settings


@pytest.mark.parametrize(
    ("count", "word", "bits"),
    [(0x20, 63, 0x0107), (0x22, 63, 0x0407), (0x40, 88, 0x017F), (0x45, 88, 0x207F), (0x0C, 88, 0x007F)],
)
def test_disk_transfer_mode_shows_in_identify(count: int, word: int, bits: int) -> None:
    disk = Setup()
    assert disk.host.command(0xEF, features=3, count=count).error == 0
    assert disk.words()[word] == bits


@pytest.mark.parametrize("count", [0x02, 0x0D, 0x10, 0x23, 0x47, 0x80, 0xFF])
def test_disk_reserved_transfer_modes_are_aborted(count: int) -> None:
    assert Setup().host.command(0xEF, features=3, count=count).error == ABRT


def test_disk_multiple_commands_need_a_block_size() -> None:
    disk = Setup()
    assert disk.host.command(0xC4, count=4, device=LBA).error == ABRT
    assert disk.host.command(0xC6, count=3).error == ABRT
    assert disk.host.command(0xC6, count=16).error == 0
    assert disk.host.command(0xC4, count=40, device=LBA).phase.block == 16 * 512
    assert disk.words()[59] == 0x0110


def test_disk_software_reset_reverts_unless_told_otherwise(bench: Bench) -> None:
    disk = Setup(bench=bench)
    for keeps in (False, True):
        disk.host.command(0xC6, count=4)
        disk.host.command(0xEF, features=0x55)
        disk.host.command(0xEF, features=3, count=0x42)
        if keeps:
            disk.host.command(0xEF, features=0x66)
        disk.host.below.drive_reset(DriveReset.SOFTWARE)
        words = disk.words()
        assert (words[59] == 0x0104) is keeps
        assert bool(words[85] & 0x40) is not keeps
        assert words[88] == 0x047F
    disk.host.below.drive_reset(DriveReset.POWER)
    assert disk.words()[88] == 0x007F


def test_disk_power_modes_and_sleep_until_reset() -> None:
    disk = Setup()
    assert disk.host.command(0xE5).count == 0xFF
    disk.host.command(0xE0)
    assert disk.host.command(0x98).count == 0
    disk.read(0, 1)
    assert disk.host.command(0xE5).count == 0xFF
    assert disk.host.command(0xE6).error == 0
    assert disk.read(0, 1).error == ABRT
    disk.host.below.drive_reset(DriveReset.SOFTWARE)
    assert disk.host.command(0xE5).count == 0
    assert disk.read(0, 1).error == 0


def test_disk_set_max_counts_only_behind_read_native_max() -> None:
    disk = Setup()
    assert disk.host.command(0xF9, lba=99, device=LBA).error == ABRT
    native = disk.host.command(0xF8, device=LBA)
    assert native.lba == SECTORS - 1
    assert disk.host.command(0xF9, lba=99, device=LBA).error == 0
    assert disk.words()[60] == 100
    assert disk.read(100, 1).error == IDNF
    crossing = disk.read(90, 20)
    assert (crossing.error, crossing.lba, len(crossing.data)) == (IDNF, 100, 10 * 512)
    assert disk.host.command(0x27, device=LBA).lba == SECTORS - 1
    assert disk.host.command(0x37, lba=SECTORS - 1, device=LBA).error == 0
    assert disk.read(100, 1).error == 0
    disk.host.command(0x27, device=LBA)
    assert disk.host.command(0x37, lba=SECTORS, device=LBA).error == IDNF


def test_disk_buffer_keeps_what_was_written() -> None:
    disk = Setup()
    data = pattern(1)
    disk.host.steps = [100, 7]
    assert disk.host.command(0xE8, data=data).error == 0
    assert disk.host.command(0xE4).data == data


def test_disk_trim_discards_its_ranges_and_none_when_one_is_wrong() -> None:
    disk = Setup(b"x" * (SECTORS * 512))
    good = (5).to_bytes(6, "little") + (3).to_bytes(2, "little") + (50).to_bytes(6, "little") + b"\1\0"
    assert disk.host.command(0x06, features=1, count=1, data=good).error == 0
    assert disk.media.data is not None
    assert disk.media.data.count(0) == 4 * 512
    assert not any(disk.media.data[5 * 512 : 8 * 512])
    wrong = good + SECTORS.to_bytes(6, "little") + b"\1\0"
    disk.media.seen.clear()
    assert disk.host.command(0x06, features=1, count=1, data=wrong).error == IDNF | ABRT
    assert disk.media.seen == []
    assert disk.host.command(0x06, features=1, count=9).error == ABRT
    assert disk.host.command(0x06, features=0, count=1).error == ABRT


def test_disk_unknown_commands_are_aborted() -> None:
    disk = Setup()
    known = set(disk.drive._handlers) - {0}
    for code in set(range(256)) - known:
        result = disk.host.command(code, features=0xD0, count=5, lba=0x123456, device=LBA)
        assert (result.status, result.error, result.lba) == (0x51, ABRT, 0x123456)
        assert result.phase.length == 0
    assert disk.media.seen == []


# --- nonsense and state

tasks = st.builds(
    TaskFile,
    st.integers(0, 255),
    st.integers(0, 0xFFFF),
    st.one_of(st.integers(0, 16), st.integers(0, 0xFFFF)),
    st.one_of(st.integers(0, 700), st.integers(0, (1 << 48) - 1)),
    st.integers(0, 255),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(tasks, max_size=12), st.lists(st.integers(512, 4000), max_size=3))
@example([TaskFile(0x91, 0, 0, 0, 0), TaskFile(0x20, 0, 1, 1, 0)], [])
def test_disk_any_task_file_ends_with_a_specified_status(script: list[TaskFile], steps: list[int]) -> None:
    disk = Setup()
    for task in script:
        disk.host.steps = list(steps)
        result = disk.host.run(task)
        assert result.status in (0x50, 0x51)
        assert bool(result.error) == result.failed
        assert 0 <= result.lba < 1 << 48
        assert 0 <= result.count <= 0xFFFF
        assert 0 <= result.device <= 0xFF
        assert len(result.data) <= result.phase.length


@settings(max_examples=50, deadline=None)
@given(st.lists(tasks, max_size=8), st.lists(tasks, max_size=8))
def test_disk_saved_state_goes_on_identically(before: list[TaskFile], after: list[TaskFile]) -> None:
    first, second = Setup(), Setup()
    for task in before:
        first.host.run(task)
    second.media.data = None if first.media.data is None else bytearray(first.media.data)
    second.bench.load(first.bench.save())
    for task in after:
        assert first.host.run(task) == second.host.run(task)
    assert first.bench.save() == second.bench.save()
    assert first.media.data == second.media.data


def test_disk_state_of_another_size_is_refused() -> None:
    first, second = Setup(), Setup((SECTORS + 1) * 512)
    with pytest.raises(StateError):
        second.bench.load(first.bench.save())


def test_disk_command_goes_on_in_another_machine_at_its_position() -> None:
    content = pattern(SECTORS)
    first, second = Setup(content), Setup(content)
    task = TaskFile(0x20, 0, 8, 30, LBA)
    saved = first.bench.save()
    second.bench.load(saved)
    memory = bytearray(2048)
    request = DriveRequest(task, lambda request: None, views=(memoryview(memory),), position=1024)
    second.host.below.drive_submit(request)
    assert request.more
    assert memory == content[32 * 512 : 36 * 512]
