"""The CD drive, on a medium in memory."""

from __future__ import annotations

import random
from typing import Any

import pytest
from fake_controller import Controller, Result
from hypothesis import given, settings
from hypothesis import strategies as st

from vbox_pdm import ConfigError, Direction, DriveReset, MediaOp, TaskFile, ata, mmc, scsi
from vbox_pdm.drive import ATAPI_SIGNATURE
from vbox_pdm.testing import Bench
from vbox_pdm.testing.fake_media import FakeMedia

BLOCKS = 60
CONTENT = random.Random(3).randbytes(BLOCKS * 2048)
NO_MEDIUM, NO_MEDIUM_OPEN, ATTENTION, RESET = (2, 0x3A, 0), (2, 0x3A, 2), (6, 0x28, 0), (6, 0x29, 0)
ILLEGAL_OPCODE, OUT_OF_RANGE, BAD_FIELD = (5, 0x20, 0), (5, 0x21, 0), (5, 0x24, 0)
TEST_UNIT_READY, INQUIRY, SENSE = 0x00, 0x12, 0x03


class Setup:
    """A drive between a controller and a medium; `ready` has seen the attention of the reset."""

    def __init__(
        self, content: bytes | int | None = CONTENT, *, bench: Bench | None = None, ready: bool = True,
        media: dict[str, Any] | None = None, **config: Any,
    ) -> None:  # fmt: skip
        self.bench = bench or Bench()
        self.media = FakeMedia(content, **(media or {}))
        self.host = Controller()
        self.drive = self.bench.add_driver("atapi-cd", above=self.host, below=self.media, config=config)
        self.bench.power_on()
        if ready:
            assert self.cdb(TEST_UNIT_READY).error == 0x64
            self.cdb(0x4A, 1, 0, 0, 0x10, 0, 0, 0, 8)

    def cdb(self, *cdb: int, data: bytes = b"", features: int = 0) -> Result:
        result = self.host.cdb(*cdb, data=data, features=features)
        assert result.count == 3
        assert result.failed == bool(result.error)
        return result

    def sense(self) -> tuple[int, int, int]:
        data = self.cdb(SENSE, 0, 0, 0, 18).data
        assert len(data) == 18
        return data[2], data[12], data[13]

    def refused(self, *cdb: int, data: bytes = b"") -> tuple[int, int, int]:
        result = self.cdb(*cdb, data=data)
        assert result.status == 0x51
        sense = self.sense()
        assert result.error == sense[0] << 4 | 4
        return sense

    def read(self, lba: int, count: int) -> Result:
        return self.cdb(0x28, 0, *lba.to_bytes(4, "big"), 0, *count.to_bytes(2, "big"))

    def event(self) -> tuple[int, int]:
        data = self.cdb(0x4A, 1, 0, 0, 0x10, 0, 0, 0, 8).data
        assert data[:4] == bytes((0, 6, 4, 0x12))
        return data[4], data[5]


# --- task files


def test_cd_identify_packet_device_describes_the_drive(bench: Bench) -> None:
    drive = Setup(bench=bench)
    result = drive.host.command(0xA1)
    assert result.status == 0x50
    assert int.from_bytes(result.data[:2], "little") == 0x85C0
    assert sum(result.data) & 0xFF == 0
    assert ata.read_string(result.data, 27, 40) == "VBOX CD-ROM"
    assert drive.host.below.drive_signature() == ATAPI_SIGNATURE


@pytest.mark.parametrize("command", [0xEC, 0x20, 0x21])
def test_cd_commands_of_disks_are_aborted_with_the_signature(command: int) -> None:
    result = Setup().host.command(command, device=0x10)
    assert (result.status, result.error, result.count, result.lba) == (0x51, 4, 1, 0xEB1401)
    assert result.device == 0x10


def test_cd_device_reset_shows_the_signature_without_ready() -> None:
    drive = Setup()
    result = drive.host.command(0x08)
    assert (result.status, result.error, result.count, result.lba) == (0, 1, 1, 0xEB1401)
    assert drive.refused(TEST_UNIT_READY) == RESET


def test_cd_other_commands_are_aborted() -> None:
    drive = Setup()
    known = set(drive.drive._commands)
    for code in set(range(256)) - known:
        result = drive.host.command(code, lba=0x1234)
        assert (result.status, result.error, result.lba) == (0x51, 4, 0x1234)
    assert drive.host.cdb(TEST_UNIT_READY, features=2).error == 4  # overlapped


