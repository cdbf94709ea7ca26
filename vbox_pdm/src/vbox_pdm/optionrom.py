"""Option ROM images: what a card's firmware looks like, and how it is fitted to a card.

A file holds one or more images.  Each begins with 55 AA, its size in units of 512 bytes, and the
entry point; words at 18h and 1Ah point to a PCI data structure ("PCIR") and to a PnP expansion
header ("$PnP").  PCI Firmware Specification 3.0, chapter 5; Plug and Play BIOS Specification 1.0A,
section 3; BIOS Boot Specification 1.01.

Firmware runs a ROM from a BAR only when the ids of PCIR are those of the function that it found it
on, so a ROM that was built for one card needs `retargeted` to serve another that is compatible.

Traps
- The size byte at 2 counts what is loaded and summed up; the length in PCIR counts how far it is to
  the next image, and may be larger.
- Only images with code type 0 (x86) have a checksum and a size byte at all; in EFI images those bytes
  mean something else.
- Nothing in the format says which byte makes up the checksum.
"""

from __future__ import annotations

import struct

from attrs import frozen

from vbox_pdm.errors import PdmError

UNIT = 512
"""Bytes: sizes of images are counted in this."""
LARGEST = 255 * UNIT
"""Bytes: what the size byte of an image can say."""
X86, OPEN_FIRMWARE, PA_RISC, EFI = range(4)
"""Code types."""
SIGNATURE = b"\x55\xaa"

_PCIR_POINTER, _PNP_POINTER = 0x18, 0x1A
_SMALLEST_HEADER = 0x1C
_PCIR = struct.Struct("<4sHHHHB3sHHBB")
_PNP = struct.Struct("<4sBBHBBIHH3sBHHHHH")
_LAST_IMAGE = 0x80
_SPARE_BYTE = 6
_REVISION_LEVEL = 0x12  # in PCIR
_SHORT_JUMPS = (0xEB, 0xE9)


@frozen
class PciData:
    """A PCI data structure.  `offset` is from the start of the file, `length` is that of the whole
    image in bytes, `class_code` has 24 bits."""

    offset: int
    vendor: int
    device: int
    class_code: int
    length: int
    code_type: int
    last: bool


@frozen
class PnpHeader:
    """A PnP expansion header.  `offset` is from the start of the file; the vectors are offsets in the
    image, 0 where there is none."""

    offset: int
    device_id: int
    boot_connection: int
    bootstrap_entry: int
    valid: bool
    """Whether its own checksum is right: firmware takes no notice of it otherwise."""


@frozen
class Image:
    """One image of a file.  `size` is in bytes: what the size byte says, for x86."""

    offset: int
    size: int
    checksum: int
    """Sum of its bytes modulo 256; 0 where it is right, and for what is no x86 code."""
    pci: PciData | None
    pnp: PnpHeader | None

    @property
    def is_x86(self) -> bool:
        """Without PCIR it is an ISA card's, which is x86."""
        return self.pci is None or self.pci.code_type == X86


def parse(data: bytes, name: str = "option ROM") -> tuple[Image, ...]:
    """The images in a file; `name` stands in errors.  A wrong checksum is no error here: see
    `Image.checksum`.  Raises PdmError (VERR_INVALID_PARAMETER) for what is no option ROM."""
    images = []
    offset = 0
    while True:
        image, length = _image(data, offset, name)
        images.append(image)
        if image.pci is None or image.pci.last:
            return tuple(images)
        offset += length


def check(data: bytes, name: str = "option ROM") -> tuple[Image, ...]:
    """As `parse`, and a wrong checksum of an x86 image is refused too."""
    images = parse(data, name)
    for image in images:
        if image.checksum:
            raise _refused(name, f"the bytes of its image at {image.offset:#x} add up to {image.checksum:#x}")
    return images


def retargeted(data: bytes, vendor: int, device: int, name: str = "option ROM") -> bytes:
    """The ROM for the PCI function `vendor`:`device`: the ids in PCIR of each x86 image, and the
    checksum of that image, are changed.  A ROM without PCIR (an ISA card's) comes back as it is.

    Raises PdmError (VERR_INVALID_PARAMETER) for what is no option ROM, and for ids out of 0..FFFF.
    """
    if not (0 <= vendor <= 0xFFFF and 0 <= device <= 0xFFFF):
        raise PdmError(
            "VERR_INVALID_PARAMETER",
            f"PCI ids {vendor:#x}:{device:#x} for {name} are out of range",
            "Ids have 16 bits",
        )
    changed = bytearray(data)
    for image in parse(data, name):
        if image.pci is None or not image.is_x86:
            continue
        struct.pack_into("<HH", changed, image.pci.offset + 4, vendor, device)
        _correct(changed, image.offset, image.size, _balance(data, image))
    return bytes(changed)


