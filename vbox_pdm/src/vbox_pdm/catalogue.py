"""Discovery of plugins: entry points of the group `vbox.plugins`, and single files.

Plugins are loaded one by one; one that fails is listed with its reason and the command that mends
it, and stops nobody.  The contract that a distribution wants is read from its requirement on
vbox-pdm, that of a file from its line `contract = "1.0"`, both without importing anything.
An entry point is named after the type that it registers, so that a machine imports only what it
uses; a type of another name is found by loading all the rest.
"""

from __future__ import annotations

import ast
import enum
import functools
import importlib.util
import sys
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import importlib_metadata
import pluggy
from attrs import define, field
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from vbox_pdm.device import DeviceType
from vbox_pdm.driver import DriverType
from vbox_pdm.engine import EngineType
from vbox_pdm.errors import PdmError, RegistrationError
from vbox_pdm.hookspecs import PROJECT, CatalogueSpecs, VmSpecs
from vbox_pdm.version import CONTRACT

GROUP = "vbox.plugins"


class Plugins(pluggy.PluginManager):
    """Counts its changes, for those who keep what they read of it."""

    generation = 0

    def register(self, plugin: object, name: str | None = None) -> str | None:
        registered = super().register(plugin, name)
        self.generation += 1  # after the change: who sees the number must see what it stands for
        return registered

    def unregister(self, plugin: object | None = None, name: str | None = None) -> Any:
        removed = super().unregister(plugin, name)
        self.generation += 1
        return removed


class PluginState(enum.Enum):
    FOUND = "found"  # not loaded yet
    LOADED = "loaded"
    UNUSABLE = "unusable"


@define(eq=False)
class Plugin:
    """A plugin as `vbox plugins` lists it."""

    name: str
    distribution: str
    version: str
    contract: str
    load: Callable[[], ModuleType] = field(repr=False)
    from_file: bool = False
    state: PluginState = PluginState.FOUND
    reason: str = ""
    remedy: str = ""
    devices: list[DeviceType] = field(factory=list)
    drivers: list[DriverType] = field(factory=list)
    engines: list[EngineType] = field(factory=list)
    module: ModuleType | None = field(default=None, repr=False)