def test_cd_power_modes_and_sleep_until_reset() -> None:
    drive = Setup()
    assert drive.host.command(0xE5).count == 0xFF
    drive.host.command(0xE0)
    assert drive.host.command(0xE5).count == 0
    drive.host.command(0xE6)
    assert drive.host.command(0xA1).error == 4
    drive.host.below.drive_reset(DriveReset.SOFTWARE)
    assert drive.host.command(0xA1).error == 0


def test_cd_transfer_mode_shows_in_identify() -> None:
    drive = Setup()
    assert drive.host.command(0xEF, features=3, count=0x22).error == 0
    assert drive.host.command(0xA1).data[126:128] == b"\x07\x04"
    assert drive.host.command(0xEF, features=3, count=0x7F).error == 4
    assert drive.host.command(0xEF, features=2).error == 4


@pytest.mark.parametrize("config", [{"vendor_id": "x" * 9}, {"revision": "12345"}, {"product_id": "\n"}])
def test_cd_impossible_configuration_is_refused(config: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Setup(**config)


# --- attention and medium change


def test_cd_attention_after_power_on_is_told_once_and_not_by_all() -> None:
    drive = Setup(ready=False)
    for cdb in ((INQUIRY, 0, 0, 0, 36), (0x46, 0, 0, 0, 0, 0, 0, 0, 8), (0x4A, 1, 0, 0, 16, 0, 0, 0, 8)):
        assert drive.cdb(*cdb).error == 0
    assert drive.refused(TEST_UNIT_READY) == RESET
    assert drive.cdb(TEST_UNIT_READY).error == 0


def test_cd_request_sense_takes_the_attention_as_its_data() -> None:
    drive = Setup(ready=False)
    assert drive.sense() == RESET
    assert drive.sense() == (0, 0, 0)
    assert drive.cdb(TEST_UNIT_READY).error == 0


def test_cd_sense_is_forgotten_by_the_next_command() -> None:
    drive = Setup()
    assert drive.cdb(0xFF).error == 0x54
    assert drive.cdb(INQUIRY, 0, 0, 0, 36).error == 0
    assert drive.sense() == (0, 0, 0)


@pytest.mark.parametrize("kind", list(DriveReset))
def test_cd_every_reset_raises_one_attention_and_unlocks(kind: DriveReset, bench: Bench) -> None:
    drive = Setup(bench=bench)
    drive.cdb(0x1E, 0, 0, 0, 1)
    assert drive.media.locked
    drive.host.below.drive_reset(kind)
    drive.host.below.drive_reset(kind)
    assert not drive.media.locked
    assert drive.refused(TEST_UNIT_READY) == RESET
    assert drive.cdb(TEST_UNIT_READY).error == 0


def test_cd_swapped_medium_is_an_attention_and_an_event(bench: Bench) -> None:
    drive = Setup(bench=bench)
    drive.media.change(b"n" * 4096)
    assert drive.host.notified == 1
    assert len(drive.cdb(0x4A, 1, 0, 0, 0x10, 0, 0, 0, 4).data) == 4  # too short to tell the event
    assert drive.event() == (2, 2)
    assert drive.event() == (0, 2)
    assert drive.refused(0x28, 0, 0, 0, 0, 0, 0, 0, 1) == ATTENTION
    assert drive.read(0, 1).data == b"n" * 2048


def test_cd_removed_medium_is_not_ready_and_comes_back_with_an_attention(bench: Bench) -> None:
    drive = Setup(bench=bench)
    drive.media.change(None)
    assert drive.event() == (3, 0)
    for _ in range(2):
        assert drive.refused(TEST_UNIT_READY) == NO_MEDIUM
    assert drive.refused(0x28, 0, 0, 0, 0, 0, 0, 0, 1) == NO_MEDIUM
    drive.media.change(CONTENT)
    assert drive.refused(TEST_UNIT_READY) == ATTENTION
    assert drive.cdb(TEST_UNIT_READY).error == 0


def test_cd_medium_gone_before_its_attention_was_told_is_just_not_there() -> None:
    drive = Setup()
    drive.media.change(4096)
    drive.media.change(None)
    assert drive.refused(TEST_UNIT_READY) == NO_MEDIUM


def test_cd_driver_attached_and_detached_below_is_a_medium_change(bench: Bench) -> None:
    drive = Setup(bench=bench)
    instance, link = bench.instance(drive.drive), bench.link(drive.drive)
    instance.call("pdm_detach", lun=0)
    link.set_lower(None)
    assert drive.refused(TEST_UNIT_READY) == NO_MEDIUM
    assert drive.event() == (3, 0)
    link.set_lower(FakeMedia(b"k" * 2048))
    instance.call("pdm_attach", lun=0)
    assert drive.host.notified == 2
    assert drive.refused(TEST_UNIT_READY) == ATTENTION
    assert drive.read(0, 1).data == b"k" * 2048


def test_cd_without_medium_at_power_on() -> None:
    drive = Setup(None, ready=False)
    assert drive.refused(TEST_UNIT_READY) == RESET
    assert drive.refused(TEST_UNIT_READY) == NO_MEDIUM
    assert drive.event() == (0, 0)


def test_cd_pulled_while_it_is_read_ends_the_read() -> None:
    drive = Setup(media={"hold": True})
    drive.host.start(TaskFile(0xA0), packet=bytes((0x28, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0)))
    drive.media.change(None)
    drive.media.release_all()
    assert drive.host.ended[-1].error == 0x24
    assert drive.sense() == NO_MEDIUM


def test_cd_eject_needs_an_unlocked_tray_and_load_finds_nothing() -> None:
    drive = Setup()
    drive.cdb(0x1E, 0, 0, 0, 1)
    assert drive.refused(0x1B, 0, 0, 0, 2) == (5, 0x53, 2)
    drive.cdb(0x1E, 0, 0, 0, 0)
    assert drive.cdb(0x1B, 0, 0, 0, 2).error == 0
    assert drive.media.ejected == 1
    assert drive.event() == (3, 1)
    assert drive.cdb(0xBD, 0, 0, 0, 0, 0, 0, 0, 0, 8).data[1] == 0x10
    assert drive.refused(TEST_UNIT_READY) == NO_MEDIUM_OPEN
    assert drive.refused(0x1B, 0, 0, 0, 3) == NO_MEDIUM
    drive.media.change(CONTENT)
    assert drive.event() == (2, 2)


# --- reading


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, BLOCKS + 1),
    st.integers(0, BLOCKS + 1),
    st.sampled_from([0x28, 0xA8, 0xBE, 0xB9]),
    st.sampled_from([0x10, 0xF8, 0x30, 0x18, 0x20, 0x08]),
    st.lists(st.integers(1, 9000), max_size=6),
    st.lists(st.integers(1, 3000), max_size=4),
)
def test_cd_reads_equal_the_medium_in_any_pieces(
    lba: int, count: int, opcode: int, flags: int, steps: list[int], cuts: list[int]
) -> None:
    drive = Setup()
    drive.host.steps, drive.host.cuts = steps, cuts
    first, last = 16, 16 + 2048
    if opcode in (0xBE, 0xB9):
        layout = mmc.layout(flags)
        assert layout is not None
        first, last = layout.first, layout.last
    if opcode == 0x28:
        cdb = (0x28, 0, *lba.to_bytes(4, "big"), 0, *count.to_bytes(2, "big"))
    elif opcode == 0xA8:
        cdb = (0xA8, 0, *lba.to_bytes(4, "big"), *count.to_bytes(4, "big"))
    elif opcode == 0xBE:
        cdb = (0xBE, 0, *lba.to_bytes(4, "big"), *count.to_bytes(3, "big"), flags)
    else:
        cdb = (0xB9, 0, 0, *mmc.msf(lba), *mmc.msf(lba + count), flags)
    result = drive.cdb(*cdb)
    if lba + count > BLOCKS:
        assert drive.sense() == OUT_OF_RANGE
        assert result.data == b""
        assert result.phase.length == 0
        return
    blocks = [CONTENT[at * 2048 : (at + 1) * 2048] for at in range(lba, lba + count)]
    expected = b"".join(mmc.raw_sector(lba + at, data)[first:last] for at, data in enumerate(blocks))
    assert result.error == 0
    assert result.data == expected


