"""What a CD drive answers to the commands that ask about drive and disc: data only, no state.

Reference: MMC-6 (T10 1836-D); SPC-4 for INQUIRY and mode parameters; the obsolete mode pages 0Dh, 0Eh and
2Ah: MMC-3 (T10 1363-D).
"""

from __future__ import annotations

import enum

from attrs import frozen

from vbox_pdm import mmc
from vbox_pdm.mmc import Feature, Profile

SPEED = 7056
"""kB/s: 40 times the speed of an audio CD."""
BUFFER = 512
"""KiB."""


class Event(enum.IntEnum):
    """Media events of GET EVENT STATUS NOTIFICATION."""

    NONE = 0
    EJECT_REQUEST = 1
    NEW_MEDIA = 2
    REMOVAL = 3


OPERATIONAL, MEDIA = 1, 4
CLASSES = 1 << OPERATIONAL | 1 << MEDIA
"""Classes of events that the drive reports."""


@frozen
class Inquiry:
    """Strings of the drive."""

    vendor: str
    product: str
    revision: str
    serial: str


def _ascii(text: str, length: int) -> bytes:
    return text[:length].ljust(length).encode("ascii", "replace")


def inquiry(names: Inquiry) -> bytes:
    """36 bytes: a removable CD drive, responses in the format of ATAPI."""
    head = bytes((0x05, 0x80, 0x00, 0x21, 31, 0, 0, 0))
    return head + _ascii(names.vendor, 8) + _ascii(names.product, 16) + _ascii(names.revision, 4)


def vital_product_data(names: Inquiry, page: int) -> bytes | None:
    """Pages 00h, 80h (serial number) and 83h (identification)."""
    if page == 0x00:
        body = b"\x00\x80\x83"
    elif page == 0x80:
        body = _ascii(names.serial, 20)
    elif page == 0x83:
        name = _ascii(names.vendor, 8) + _ascii(names.product, 16) + _ascii(names.serial, 20)
        body = bytes((0x02, 0x01, 0x00, len(name))) + name  # ASCII, T10 vendor identification, of the unit
    else:
        return None
    return bytes((0x05, page, 0, len(body))) + body


# --- mode pages

ERROR_RECOVERY, CD_PARAMETERS, AUDIO, POWER, CAPABILITIES = 0x01, 0x0D, 0x0E, 0x1A, 0x2A
CHANGEABLE = {ERROR_RECOVERY: bytes((0, 0, 0xFF, 0xFF, 0, 0, 0, 0))}
"""Bits that MODE SELECT may change; none of the other pages."""
DEFAULT_RECOVERY = (0x00, 0x05)
"""Error recovery flags and number of retries."""


def mode_pages(recovery: tuple[int, int], locked: bool) -> dict[int, bytes]:
    """The current pages, in ascending order."""
    capabilities = bytes((
        CAPABILITIES, 18,
        0x0B,  # reads CD-R, CD-RW, DVD-ROM
        0x00,  # writes nothing
        0x40,  # multi-session; no audio
        0x00,
        0x29 | locked << 1,  # tray, eject, lock
        0x00,
    ))  # fmt: skip
    numbers = (SPEED, 0, BUFFER, SPEED)
    capabilities += b"".join(number.to_bytes(2, "big") for number in numbers) + bytes(4)
    return {
        ERROR_RECOVERY: bytes((ERROR_RECOVERY, 6, *recovery, 0, 0, 0, 0)),
        CD_PARAMETERS: bytes((CD_PARAMETERS, 6, 0, 0x0D, 0, 60, 0, 75)),
        AUDIO: bytes((AUDIO, 14, 0x04, 0, 0, 0, 0, 75, 0, 0, 0, 0, 0, 0, 0, 0)),
        POWER: bytes((POWER, 10)) + bytes(10),
        CAPABILITIES: capabilities,
    }


def mode_header(wide: bool, medium: int, length: int) -> bytes:
    """The header of MODE SENSE (10) (`wide`) or (6) before `length` bytes of pages."""
    if wide:
        return (length + 6).to_bytes(2, "big") + bytes((medium, 0, 0, 0, 0, 0))
    return bytes((min(length + 3, 0xFF), medium, 0, 0))


def medium_type(present: bool, tray_open: bool) -> int:
    """The medium type code of mode parameter headers."""
    if tray_open:
        return 0x71
    return 0x01 if present else 0x70  # 120 mm data disc, or none with the door closed


# --- disc and drive