class Catalogue:
    """The plugins of this process and the types that they registered."""

    def __init__(self, entry_points: Iterable[Any] | None = None) -> None:
        self.manager = Plugins(PROJECT)
        self.manager.add_hookspecs(CatalogueSpecs)
        self.manager.add_hookspecs(VmSpecs)
        self.plugins: list[Plugin] = []
        self._devices: dict[str, tuple[DeviceType, Plugin]] = {}
        self._drivers: dict[str, tuple[DriverType, Plugin]] = {}
        self._engines: dict[str, tuple[EngineType, Plugin]] = {}
        found = importlib_metadata.entry_points(group=GROUP) if entry_points is None else entry_points
        for entry_point in sorted(found, key=lambda e: (e.name, _metadata(e.dist)[0])):
            self._add_entry_point(entry_point)

    # --- finding

    def device(self, name: str) -> tuple[DeviceType, Plugin]:
        """A device type and its plugin.  VERR_PDM_DEVICE_NOT_FOUND."""
        return self._find(self._devices, name, "DEVICE")

    def driver(self, name: str) -> tuple[DriverType, Plugin]:
        """A driver type and its plugin.  VERR_PDM_DRIVER_NOT_FOUND."""
        return self._find(self._drivers, name, "DRIVER")

    def engine(self, name: str) -> tuple[EngineType, Plugin]:
        """An engine and its plugin.  VERR_PDM_ENGINE_NOT_FOUND."""
        return self._find(self._engines, name, "ENGINE")

    def engines(self) -> list[EngineType]:
        """All engines, the preferred first."""
        self.load_all()
        return sorted((e for e, _ in self._engines.values()), key=lambda e: (-e.preference, e.name))

    def load_all(self) -> None:
        """Load every plugin that is not loaded yet."""
        for plugin in self.plugins:
            self._load(plugin)

    def add_file(self, path: Path) -> Plugin:
        """A single file as a plugin: loaded at once, also its VM-wide hooks (pdm_wrap_region).
        Raises PdmError when the file cannot be used."""
        if not path.is_file():
            raise PdmError("VERR_FILE_NOT_FOUND", f"There is no plugin file {path}", "Check the path")
        try:
            contract = _contract_of_file(path)
        except (SyntaxError, UnicodeDecodeError, OSError) as error:
            raise PdmError("VERR_PDM_NO_REGISTRATION_EXPORT", f"{path} is no Python file: {error}") from None
        plugin = Plugin(path.stem, str(path), "", contract, lambda: _import_file(path), from_file=True)
        if not contract:
            self._refuse(plugin, "it does not say which contract it wants", f'Add: contract = "{CONTRACT}"')
        elif not _fits_file(contract):
            self._refuse(
                plugin,
                f"it wants contract {contract}, offered is {CONTRACT}",
                "Port it, or install another vbox-pdm",
            )
        self.plugins.append(plugin)
        self._load(plugin)
        if plugin.state is PluginState.UNUSABLE:
            raise PdmError("VERR_PDM_INVALID_DEVICE_REGISTRATION", f"{path}: {plugin.reason}", plugin.remedy)
        return plugin

    # --- loading

    def _find(self, table: dict[str, tuple[Any, Plugin]], name: str, kind: str) -> tuple[Any, Plugin]:
        if name not in table:
            for plugin in self.plugins:
                if plugin.name == name:
                    self._load(plugin)
        if name not in table:
            self.load_all()
        if name in table:
            return table[name]
        for plugin in self.plugins:
            if plugin.name == name and plugin.state is PluginState.UNUSABLE:
                raise PdmError(
                    f"VERR_PDM_{kind}_NOT_FOUND",
                    f"{kind.capitalize()} '{name}' of {plugin.distribution} is unusable: {plugin.reason}",
                    plugin.remedy,
                )
        raise PdmError(
            f"VERR_PDM_{kind}_NOT_FOUND",
            f"No {kind.lower()} is named '{name}'",
            "`vbox plugins` lists what is installed; pip install its distribution, or name a file with "
            "--plugin",
        )

    def _add_entry_point(self, entry_point: Any) -> None:
        name, version, wanted = _metadata(entry_point.dist)
        plugin = Plugin(entry_point.name, name, version, wanted, entry_point.load)
        self.plugins.append(plugin)
        if wanted and not _fits_requirement(wanted):
            self._refuse(
                plugin,
                f"it wants vbox-pdm{wanted}, offered is {CONTRACT}",
                f"pip install --upgrade {name} vbox-pdm",
            )

    def _refuse(self, plugin: Plugin, reason: str, remedy: str) -> None:
        plugin.state, plugin.reason, plugin.remedy = PluginState.UNUSABLE, reason, remedy

    def _load(self, plugin: Plugin) -> None:
        if plugin.state is not PluginState.FOUND:
            return
        mend = f"pip install --force-reinstall {plugin.distribution}"
        mend_registration = f"Uninstall one of them, or {mend}"
        if plugin.from_file:
            mend = "Correct the file"
            mend_registration = "Correct the file, or give its type another name"
        try:
            module = plugin.load()
        except (Exception, SystemExit) as error:
            self._refuse(plugin, f"importing it failed: {_last_line(error)}", mend)
            return
        plugin.module = module
        try:
            self._register(plugin, module)
        except Exception as error:
            self._forget(plugin)
            self._refuse(plugin, f"registering it failed: {_last_line(error)}", mend_registration)
            return
        plugin.state = PluginState.LOADED

    def _register(self, plugin: Plugin, module: ModuleType) -> None:
        if self.manager.is_registered(module):
            raise RegistrationError(
                "VERR_PDM_MODULE_NAME_CLASH", f"Module {module.__name__} is registered twice", ""
            )
        self.manager.register(module)
        before = len(plugin.devices) + len(plugin.drivers) + len(plugin.engines)
        for hook, table, mine, kind in (
            ("vbox_register_devices", self._devices, plugin.devices, "DEVICE"),
            ("vbox_register_drivers", self._drivers, plugin.drivers, "DRIVER"),
            ("vbox_register_engines", self._engines, plugin.engines, "ENGINE"),
        ):
            function = getattr(module, hook, None)
            if function is not None:
                function(_taker(table, mine, plugin, kind, self._load_namesakes))
        hooks = [name for name in vars(module) if name.startswith("pdm_") and hasattr(VmSpecs, name)]
        if before == len(plugin.devices) + len(plugin.drivers) + len(plugin.engines) and not hooks:
            raise RegistrationError(
                "VERR_PDM_NO_REGISTRATION_EXPORT",
                f"{module.__name__} registers nothing",
                "Implement vbox_register_devices or another hook, marked @hookimpl",
            )

    def _load_namesakes(self, plugin: Plugin, name: str) -> None:
        """A file is loaded at once, what is installed on demand: a name that both have must still be
        a clash, and the installed one keeps it."""
        if plugin.from_file:
            for other in self.plugins:
                if other.name == name and other is not plugin:
                    self._load(other)

    def _forget(self, plugin: Plugin) -> None:
        for table in (self._devices, self._drivers, self._engines):
            for name in [n for n, (_, owner) in table.items() if owner is plugin]:
                del table[name]
        for listed in (plugin.devices, plugin.drivers, plugin.engines):
            listed.clear()
        if plugin.module is not None and self.manager.is_registered(plugin.module):
            self.manager.unregister(plugin.module)