@pytest.mark.parametrize("bad", [0, 1, 5, 18, 19])
@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize("step", [20 * 2352, 5000, 2048])
def test_cd_read_error_names_the_block(bad: int, raw: bool, step: int) -> None:
    drive = Setup()
    drive.media.fail(MediaOp.READ, "VERR_READ_ERROR", (10 + bad) * 2048 + 100, 10)
    drive.host.steps = [step] * 100
    flags = 0xF8 if raw else 0x10
    result = drive.cdb(0xBE, 0, 0, 0, 0, 10, 0, 0, 20, flags)
    assert result.error == 0x34
    assert len(result.data) == bad * (2352 if raw else 2048)
    data = drive.cdb(SENSE, 0, 0, 0, 18).data
    assert (data[0], data[2], data[12]) == (0xF0, 3, 0x11)
    assert int.from_bytes(data[3:7], "big") == 10 + bad


@pytest.mark.parametrize(
    ("cdb", "sense"),
    [
        ((0xBE, 0, 0, 0, 0, 0, 0, 0, 1, 0x88), BAD_FIELD),  # sync and EDC do not lie side by side
        ((0xBE, 0, 0, 0, 0, 0, 0, 0, 1, 0x12), BAD_FIELD),  # C2
        ((0xBE, 0, 0, 0, 0, 0, 0, 0, 1, 0x10, 1), BAD_FIELD),  # sub-channel
        ((0xBE, 4, 0, 0, 0, 0, 0, 0, 1, 0x10), (5, 0x64, 0)),  # audio
        ((0xB9, 0, 0, 0, 2, 1, 0, 2, 0, 0x10), BAD_FIELD),  # ends before it begins
        ((0xB9, 0, 0, 0, 0, 0, 0, 2, 0, 0x10), OUT_OF_RANGE),  # lead-in
        ((0xA8, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF), OUT_OF_RANGE),
        ((0x28, 0, 0, 0, 0, BLOCKS, 0, 0, 1), OUT_OF_RANGE),
        ((0x2B, 0, 0, 0, 0, BLOCKS), OUT_OF_RANGE),
        ((0x2A, 0, 0, 0, 0, 0, 0, 0, 1), ILLEGAL_OPCODE),
        ((0x45, 0, 0, 0, 0, 0, 0, 0, 1), (5, 0x64, 0)),
        ((0x4B,), (5, 0x2C, 0)),
        ((0xAD, 0, 0, 0, 0, 0, 0, 0, 8, 4), (5, 0x30, 2)),
        ((0x5A, 0, 0xC1, 0, 0, 0, 0, 0, 99), (5, 0x39, 0)),
        ((0x5A, 0, 0x3E, 0, 0, 0, 0, 0, 99), BAD_FIELD),
        ((0x43, 0, 0, 0, 0, 0, 2, 0, 99), BAD_FIELD),
        ((0x43, 0, 5, 0, 0, 0, 0, 0, 99), BAD_FIELD),
        ((0x4A, 0, 0, 0, 0x10, 0, 0, 0, 8), BAD_FIELD),
        ((0x46, 3, 0, 0, 0, 0, 0, 0, 8), BAD_FIELD),
        ((0x12, 1, 0x99, 0, 36), BAD_FIELD),
        ((0x12, 0, 0x80, 0, 36), BAD_FIELD),
        ((0x52, 1, 0, 0, 0, 2, 0, 0, 36), BAD_FIELD),
    ],
)
def test_cd_refusals_have_the_right_sense(cdb: tuple[int, ...], sense: tuple[int, int, int]) -> None:
    drive = Setup()
    assert drive.refused(*cdb) == sense
    assert drive.host.ended[-2].data == b""