def features(profile: Profile) -> list[Feature]:
    """All features, by code; those that depend on the disc are current with `profile`."""
    profiles = b"".join(
        each.to_bytes(2, "big") + bytes((each is profile, 0)) for each in (Profile.DVD_ROM, Profile.CD_ROM)
    )
    disc, cd, dvd = profile is not Profile.NONE, profile is Profile.CD_ROM, profile is Profile.DVD_ROM
    blocking = 16 if dvd else 1
    readable = mmc.BLOCK.to_bytes(4, "big") + blocking.to_bytes(2, "big") + b"\0\0"
    return [
        Feature(0x0000, 0, True, True, profiles),
        Feature(0x0001, 2, True, True, b"\0\0\0\2\0\0\0\0"),  # core; the interface is ATAPI
        Feature(0x0002, 1, True, True, b"\2\0\0\0"),  # morphing; reports operational changes
        Feature(0x0003, 0, True, True, b"\x2d\0\0\0"),  # removable: tray, eject, lock, starts unlocked
        Feature(0x0010, 0, False, disc, readable),  # random readable
        Feature(0x001D, 0, False, cd),  # multi-read
        Feature(0x001E, 2, False, cd, b"\0\0\0\0"),  # CD read
        Feature(0x001F, 0, False, dvd),  # DVD read
        Feature(0x0100, 0, True, True),  # power management
        Feature(0x0105, 0, True, True),  # timeout
    ]


def event_status(asked: int, event: Event, present: bool, tray_open: bool) -> tuple[bytes, bool]:
    """The answer of GET EVENT STATUS NOTIFICATION, and whether it told the media event."""
    if not asked & CLASSES:
        return bytes((0, 2, 0x80, CLASSES)), False
    if asked & 1 << MEDIA and (event is not Event.NONE or not asked & 1 << OPERATIONAL):
        return bytes((0, 6, MEDIA, CLASSES, event, present << 1 | tray_open, 0, 0)), True
    return bytes((0, 6, OPERATIONAL, CLASSES, 0, 0, 0, 0)), False


def disc_information() -> bytes:
    """READ DISC INFORMATION: one complete session of one track, nothing can be appended."""
    data = bytearray(34)
    data[0:2] = (32).to_bytes(2, "big")
    data[2] = 0x0E  # complete session, complete disc
    data[3:7] = b"\1\1\1\1"
    data[7] = 0x20  # for unrestricted use
    data[16:24] = b"\xff" * 8
    return bytes(data)


def track_information(blocks: int) -> bytes:
    """READ TRACK INFORMATION of the only track."""
    data = bytearray(36)
    data[0:2] = (34).to_bytes(2, "big")
    data[2], data[3], data[5], data[6] = 1, 1, 0x04, 0x01
    data[24:28] = blocks.to_bytes(4, "big")
    return bytes(data)


def sub_channel(form: int, with_q: bool, as_msf: bool) -> bytes | None:
    """READ SUB-CHANNEL: no audio operation, at the start of track 1; formats 1 (position), 2 (catalogue
    number) and 3 (ISRC), which a data disc has not."""
    if not with_q:
        return bytes((0, 0x15, 0, 0))
    if form == 1:
        body = bytes((1, mmc.DATA_TRACK, 1, 1)) + mmc.address(0, as_msf) + bytes(4)
    elif form == 2:
        body = bytes((2,)) + bytes(19)
    elif form == 3:
        body = bytes((3, mmc.DATA_TRACK, 1)) + bytes(17)
    else:
        return None
    return bytes((0, 0x15)) + len(body).to_bytes(2, "big") + body


def dvd_structure(form: int, blocks: int) -> bytes | None:
    """READ DVD STRUCTURE of a single layer DVD-ROM: formats 00h (physical), 01h (copyright: none), 04h
    (manufacturer: nothing), FFh (which there are)."""
    if form == 0x00:
        first = 0x030000
        body = bytes((0x01, 0x0F, 0x01, 0x00)) + first.to_bytes(4, "big")
        body += (first + blocks - 1).to_bytes(4, "big") + bytes(4)
        body = body.ljust(2048, b"\0")
    elif form == 0x01:
        body = bytes(4)
    elif form == 0x04:
        body = bytes(2048)
    elif form == 0xFF:
        sizes = ((0x00, 2052), (0x01, 8), (0x04, 2052))
        body = b"".join(bytes((code, 0x40)) + size.to_bytes(2, "big") for code, size in sizes)
    else:
        return None
    return (len(body) + 2).to_bytes(2, "big") + b"\0\0" + body


def mechanism_status(tray_open: bool) -> bytes:
    """MECHANISM STATUS: no changer."""
    return bytes((0, tray_open << 4, 0, 0, 0, 0, 0, 0))