def padded(data: bytes, fill: int = 0) -> bytes:
    """For builders: `data` filled up to whole units, with the size byte set.  It has no checksum yet.

    Raises PdmError (VERR_INVALID_PARAMETER) when it does not begin with 55 AA or is too long."""
    if data[:2] != SIGNATURE or not 3 < len(data) <= LARGEST:
        raise _refused("The new option ROM", f"it has {len(data)} bytes and begins with {data[:2].hex()}")
    whole = bytearray(data) + bytes([fill]) * (-len(data) % UNIT)
    whole[2] = len(whole) // UNIT
    return bytes(whole)


def with_checksum(data: bytes, at: int = _SPARE_BYTE) -> bytes:
    """For builders: a single image, its byte `at` changed so that its bytes add up to 0."""
    image = parse(data, "The new option ROM")[0]
    whole = bytearray(data)
    _correct(whole, image.offset, image.size, at)
    return bytes(whole)


def _image(data: bytes, offset: int, name: str) -> tuple[Image, int]:
    """The image at `offset`, and the bytes to the next one."""
    if data[offset : offset + 2] != SIGNATURE:
        found = data[offset : offset + 2].hex(" ") or "the end of the file"
        raise _refused(name, f"at {offset:#x} stands {found}, not 55 aa")
    if len(data) - offset < _SMALLEST_HEADER:
        raise _refused(name, f"its image at {offset:#x} ends after {len(data) - offset} bytes")
    pci = _pci_data(data, offset)
    x86 = pci is None or pci.code_type == X86
    size = data[offset + 2] * UNIT if x86 or pci is None else pci.length
    if size == 0 or (pci is not None and pci.length == 0):
        raise _refused(name, f"its image at {offset:#x} says that it has no bytes")
    if offset + size > len(data):
        raise _refused(
            name, f"its image at {offset:#x} wants {size} bytes, and only {len(data) - offset} are left"
        )
    checksum = sum(data[offset : offset + size]) & 0xFF if x86 else 0
    pnp = _pnp_header(data, offset, size) if x86 else None
    return Image(offset, size, checksum, pci, pnp), size if pci is None else pci.length


def _pci_data(data: bytes, offset: int) -> PciData | None:
    (pointer,) = struct.unpack_from("<H", data, offset + _PCIR_POINTER)
    start = offset + pointer
    if pointer < _SMALLEST_HEADER or start + _PCIR.size > len(data):
        return None
    signature, vendor, device, _, _, _, class_code, units, _, code_type, indicator = _PCIR.unpack_from(
        data, start
    )
    if signature != b"PCIR":
        return None
    return PciData(
        start, vendor, device, int.from_bytes(class_code, "little"), units * UNIT, code_type,
        bool(indicator & _LAST_IMAGE),
    )  # fmt: skip


def _pnp_header(data: bytes, offset: int, size: int) -> PnpHeader | None:
    (pointer,) = struct.unpack_from("<H", data, offset + _PNP_POINTER)
    start = offset + pointer
    if pointer < _SMALLEST_HEADER or pointer + _PNP.size > size or data[start : start + 4] != b"$PnP":
        return None
    fields = _PNP.unpack_from(data, start)
    length = fields[2] * 16
    valid = length >= _PNP.size and sum(data[start : start + length]) & 0xFF == 0
    return PnpHeader(start, fields[6], fields[11], fields[13], valid)


def _balance(data: bytes, image: Image) -> int:
    """The byte (an offset in the file) that may take up a change of the checksum.

    Builders leave byte 6 for it, behind an entry point that is a jump; elsewhere code may stand there,
    and the revision level in PCIR, which firmware does not look at, serves."""
    spare = image.offset + _SPARE_BYTE
    if data[image.offset + 3] in _SHORT_JUMPS or image.pci is None:
        return spare
    level = image.pci.offset + _REVISION_LEVEL
    return level if level < image.offset + image.size else spare


def _correct(data: bytearray, offset: int, size: int, at: int) -> None:
    data[at] = (data[at] - sum(data[offset : offset + size])) & 0xFF


def _refused(name: str, why: str) -> PdmError:
    return PdmError(
        "VERR_INVALID_PARAMETER",
        f"{name} is no option ROM: {why}",
        "Give the file of an option ROM, such as vgabios-stdvga.bin",
    )