def test_cd_image_of_odd_size_is_rounded_down_with_a_warning(bench: Bench) -> None:
    drive = Setup(CONTENT[: 5 * 2048 + 1], bench=bench)
    assert drive.cdb(0x25).data == (4).to_bytes(4, "big") + (2048).to_bytes(4, "big")
    assert drive.read(4, 1).data == CONTENT[4 * 2048 : 5 * 2048]
    assert any("whole block" in line for line in bench.log_lines)
    assert Setup(2047).refused(TEST_UNIT_READY) == (3, 0x30, 1)


# --- answers


def test_cd_answers_are_cut_to_what_was_asked_and_come_in_any_pieces() -> None:
    drive = Setup()
    whole = drive.cdb(INQUIRY, 0, 0, 0, 255).data
    assert len(whole) == 36
    assert whole[:5] == bytes((5, 0x80, 0, 0x21, 31))
    assert whole[8:] == b"VBOX    CD-ROM          1.0 "
    assert drive.cdb(INQUIRY, 0, 0, 0, 5).data == whole[:5]
    assert drive.cdb(INQUIRY, 0, 0, 0, 0).data == b""
    drive.host.steps = [1, 2, 3, 4, 5, 6, 7]
    assert drive.cdb(INQUIRY, 0, 0, 0, 255).data == whole


