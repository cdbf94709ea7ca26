"""Small types with one fault each, and the list of them: `CASES`.

A correct type has its faults as subclasses, so that a fault is all that a subclass says:

    @correct
    class Gadget(Device[Config]): ...

    @faulty("reset-state")
    class ForgetsReset(Gadget):
        def pdm_reset(self): ...
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeVar

from attrs import frozen

from vbox_pdm import Device, DeviceType, Driver, DriverType, Layer, NoConfig
from vbox_pdm.testing.conformance import Profile

C = TypeVar("C", bound="type[Device[Any] | Driver[Any]]")

PROFILE = Profile("test", seconds=60, steps=25, shrink=2)
"""Long enough for every fault here; most are found at once."""
SHORT = Profile("test", seconds=1.5, steps=25, shrink=2)
"""For what has no fault: all of it is used."""


@frozen
class Case:
    """A type whose fault breaks the property `prop`; `says` is part of what the kit says of it."""

    prop: str
    type: DeviceType | DriverType
    says: str = ""

    def __str__(self) -> str:
        return f"{self.prop}: {self.type.name}"


CASES: list[Case] = []
"""All types with a fault."""
CORRECT: list[DeviceType | DriverType] = []
"""Their twins without one."""


def faulty(prop: str, says: str = "") -> Callable[[C], C]:
    """Of a class: what it does breaks `prop`."""

    def add(one: C) -> C:
        CASES.append(Case(prop, type_of(one), says))
        return one

    return add


def correct(one: C) -> C:
    """Of a class: it keeps the contract."""
    CORRECT.append(type_of(one))
    return one


def type_of(one: type[Device[Any] | Driver[Any]], **more: Any) -> DeviceType | DriverType:
    """A type made of a class: `config_class`, and of a driver `layers` (what it serves and wants)."""
    name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", one.__name__).lower()
    config = getattr(one, "config_class", NoConfig)
    if issubclass(one, Device):
        return DeviceType(name, one, config, **more)
    layers: tuple[Layer[Any, Any], Layer[Any, Any] | None] = one.layers  # type: ignore[attr-defined]
    return DriverType(name, one, config, serves=layers[0], wants=layers[1], **more)
