"""Errors of the contract: a VirtualBox status name, the thing concerned, and the next step.

Status names are VirtualBox's where one exists, so that a user who knows them can look them up.
"""

from __future__ import annotations


class PdmError(Exception):
    """An error that a user may see.

    `status` is a status name ("VERR_PDM_DEVICE_NOT_FOUND"), `message` names the thing and the
    value, `remedy` says what to do next (may be empty).  `str()` is all three on one line.
    """

    def __init__(self, status: str, message: str, remedy: str = "") -> None:
        super().__init__(status, message, remedy)
        self.status = status
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        text = f"{self.message} ({self.status})"
        return f"{text}. {self.remedy}" if self.remedy else text


class ConfigError(PdmError):
    """A configuration tree or key is wrong (VERR_CFGM_*)."""


class RegistrationError(PdmError):
    """A type, hook implementation or region was declared wrongly (VERR_PDM_INVALID_*)."""


class StateError(PdmError):
    """A saved state does not fit what should load it (VERR_SSM_*)."""
