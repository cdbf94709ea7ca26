"""Option ROM images: parsing, retargeting, and helpers for builders."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vbox_pdm import PdmError
from vbox_pdm.optionrom import EFI, UNIT, X86, check, padded, parse, retargeted, with_checksum


def image(
    units: int = 2,
    *,
    pcir: int | None = 0x40,
    ids: tuple[int, int] = (0x1234, 0x1111),
    code_type: int = X86,
    last: bool = True,
    length: int | None = None,
    entry: bytes = b"\xe9\x00\x01",
    pnp: int | None = None,
) -> bytes:
    """An image with a right checksum at byte 16, which nothing else uses."""
    data = bytearray(units * UNIT)
    data[0:3] = b"\x55\xaa" + bytes([units & 0xFF])
    data[3 : 3 + len(entry)] = entry
    if pcir is not None:
        struct.pack_into("<H", data, 0x18, pcir)
        fields = (b"PCIR", *ids, 0, 0x18, 0, b"\x00\x00\x03", length or units, 0x0107, code_type, 0x80 * last)
        struct.pack_into("<4sHHHHB3sHHBB", data, pcir, *fields)
    if pnp is not None:
        struct.pack_into("<H", data, 0x1A, pnp)
        struct.pack_into("<4sBB", data, pnp, b"$PnP", 1, 2)
        struct.pack_into("<H", data, pnp + 0x16, 0x111)
        struct.pack_into("<H", data, pnp + 0x1A, 0x222)
        data[pnp + 9] = -sum(data[pnp : pnp + 32]) & 0xFF
    data[0x10] = -sum(data) & 0xFF
    return bytes(data)


def test_optionrom_parse_finds_pcir_and_pnp() -> None:
    (found,) = check(image(pnp=0x60))
    assert (found.offset, found.size, found.checksum) == (0, 1024, 0)
    assert found.pci is not None
    assert found.pnp is not None
    assert (found.pci.vendor, found.pci.device, found.pci.class_code) == (0x1234, 0x1111, 0x030000)
    assert (found.pnp.boot_connection, found.pnp.bootstrap_entry, found.pnp.valid) == (0x111, 0x222, True)


def test_optionrom_damaged_pnp_header_is_not_valid() -> None:
    data = bytearray(image(pnp=0x60))
    data[0x60 + 0x1A] ^= 1
    (found,) = parse(bytes(data))
    assert found.pnp is not None
    assert not found.pnp.valid


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "end of the file"),
        (b"MZ" + bytes(600), "not 55 aa"),
        (b"\x55\xaa\x01", "ends after 3"),
        (image()[:-1], "only 1023 are left"),
        (b"\x55\xaa\x00" + bytes(1000), "no bytes"),
        (image(last=False), "end of the file"),
        (image(last=False) + bytes(512), "not 55 aa"),
    ],
)
def test_optionrom_no_rom_is_refused_with_a_reason(data: bytes, words: str) -> None:
    for function in (parse, check, lambda data, name: retargeted(data, 1, 2, name)):
        with pytest.raises(PdmError, match=words) as caught:
            function(data, "the file x.bin")
        assert caught.value.status == "VERR_INVALID_PARAMETER"
        assert "the file x.bin" in caught.value.message
        assert caught.value.remedy


def test_optionrom_wrong_checksum_is_refused_by_check_only() -> None:
    data = bytearray(image())
    data[100] += 3
    assert parse(bytes(data))[0].checksum == 3
    with pytest.raises(PdmError, match="add up to 0x3"):
        check(bytes(data))


@settings(max_examples=60, deadline=None)
@given(
    vendor=st.integers(0, 0xFFFF),
    device=st.integers(0, 0xFFFF),
    entry=st.sampled_from([b"\xe9\x10\x01", b"\xeb\x20\xcb", b"\xfa\xfc\x60\x1e\x06\xcb"]),
    pcir=st.integers(0x1C, 0x1E0),
)
def test_optionrom_retargeted_changes_ids_and_keeps_the_sum(
    vendor: int, device: int, entry: bytes, pcir: int
) -> None:
    before = image(entry=entry, pcir=pcir)
    after = retargeted(before, vendor, device)
    (found,) = check(after)
    assert found.pci is not None
    assert (found.pci.vendor, found.pci.device) == (vendor, device)
    changed = {at for at in range(len(before)) if before[at] != after[at]}
    assert changed <= {*range(pcir + 4, pcir + 8), 6, pcir + 0x12}
    assert after[3 : 3 + len(entry)] == entry


def test_optionrom_retargeted_touches_every_x86_image_and_no_other() -> None:
    efi = image(1, code_type=EFI, last=False, length=2) + bytes(UNIT)
    tail = b"behind the last image"
    before = image(last=False) + efi + image(3) + tail
    after = retargeted(before, 0x80EE, 0xBEEF)
    images = check(after)
    assert [(i.offset, i.size) for i in images] == [(0, 1024), (1024, 1024), (2048, 1536)]
    assert [i.pci.vendor for i in images if i.pci] == [0x80EE, 0x1234, 0x80EE]
    assert after[1024:2048] == efi
    assert after.endswith(tail)


def test_optionrom_retargeted_follows_the_size_byte_not_the_pcir_length() -> None:
    after = retargeted(image(1, length=4, last=False) + bytes(3 * UNIT) + image(), 7, 8)
    assert sum(after[:UNIT]) & 0xFF == 0
    assert [i.offset for i in check(after)] == [0, 4 * UNIT]


@pytest.mark.parametrize("pointer", [0, 0x17, 0x40, 0x3FF, 0xFFFF])
def test_optionrom_without_pcir_comes_back_unchanged(pointer: int) -> None:
    data = bytearray(image(pcir=None))
    struct.pack_into("<H", data, 0x18, pointer)
    assert retargeted(bytes(data), 1, 2) == bytes(data)


def test_optionrom_ids_out_of_range_are_refused() -> None:
    for ids in ((-1, 0), (0, 0x10000)):
        with pytest.raises(PdmError, match="16 bits"):
            retargeted(image(), *ids)


@settings(max_examples=30, deadline=None)
@given(st.binary(min_size=26, max_size=1500), st.integers(0, 255))
def test_optionrom_builders_make_a_rom_that_checks(body: bytes, fill: int) -> None:
    start = b"\x55\xaa\x00\xe9\x00\x00" + body[:18] + bytes(4)  # no PCIR, no PnP
    data = with_checksum(padded(start + body[18:], fill))
    (found,) = check(data)
    assert found.size == len(data)
    assert len(data) % UNIT == 0
    assert data[28 : len(start) + len(body) - 18] == body[18:]


def test_optionrom_too_much_for_the_size_byte_is_refused() -> None:
    assert len(padded(b"\x55\xaa" + bytes(255 * UNIT - 2))) == 255 * UNIT
    for data in (b"\x55\xaa" + bytes(255 * UNIT - 1), b"no rom", b"\x55\xaa"):
        with pytest.raises(PdmError, match="no option ROM"):
            padded(data)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=700), st.integers(0, 0xFFFF), st.integers(0, 0xFFFF))
def test_optionrom_nonsense_gives_a_pdm_error_or_a_rom(body: bytes, vendor: int, device: int) -> None:
    data = b"\x55\xaa\x01" + body
    try:
        after = retargeted(data, vendor, device)
    except PdmError:
        return
    assert len(after) == len(data)
