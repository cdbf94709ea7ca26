"""Small types with one fault each, and the list of them: `CASES`.

A correct type has its faults as subclasses, so that a fault is all that a subclass says:

    @correct
    class Gadget(Device[Config]): ...

    @faulty("reset-state")
    class ForgetsReset(Gadget):
        def pdm_reset(self): ...
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, TypeVar
from unittest import mock

from attrs import frozen

from vbox_pdm import Device, DeviceType, Driver, DriverType, Layer, NoConfig
from vbox_pdm.testing.conformance import Profile, check
from vbox_pdm.testing.conformance.report import Report

C = TypeVar("C", bound="type[Device[Any] | Driver[Any]]")

PROFILE = Profile("test", seconds=60, steps=25, shrink=0.2)
"""Long enough for every fault here also on a busy machine; most are found at once."""
SHORT = Profile("test", seconds=6, steps=12, shrink=1)
"""For what has no fault, within `counted`: all of it is used."""


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


@contextmanager
def counted() -> Iterator[None]:
    """The seconds of a profile are looks at the clock, one for each example: so many are tried however busy
    the machine is."""
    from vbox_pdm.testing.conformance import run

    looks = itertools.count()
    clock = SimpleNamespace(monotonic=lambda: float(next(looks)), process_time=float)
    with mock.patch.object(run, "time", clock):
        yield


def report_on(kind: DeviceType | DriverType, profile: Profile = PROFILE, **more: Any) -> Report:
    """What the kit says of a type; the class attribute `setup` is its Setup."""
    setup = getattr(kind.device if isinstance(kind, DeviceType) else kind.driver, "setup", None)
    module = SimpleNamespace(vbox_conformance_setup=lambda name, folder: setup)
    return check(kind, profile, plugin=SimpleNamespace(distribution="tests", module=module), **more)


def type_of(one: type[Device[Any] | Driver[Any]]) -> DeviceType | DriverType:
    """A type made of a class, whose attributes say more: `config_class`, `options` of the type, and of a
    driver `layers`, which it serves and wants."""
    name = re.sub(r"(?<!^)(?=[A-Z])", "-", one.__name__).lower()
    config, options = getattr(one, "config_class", NoConfig), getattr(one, "options", {})
    if issubclass(one, Device):
        return DeviceType(name, one, config, **options)
    layers: tuple[Layer[Any, Any], Layer[Any, Any] | None] = one.layers  # type: ignore[attr-defined]
    return DriverType(name, one, config, serves=layers[0], wants=layers[1], **options)