def _taker(
    table: dict[str, Any],
    mine: list[Any],
    plugin: Plugin,
    kind: str,
    load_namesakes: Callable[[Plugin, str], None],
) -> Callable[[Any], None]:
    wanted: type[Any] = {"DEVICE": DeviceType, "DRIVER": DriverType, "ENGINE": EngineType}[kind]

    def register(item: Any) -> None:
        if not isinstance(item, wanted):
            raise RegistrationError(
                f"VERR_PDM_INVALID_{kind}_REGISTRATION",
                f"{plugin.name} registered a {type(item).__name__} where a {wanted.__name__} belongs",
            )
        load_namesakes(plugin, item.name)
        if item.name in table:
            other = table[item.name][1]
            raise RegistrationError(
                f"VERR_PDM_{kind}_NAME_CLASH",
                f"{kind.capitalize()} '{item.name}' of {plugin.distribution} is already registered "
                f"by {other.distribution}",
            )
        table[item.name] = (item, plugin)
        mine.append(item)

    return register


@functools.cache
def _metadata(distribution: Any) -> tuple[str, str, str]:
    """Name, version and wanted contract; read once, since parsing takes milliseconds."""
    if distribution is None:
        return "(unknown)", "", ""
    return str(distribution.name), str(distribution.version), _wanted_contract(distribution)


def _wanted_contract(distribution: Any) -> str:
    for text in distribution.requires or []:
        try:
            requirement = Requirement(text)
        except InvalidRequirement:
            continue
        if canonicalize_name(requirement.name) == "vbox-pdm" and (
            requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        ):
            return str(requirement.specifier)
    return ""


@functools.cache
def _fits_requirement(specifier: str) -> bool:
    return Requirement(f"vbox-pdm{specifier}").specifier.contains(Version(CONTRACT + ".0"), prereleases=True)


def _fits_file(contract: str) -> bool:
    try:
        wanted = [int(part) for part in contract.split(".")]
    except ValueError:
        return False
    offered = [int(part) for part in CONTRACT.split(".")]
    return len(wanted) == 2 and wanted[0] == offered[0] and wanted[1] <= offered[1]


def _contract_of_file(path: Path) -> str:
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
            for target in node.targets:
                if isinstance(target, ast.Name) and target.id == "contract":
                    return str(node.value.value)
    return ""


def _import_file(path: Path) -> ModuleType:
    stem = path.resolve().parent.name if path.stem == "__init__" else path.stem
    name = f"vbox_plugin_file_{stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # attrs and typing look modules up by name
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _last_line(error: BaseException) -> str:
    if isinstance(error, PdmError):
        return str(error)
    return traceback.format_exception_only(error)[-1].strip()
