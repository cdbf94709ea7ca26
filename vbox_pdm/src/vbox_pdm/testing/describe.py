"""What a test writes (names, types, fakes, lists) turned into what a backend takes."""

from __future__ import annotations

import functools
import re
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
import importlib_metadata

from vbox_pdm.catalogue import GROUP as PLUGINS
from vbox_pdm.catalogue import Catalogue
from vbox_pdm.chains import Chain, ChainDriver, chain_from_tree
from vbox_pdm.config import NoConfig
from vbox_pdm.device import Device, DeviceType
from vbox_pdm.driver import Driver, DriverType
from vbox_pdm.errors import PdmError
from vbox_pdm.testing.backend import GROUP, BackendFactory

_LUN = re.compile(r"lun(\d+)\Z")


@functools.cache
def plugin_entry_points() -> tuple[Any, ...]:
    """The entry points of all installed plugins, looked for once in a process."""
    return tuple(importlib_metadata.entry_points(group=PLUGINS))


def backend_factory(name: str, own: BackendFactory) -> BackendFactory:
    """The backend of that name: "bench", or one of the entry-point group `vbox.bench`."""
    if name == "bench":
        return own
    found = {entry.name: entry for entry in importlib_metadata.entry_points(group=GROUP)}
    if name not in found:
        others = ", ".join(sorted(found)) or "none"
        raise PdmError(
            "VERR_NOT_FOUND",
            f"No bench backend is named '{name}'",
            f"There is 'bench', and installed are: {others}; pip install vbox-vmm for 'kernel'",
        )
    factory: BackendFactory = found[name].load()
    return factory


class Registered:
    """Where a Plugin stands for types that a test registered itself."""

    distribution = "test"


class Names:
    """Types by name: those that the test registered, then those of the catalogue."""

    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue
        self.devices: dict[str, DeviceType] = {}
        self.drivers: dict[str, DriverType] = {}

    def register(self, item: DeviceType | DriverType) -> None:
        """Add a type.  A second one of the name is an error."""
        table: dict[str, Any] = self.devices if isinstance(item, DeviceType) else self.drivers
        if table.get(item.name, item) is not item:
            kind = "DEVICE" if isinstance(item, DeviceType) else "DRIVER"
            raise PdmError(f"VERR_PDM_{kind}_NAME_CLASH", f"'{item.name}' is registered already")
        table[item.name] = item

    def device(self, given: str | DeviceType | type[Device[Any]]) -> tuple[DeviceType, str]:
        """A device type and its distribution."""
        if isinstance(given, DeviceType):
            return given, "test"
        if isinstance(given, type) and issubclass(given, Device):
            return DeviceType(given.__name__, given, _config_of(given)), "test"
        if given in self.devices:
            return self.devices[given], "test"
        found, plugin = self.catalogue.device(given)
        return found, plugin.distribution

    def driver(self, name: str) -> tuple[DriverType, Any]:
        """A driver type and its plugin (`DriverSource`)."""
        if name in self.drivers:
            return self.drivers[name], Registered
        return self.catalogue.driver(name)

    def chain(self, description: Any, where: str) -> Chain:
        """A chain from any of the forms that `Bench.add` takes."""
        if description is None:
            return Chain()
        if isinstance(description, Chain):
            return description
        if isinstance(description, Mapping):
            return chain_from_tree(self, description, where)
        if isinstance(description, list):
            return self._chain_of(description, where)
        one = self._chain_driver(description)
        return Chain((one,)) if one is not None else Chain(end=description)

    def _chain_of(self, items: Sequence[Any], where: str) -> Chain:
        drivers: list[ChainDriver] = []
        for index, item in enumerate(items):
            one = self._chain_driver(item)
            if one is not None:
                drivers.append(one)
            elif index + 1 == len(items):
                return Chain(tuple(drivers), item)
            else:
                raise PdmError(
                    "VERR_INVALID_PARAMETER",
                    f"{type(item).__name__} is no driver, but something stands below it at {where}",
                    "Only the last of a chain may be a fake",
                )
        return Chain(tuple(drivers))

    def _chain_driver(self, item: Any) -> ChainDriver | None:
        values: Mapping[str, object] = {}
        if isinstance(item, tuple) and len(item) == 2 and isinstance(item[1], Mapping):
            item, values = item
        if isinstance(item, DriverType):
            return ChainDriver(item, values, "test")
        if isinstance(item, str):
            found, plugin = self.driver(item)
            return ChainDriver(found, values, plugin.distribution)
        if isinstance(item, type) and issubclass(item, Driver):
            raise PdmError(
                "VERR_INVALID_PARAMETER", f"{item.__name__} is a class", "Give its DriverType or its name"
            )
        return None


def split_values(values: Mapping[str, object]) -> tuple[dict[str, object], dict[int, object]]:
    """Keywords into configuration values and LUNs (`lun0=...`)."""
    config: dict[str, object] = {}
    luns: dict[int, object] = {}
    for name, value in values.items():
        match = _LUN.match(name)
        if match:
            luns[int(match[1])] = value
        else:
            config[name] = value
    return config, luns


def _config_of(device: type[Device[Any]]) -> type[Any]:
    for owner in device.__mro__:
        for base in vars(owner).get("__orig_bases__", ()):
            arguments = typing.get_args(base)
            if arguments and isinstance(arguments[0], type) and attrs.has(arguments[0]):
                found: type[Any] = arguments[0]
                return found
    return NoConfig


def each_fake(chains: Mapping[int, Chain], visit: Callable[[Any], None]) -> None:
    """Call `visit` for the fake end of each chain."""
    for chain in chains.values():
        if chain.end is not None:
            visit(chain.end)