def test_cd_vital_product_data_pages() -> None:
    drive = Setup(serial_number="S123")
    assert drive.cdb(INQUIRY, 1, 0, 0, 255).data == bytes((5, 0, 0, 3, 0, 0x80, 0x83))
    assert drive.cdb(INQUIRY, 1, 0x80, 0, 255).data[4:].strip() == b"S123"
    assert b"S123" in drive.cdb(INQUIRY, 1, 0x83, 0, 255).data


def test_cd_tables_of_contents() -> None:
    drive = Setup()
    toc = drive.cdb(0x43, 0, 0, 0, 0, 0, 0, 0, 99).data
    assert toc == bytes((0, 18, 1, 1, 0, 0x14, 1, 0, 0, 0, 0, 0, 0, 0x14, 0xAA, 0, 0, 0, 0, BLOCKS))
    assert drive.cdb(0x43, 2, 0, 0, 0, 0, 0xAA, 0, 99).data == bytes(
        (0, 10, 1, 1, 0, 0x14, 0xAA, 0, 0, 0, 2, 60)
    )
    assert drive.cdb(0x43, 0, 1, 0, 0, 0, 0, 0, 99).data == bytes((0, 10, 1, 1, 0, 0x14, 1, 0, 0, 0, 0, 0))
    assert (
        drive.cdb(0x43, 0, 0, 0, 0, 0, 0, 0, 99, 0x40).data == drive.cdb(0x43, 0, 1, 0, 0, 0, 0, 0, 99).data
    )
    full = drive.cdb(0x43, 2, 2, 0, 0, 0, 0, 0, 99).data
    assert len(full) == 4 + 4 * 11
    assert [full[at + 3] for at in range(4, len(full), 11)] == [0xA0, 0xA1, 0xA2, 1]


def test_cd_configuration_follows_the_disc() -> None:
    def get(drive: Setup, kind: int = 0, start: int = 0) -> tuple[int, dict[int, int]]:
        data = drive.cdb(0x46, kind, *start.to_bytes(2, "big"), 0, 0, 0, 0xFF, 0xFF).data
        assert int.from_bytes(data[:4], "big") == len(data) - 4
        at, found = 8, {}
        while at < len(data):
            found[int.from_bytes(data[at : at + 2], "big")] = data[at + 2] & 1
            at += 4 + data[at + 3]
        return int.from_bytes(data[6:8], "big"), found

    cd, empty = Setup(), Setup(None)
    profile, features = get(cd)
    assert profile == 8
    assert list(features) == sorted(features)
    assert features[0x10] == features[0x1D] == features[0x1E] == 1
    assert features[0x1F] == 0
    assert get(empty)[0] == 0
    assert get(empty)[1][0x10] == 0
    assert 0x1F not in get(cd, 1)[1]
    assert get(cd, 2, 3)[1] == {3: 1}
    assert get(cd, 2, 0x99)[1] == {}
    cd.drive.unit.blocks = mmc.LAST_MSF + 1
    assert get(cd)[0] == 0x10
    assert cd.cdb(0xAD, 0, 0, 0, 0, 0, 0, 0, 8, 4).data[:2] == (2050).to_bytes(2, "big")


def test_cd_other_information() -> None:
    drive = Setup()
    disc = drive.cdb(0x51, 0, 0, 0, 0, 0, 0, 0, 99).data
    assert (len(disc), disc[1], disc[2]) == (34, 32, 0x0E)
    track = drive.cdb(0x52, 1, 0, 0, 0, 1, 0, 0, 99).data
    assert int.from_bytes(track[24:28], "big") == BLOCKS
    assert drive.cdb(0x52, 0, 0, 0, 0, BLOCKS - 1, 0, 0, 99).data == track
    position = drive.cdb(0x42, 2, 0x40, 1, 0, 0, 0, 0, 99).data
    assert (len(position), position[1]) == (16, 0x15)
    assert drive.cdb(0x4A, 1, 0, 0, 0x40, 0, 0, 0, 8).data == bytes((0, 2, 0x80, 0x12))
    assert drive.cdb(0x4A, 1, 0, 0, 0x02, 0, 0, 0, 8).data == bytes((0, 6, 1, 0x12, 0, 0, 0, 0))
    assert drive.cdb(0xBB).error == 0
    assert drive.cdb(0x4E).error == 0


