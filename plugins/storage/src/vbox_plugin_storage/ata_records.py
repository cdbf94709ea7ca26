"""Records of the ATA disk: configuration, saved state, what errors of a medium become."""

from __future__ import annotations

from attrs import frozen

from vbox_pdm import ConfigError, State, StateError, ata, key
from vbox_pdm.ata import Geometry, ModeKind
from vbox_plugin_storage.ata_identify import MAX_MULTIPLE

_REGISTERS_OF_MEDIA_ERRORS = {
    "VERR_WRITE_PROTECT": ata.WP | ata.ABRT,
    "VERR_OUT_OF_RANGE": ata.IDNF,
    "VERR_PDM_MEDIA_NOT_MOUNTED": ata.ABRT,
}


@frozen
class Config:
    """Configuration of an ATA disk."""

    serial_number: str | None = key(
        None, help="up to 20 characters; by default made of the medium's identity"
    )
    firmware_revision: str = key("1.0", help="up to 8 characters")
    model_number: str = key("VBOX HARDDISK", help="up to 40 characters")
    non_rotational: bool = key(False, help="the disk says that it has no platters (SSD)")
    cylinders: int | None = key(None, span=(1, 16383), help="default translation; all three or none")
    heads: int | None = key(None, span=(1, 16), help="default translation")
    sectors: int | None = key(None, span=(1, 63), help="default translation")
    lchs_cylinders: int | None = key(
        None, span=(1, 1024), help="translation for firmware (LCHS); all three or none"
    )
    lchs_heads: int | None = key(None, span=(1, 255), help="translation for firmware")
    lchs_sectors: int | None = key(None, span=(1, 63), help="translation for firmware")


@frozen
class AtaDiskState(State, version=1):
    """Settings of the disk.  `native` is its size in sectors, to notice that it is another disk."""

    native: int
    accessible: int
    heads: int
    per_track: int
    multiple: int
    mode_kind: ModeKind
    mode: int
    write_cache: bool
    look_ahead: bool
    keeps_settings: bool
    power: int
    sleeping: bool
    last_command: int
    buffer: bytes


def check_state(state: AtaDiskState, native: int) -> None:
    """StateError for a state of another disk (its size differs), or one that no disk can be in."""
    if state.native != native:
        raise StateError(
            "VERR_SSM_LOAD_CONFIG_MISMATCH",
            f"The saved disk has {state.native} sectors, this one {native}",
            "Attach the disk that the state was saved with",
        )
    if not (0 <= state.multiple <= MAX_MULTIPLE and 1 <= state.heads <= 16 and 1 <= state.per_track <= 255):
        raise StateError("VERR_SSM_UNEXPECTED_DATA", "The saved disk has impossible settings")


def configured_geometry(config: Config, prefix: str) -> Geometry | None:
    """The geometry that the keys `prefix`cylinders, heads and sectors give; None when none is given.
    VERR_INVALID_PARAMETER when only some are."""
    given = [getattr(config, prefix + name) for name in ("cylinders", "heads", "sectors")]
    if given == [None] * 3:
        return None
    if None in given:
        raise ConfigError(
            "VERR_INVALID_PARAMETER",
            f"Of '{prefix}cylinders', '{prefix}heads' and '{prefix}sectors' some are given and some are not",
            "Give all three, or none",
        )
    return Geometry(*given)


def error_register(error: str, otherwise: int) -> int:
    """The error register for an error of the medium; `otherwise` where that has no bit of its own."""
    return _REGISTERS_OF_MEDIA_ERRORS.get(error, otherwise)
