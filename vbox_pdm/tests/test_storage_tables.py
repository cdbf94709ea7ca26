"""ATA, SCSI and MMC tables, and the medium for tests."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vbox_pdm import Direction, MediaOp, MediaRequest, TaskFile, ata, mmc, scsi
from vbox_pdm.testing.fake_media import FakeMedia, Seen

packets = st.binary(min_size=12, max_size=12)

# --- ATA


@given(
    st.integers(0, 1 << 28),
    st.builds(ata.Geometry, st.integers(1, 65535), st.integers(1, 16), st.integers(1, 255)),
)
def test_geometry_chs_and_lba_are_inverse(lba: int, geometry: ata.Geometry) -> None:
    lba %= geometry.size
    assert geometry.lba(*geometry.chs(lba)) == lba
    assert geometry.lba(geometry.cylinders, 0, 1) is None
    assert geometry.lba(0, 0, 0) is None
    assert geometry.lba(0, geometry.heads, 1) is None
    assert geometry.lba(0, 0, geometry.sectors + 1) is None


@given(st.binary(min_size=510, max_size=510))
def test_integrity_word_makes_the_sum_zero(data: bytes) -> None:
    whole = data + ata.integrity_word(data).to_bytes(2, "little")
    assert whole[510] == 0xA5
    assert sum(whole) & 0xFF == 0


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=40))
def test_ata_string_reads_back(text: str) -> None:
    assert ata.read_string(ata.ata_string(text, 40), 0, 40) == text


def test_default_geometry_has_16_heads_of_63_sectors_and_16383_cylinders_at_most() -> None:
    assert ata.default_geometry(1) == ata.Geometry(1, 16, 63)
    assert ata.default_geometry(10 * 16 * 63 + 5) == ata.Geometry(10, 16, 63)
    assert ata.default_geometry(1 << 40) == ata.Geometry(16383, 16, 63)


@pytest.mark.parametrize(
    ("task", "start", "count"),
    [
        (TaskFile(0x20, 0, 0, 0x123456, 0x4A), 0xA123456, 256),
        (TaskFile(0x20, 0, 0x105, 0xFF000001, 0x40), 1, 5),
        (TaskFile(0x24, 0, 0, 0x123456789ABC, 0x00), 0x123456789ABC, 65536),
        (TaskFile(0x25, 0, 0x1234, 7, 0x4F), 7, 0x1234),
        (TaskFile(0x20, 0, 1, 0x000205, 0x03), (2 * 16 + 3) * 63 + 4, 1),
        (TaskFile(0x20, 0, 1, 0x000200, 0x03), None, 1),
    ],
)
def test_task_file_addresses_follow_the_command(task: TaskFile, start: int | None, count: int) -> None:
    geometry = ata.Geometry(100, 16, 63)
    assert ata.start_sector(task, geometry) == start
    assert ata.sector_count(task) == count
    if start is not None:
        lba, device = ata.address_registers(task, start, geometry)
        again = TaskFile(task.command, 0, 1, lba, device)
        assert ata.start_sector(again, geometry) == start


def test_command_sets_agree_with_the_protocols() -> None:
    into = {ata.Protocol.PIO_IN, ata.Protocol.DMA_IN}
    assert all(ata.PROTOCOLS[code] in into for code in ata.READS)
    out = {ata.Protocol.PIO_OUT, ata.Protocol.DMA_OUT}
    assert all(ata.PROTOCOLS[code] in out for code in ata.WRITES)
    assert all(ata.PROTOCOLS[code] is ata.Protocol.NON_DATA for code in ata.VERIFIES)
    assert ata.MULTIPLES <= ata.READS | ata.WRITES
    assert ata.FUA <= ata.WRITES & ata.EXT


def test_transfer_modes_are_those_of_the_standard() -> None:
    known = {count: mode for count in range(256) if (mode := ata.transfer_mode(count)) is not None}
    assert sorted(known) == [0, 1, *range(8, 13), *range(0x20, 0x23), *range(0x40, 0x47)]
    assert known[0x22] == (ata.ModeKind.MDMA, 2)


# --- SCSI and MMC


@given(st.integers(-150, mmc.LAST_MSF - 1))
def test_msf_and_lba_are_inverse(lba: int) -> None:
    assert mmc.lba_of_msf(*mmc.msf(lba)) == lba


@settings(max_examples=20, deadline=None)
@given(st.integers(0, mmc.LAST_MSF - 1), st.binary(min_size=2048, max_size=2048))
def test_raw_sector_has_valid_edc_and_parity(lba: int, data: bytes) -> None:
    sector = mmc.raw_sector(lba, data)
    assert len(sector) == 2352
    assert sector[16:2064] == data
    assert mmc.edc(sector[:2068]) == 0  # a code's word with its check sum leaves no remainder
    covered = sector[12:]
    vectors = [[column + 86 * row for row in range(26)] for column in range(86)]
    for diagonal in range(26):
        for byte in (0, 1):
            places = [2 * ((44 * place + 43 * diagonal) % 1118) + byte for place in range(43)]
            vectors.append([*places, 2236 + 2 * diagonal + byte, 2288 + 2 * diagonal + byte])
    for vector in vectors:
        plain = weighted = 0
        for place in vector:
            plain ^= covered[place]
            weighted = weighted << 1 ^ (0x11D if weighted & 0x80 else 0) ^ covered[place]
        assert plain == weighted == 0


@given(packets)
def test_transfers_of_cdbs_are_bounded_by_their_fields(cdb: bytes) -> None:
    direction, length = scsi.transfer(cdb, 2048)
    assert (direction is Direction.NONE) == (length == 0)
    assert 0 <= length <= 0xFFFFFFFF * 2048
    assert scsi.cdb_length(cdb[0]) in (0, 6, 10, 12, 16)


def test_fixed_sense_has_its_fields() -> None:
    data = scsi.fixed_sense(scsi.UNRECOVERED_READ_ERROR, 0x01020304)
    assert data == bytes((0xF0, 0, 3, 1, 2, 3, 4, 10, 0, 0, 0, 0, 0x11, 0, 0, 0, 0, 0))
    assert scsi.fixed_sense(scsi.NO_MEDIUM)[0] == 0x70


def test_scsi_counts_of_zero_mean_256_only_in_six_bytes() -> None:
    assert scsi.blocks(bytes((0x08, 0x1F, 0xFF, 0xFF, 0, 0))) == (0x1FFFFF, 256)
    assert scsi.blocks(bytes((0x28, 0, 0, 0, 0, 9, 0, 0, 0, 0))) == (9, 0)
    assert scsi.transfer(bytes((0x2A, 0, 0, 0, 0, 9, 0, 0, 3, 0)), 512) == (Direction.OUT, 1536)


# --- the medium for tests


def request(op: MediaOp, offset: int = 0, data: bytearray | None = None, length: int = 0) -> MediaRequest:
    views = () if data is None else (memoryview(data)[:3], memoryview(data)[3:])
    return MediaRequest(op, lambda done: None, offset, views, length)


def test_fake_media_reads_writes_and_remembers_what_is_stable() -> None:
    media = FakeMedia(b"abcdef")
    read = request(MediaOp.READ, 2, memory := bytearray(8))
    media.media_submit(read)
    assert memory == b"cdef" + bytes(4)
    media.media_submit(request(MediaOp.WRITE, 0, bytearray(b"WXYZ")))
    assert media.data == b"WXYZef"
    assert media.stable == b"abcdef"
    media.media_submit(request(MediaOp.FLUSH))
    assert media.stable == b"WXYZef"
    media.media_submit(request(MediaOp.DISCARD, 0, None, 4))
    assert media.data == bytes(4) + b"ef"
    assert media.seen[0] == Seen(MediaOp.READ, 2, 8)


def test_fake_media_faults_hit_what_touches_them_so_often() -> None:
    media = FakeMedia(4096)
    media.fail(MediaOp.READ, "VERR_READ_ERROR", 512, 512, times=1)
    results = []
    for offset in (0, 256, 512, 1024):
        media.media_submit(asked := request(MediaOp.READ, offset, bytearray(512)))
        results.append(asked.error)
    assert results == [None, "VERR_READ_ERROR", None, None]


def test_fake_media_holds_until_released_in_any_order() -> None:
    media = FakeMedia(512, hold=True)
    ends: list[MediaRequest] = []
    first, second = (MediaRequest(MediaOp.FLUSH, ends.append) for _ in range(2))
    media.media_submit(first)
    media.media_submit(second)
    assert ends == []
    media.release(1)
    media.release()
    assert ends == [second, first]


@pytest.mark.parametrize(
    ("media", "op", "error"),
    [
        (FakeMedia(None), MediaOp.READ, "VERR_PDM_MEDIA_NOT_MOUNTED"),
        (FakeMedia(100), MediaOp.READ, None),
        (FakeMedia(512, read_only=True), MediaOp.WRITE, "VERR_WRITE_PROTECT"),
        (FakeMedia(0), MediaOp.READ, "VERR_OUT_OF_RANGE"),
    ],
)
def test_fake_media_refuses_what_a_medium_refuses(media: FakeMedia, op: MediaOp, error: str | None) -> None:
    asked = request(op, 0, bytearray(512))
    media.media_submit(asked)
    assert asked.error == error
