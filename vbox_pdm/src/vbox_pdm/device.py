"""What the author of a device declares: a type, its configuration, and a class with handlers.

The life of an instance, and what holds in each callback, is documented at the hooks
(`hookspecs.InstanceSpecs`).  A device implements those that it needs; everything that it touches
in the outside world is visible in its `pdm_construct`.
"""

from __future__ import annotations

import enum
from typing import Any, ClassVar, Generic, TypeVar

from attrs import field, frozen

from vbox_pdm.config import NoConfig
from vbox_pdm.errors import RegistrationError
from vbox_pdm.helpers import DeviceHelpers

C = TypeVar("C")
_NAME_CHARACTERS = set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_- ")
MAX_NAME = 31


class DeviceClass(enum.IntEnum):
    """PDM's device classes: the bit number is the default order of construction, low first."""

    ARCH = 0
    ARCH_BIOS = 1
    BUS_PCI = 2
    BUS_ISA = 3
    INPUT = 4
    PIC = 5
    PIT = 6
    RTC = 7
    DMA = 8
    VMM_DEV = 9
    GRAPHICS = 10
    STORAGE = 11
    NETWORK = 12
    AUDIO = 13
    BUS_USB = 14
    ACPI = 15
    SERIAL = 16
    PARALLEL = 17
    HOST_DEV = 18
    MISC = 31


class Device(Generic[C]):
    """Base of all devices.  The host sets `config`, `helpers` and `instance` before construct."""

    config: C
    helpers: DeviceHelpers
    instance: int

    transient: ClassVar[frozenset[str]] = frozenset()
    """Attributes that need neither be saved nor reset: caches, counts for people.  The conformance kit
    expects of all others that a load and a reset bring them back."""


def check_name(kind: str, name: str) -> None:
    """Raise RegistrationError unless `name` is 1..31 of letters, digits, space, '_' and '-'."""
    if not 0 < len(name) <= MAX_NAME or set(name) - _NAME_CHARACTERS:
        raise RegistrationError(
            f"VERR_PDM_INVALID_{kind}_REGISTRATION",
            f"{name!r} is no name for a {kind.lower()}",
            f"Use 1 to {MAX_NAME} letters, digits, '_' or '-'",
        )


@frozen(eq=False)
class DeviceType:
    """What `vbox_register_devices(register)` registers.

    `reset_first` and its kin: the device is notified before the drivers below it, not after
    (VirtualBox's FIRST_*_NOTIFICATION).
    """

    name: str
    """What `--device` and the configuration of a machine call it: 1 to 31 letters, digits, '_', '-'."""
    device: type[Device[Any]]
    """Made once for each instance, without arguments."""
    config: type[Any] = NoConfig
    """An attrs class whose fields are made by `key`."""
    device_class: DeviceClass = field(default=DeviceClass.MISC, kw_only=True)
    """When it is constructed; `Priority` in the configuration of an instance overrides it."""
    max_instances: int | None = field(default=None, kw_only=True)
    """How many a machine may have; None: any number."""
    summary: str = field(default="", kw_only=True)
    """A few words for `vbox devices`."""
    reset_first: bool = field(default=False, kw_only=True)
    suspend_first: bool = field(default=False, kw_only=True)
    power_off_first: bool = field(default=False, kw_only=True)

    def __attrs_post_init__(self) -> None:
        check_name("DEVICE", self.name)
        if self.max_instances is not None and self.max_instances < 1:
            raise RegistrationError(
                "VERR_PDM_INVALID_DEVICE_REGISTRATION", f"Device '{self.name}' allows no instance"
            )
