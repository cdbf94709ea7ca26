"""What a drive calls itself: strings of IDENTIFY and INQUIRY data."""

from __future__ import annotations

import hashlib

from vbox_pdm import ConfigError


def serial_number(identity: str) -> str:
    """`VBxxxxxxxx-xxxxxxxx`: always the same for the same medium (or whatever `identity` names)."""
    digest = hashlib.sha256(identity.encode("utf-8", "surrogateescape")).digest()
    return f"VB{digest[:4].hex()}-{digest[4:8].hex()}"


def check_string(key: str, text: str | None, longest: int) -> None:
    """Refuse what does not fit into its field: VERR_INVALID_PARAMETER."""
    if text is None:
        return
    if len(text) > longest or any(not " " <= character <= "~" for character in text):
        raise ConfigError(
            "VERR_INVALID_PARAMETER",
            f"Configuration value '/{key}' is {text!r}, which is not up to {longest} ASCII characters",
            f"Shorten {key}, or leave it out",
        )