def test_cd_mode_pages_can_be_read_and_selected_as_far_as_they_change() -> None:
    drive = Setup()
    everything = drive.cdb(0x5A, 0, 0x3F, 0, 0, 0, 0, 0, 255).data
    assert int.from_bytes(everything[:2], "big") == len(everything) - 2
    codes, at = [], 8
    while at < len(everything):
        codes.append(everything[at])
        at += 2 + everything[at + 1]
    assert codes == [0x01, 0x0D, 0x0E, 0x1A, 0x2A]
    short = drive.cdb(0x1A, 0, 1, 0, 255).data
    assert short[4:] == everything[8:16]
    selected = bytes(8) + bytes((1, 6, 0x20, 9, 0, 0, 0, 0))
    drive.host.steps = [3, 3]
    assert drive.cdb(0x55, 0x10, 0, 0, 0, 0, 0, 0, 16, data=selected).error == 0
    assert drive.cdb(0x5A, 0, 1, 0, 0, 0, 0, 0, 255).data[8:] == selected[8:]
    assert drive.cdb(0x5A, 0, 0x81, 0, 0, 0, 0, 0, 255).data[10:12] == b"\0\5"
    assert drive.cdb(0x5A, 0, 0x41, 0, 0, 0, 0, 0, 255).data[8:] == bytes((1, 6, 255, 255, 0, 0, 0, 0))
    wrong = bytes(8) + bytes((1, 6, 0, 0, 1, 0, 0, 0))
    assert drive.refused(0x55, 0x10, 0, 0, 0, 0, 0, 0, 16, data=wrong) == (5, 0x26, 0)
    assert drive.refused(0x55, 0x10, 0, 0, 0, 0, 0, 0, 12, data=wrong) == (5, 0x1A, 0)
    assert drive.refused(0x15, 0x10, 0, 0, 3, data=wrong) == (5, 0x1A, 0)
    assert drive.cdb(0x15, 0x10, 0, 0, 0).error == 0


# --- nonsense and state

opcodes = st.one_of(st.integers(0, 255), st.sampled_from(sorted(op.value for op in scsi.Op)))
bytes_of_cdb = st.one_of(st.integers(0, 255), st.sampled_from([0, 1, 2, 0x10, 0xFF]))
packets = st.tuples(opcodes, *[bytes_of_cdb] * 11).map(bytes)
events = st.one_of(
    packets,
    packets,
    st.sampled_from([TaskFile(code) for code in (0xA1, 0xEC, 0x08, 0xE5, 0xE0, 0x00, 0xE7)]),
    st.builds(TaskFile, st.integers(0, 255), st.integers(0, 0xFFFF), st.integers(0, 0xFFFF)),
    st.sampled_from([None, b"x" * 9000, DriveReset.SOFTWARE, DriveReset.DEVICE, DriveReset.POWER]),
)


def apply(drive: Setup, event: Any) -> Any:
    if isinstance(event, bytes) and len(event) == 12:
        phase = drive.host.below.drive_phase(TaskFile(0xA0), event)
        assert phase.length <= max(0xFFFF, BLOCKS * 2352)
        result = drive.host.run(TaskFile(0xA0), bytes(range(256)) * 256, event)
        assert result.status in (0x50, 0x51)
        assert phase.direction is Direction.IN or not result.data
        return result
    if isinstance(event, TaskFile):
        return None if event.command == 0xA0 else drive.host.run(event)
    if isinstance(event, DriveReset):
        return drive.host.below.drive_reset(event)
    return drive.media.change(event)


@settings(max_examples=50, deadline=None)
@given(st.lists(events, max_size=8), st.lists(events, max_size=10))
def test_cd_any_packets_end_well_defined_and_saved_state_goes_on(before: list[Any], after: list[Any]) -> None:
    first, second = Setup(), Setup()
    for event in before:
        apply(first, event)
    data = first.media.data
    second.media.data = None if data is None else bytearray(data)
    second.media.identity = first.media.identity
    second.drive.unit.set_medium(second.media.media_info())
    second.bench.load(first.bench.save())
    for event in after:
        assert apply(first, event) == apply(second, event)
    assert first.bench.save() == second.bench.save()


def test_cd_state_with_another_medium_is_a_medium_change() -> None:
    first, second = Setup(), Setup(CONTENT[:4096])
    second.bench.load(first.bench.save())
    assert second.event() == (2, 2)
    assert second.refused(TEST_UNIT_READY) == ATTENTION
