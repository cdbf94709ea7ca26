"""The catalogue: finding plugins, refusing those that do not fit, and never stopping for one."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from vbox_pdm import CharStream, Device, DeviceType, Driver, DriverType, PdmError, RegistrationError, hookimpl
from vbox_pdm.catalogue import Catalogue, PluginState


class Nothing(Device[None]):
    pass


class NoDriver(Driver[None]):
    pass


def module(*items: Any, **hooks: Any) -> ModuleType:
    made = ModuleType(f"plugin_{id(items)}_{id(hooks)}")

    @hookimpl
    def vbox_register_devices(register: Callable[[Any], None]) -> None:
        for item in items:
            if not isinstance(item, DriverType):
                register(item)

    @hookimpl
    def vbox_register_drivers(register: Callable[[Any], None]) -> None:
        for item in items:
            if isinstance(item, DriverType):
                register(item)

    made.vbox_register_devices = vbox_register_devices  # type: ignore[attr-defined]
    made.vbox_register_drivers = vbox_register_drivers  # type: ignore[attr-defined]
    for name, value in hooks.items():
        setattr(made, name, value)
    return made


class Distribution:
    version = "1.2"

    def __init__(self, name: str, requires: list[str]) -> None:
        self.name, self.requires = name, requires


def entry(
    name: str, load: Callable[[], Any], requires: list[str] | None = None, dist: str = "some-dist"
) -> Any:
    return SimpleNamespace(name=name, dist=Distribution(dist, requires or []), load=load)


def broken() -> ModuleType:
    raise ImportError("no such library")


def test_device_by_name_loads_only_its_plugin() -> None:
    loaded: list[str] = []

    def load(name: str) -> Callable[[], ModuleType]:
        def action() -> ModuleType:
            loaded.append(name)
            return module(DeviceType(name, Nothing))

        return action

    catalogue = Catalogue([entry("vga", load("vga")), entry("serial", load("serial"))])
    found, plugin = catalogue.device("serial")
    assert (found.name, plugin.distribution, plugin.version) == ("serial", "some-dist", "1.2")
    assert loaded == ["serial"]
    assert [p.state for p in catalogue.plugins] == [PluginState.LOADED, PluginState.FOUND]


def test_type_of_another_name_is_found_by_loading_the_rest() -> None:
    catalogue = Catalogue(
        [entry("board", lambda: module(DeviceType("pit", Nothing), DeviceType("pic", Nothing)))]
    )
    assert catalogue.device("pic")[0].name == "pic"


def test_unknown_names_say_what_to_do() -> None:
    with pytest.raises(PdmError, match="No device is named 'x'") as caught:
        Catalogue([]).device("x")
    assert caught.value.status == "VERR_PDM_DEVICE_NOT_FOUND"
    with pytest.raises(PdmError) as caught:
        Catalogue([]).driver("x")
    assert caught.value.status == "VERR_PDM_DRIVER_NOT_FOUND"


def test_plugin_that_does_not_import_is_listed_and_stops_nobody() -> None:
    catalogue = Catalogue([entry("bad", broken), entry("good", lambda: module(DeviceType("good", Nothing)))])
    catalogue.load_all()
    assert catalogue.device("good")[0].name == "good"
    bad = catalogue.plugins[0]
    assert bad.state is PluginState.UNUSABLE
    assert "no such library" in bad.reason
    assert bad.remedy == "pip install --force-reinstall some-dist"
    with pytest.raises(PdmError, match="unusable: importing it failed") as caught:
        catalogue.device("bad")
    assert caught.value.status == "VERR_PDM_DEVICE_NOT_FOUND"


@pytest.mark.parametrize("wanted", ["vbox-pdm>=2.0", "vbox_pdm<1.0", "VBox.PDM==1.7.*"])
def test_plugin_for_another_contract_is_refused_without_importing_it(wanted: str) -> None:
    catalogue = Catalogue([entry("old", broken, ["attrs", "???", wanted])])
    catalogue.load_all()
    assert catalogue.plugins[0].state is PluginState.UNUSABLE
    assert "offered is 1.0" in catalogue.plugins[0].reason
    assert catalogue.plugins[0].remedy == "pip install --upgrade some-dist vbox-pdm"


@pytest.mark.parametrize(
    "wanted", ["vbox-pdm>=1.0,<2", "vbox-pdm[testing]>=9; extra == 'tests'", "attrs>=99"]
)
def test_plugin_for_this_contract_is_loaded(wanted: str) -> None:
    catalogue = Catalogue([entry("new", lambda: module(DeviceType("new", Nothing)), [wanted])])
    assert catalogue.device("new")[0].name == "new"


def test_name_clash_names_both_distributions_and_forgets_the_second() -> None:
    def second() -> ModuleType:
        return module(DeviceType("other", Nothing), DeviceType("uart", Nothing))

    catalogue = Catalogue(
        [
            entry("a", lambda: module(DeviceType("uart", Nothing)), dist="first-dist"),
            entry("b", second, dist="second-dist"),
        ]
    )
    catalogue.load_all()
    reason = catalogue.plugins[1].reason
    assert "'uart'" in reason
    assert "first-dist" in reason
    assert "second-dist" in reason
    with pytest.raises(PdmError):
        catalogue.device("other")
    assert catalogue.device("uart")[1].distribution == "first-dist"


@pytest.mark.parametrize(
    ("plugin", "reason"),
    [
        (ModuleType("empty"), "registers nothing"),
        (module("text"), "registered a str"),
    ],
)
def test_plugin_that_registers_wrongly_is_unusable(plugin: ModuleType, reason: str) -> None:
    catalogue = Catalogue([entry("odd", lambda: plugin)])
    catalogue.load_all()
    assert catalogue.plugins[0].state is PluginState.UNUSABLE
    assert reason in catalogue.plugins[0].reason


def test_plugin_with_vm_hooks_only_is_loaded_and_hooked() -> None:
    @hookimpl
    def pdm_wrap_region(instance: Any, region: Any) -> Any:
        return None

    plugin = ModuleType("tracer")
    plugin.pdm_wrap_region = pdm_wrap_region  # type: ignore[attr-defined]
    catalogue = Catalogue([entry("tracer", lambda: plugin)])
    catalogue.load_all()
    assert catalogue.plugins[0].state is PluginState.LOADED
    assert len(catalogue.manager.hook.pdm_wrap_region.get_hookimpls()) == 1


def test_driver_is_found_by_name() -> None:
    kind = DriverType("char", NoDriver, serves=CharStream)
    assert Catalogue([entry("char", lambda: module(kind))]).driver("char")[0] is kind


FILE = """
from vbox_pdm import Device, DeviceType, hookimpl
contract = "{contract}"
class Thing(Device): pass
@hookimpl
def vbox_register_devices(register):
    register(DeviceType("thing", Thing))
"""


def test_single_file_is_a_plugin(tmp_path: Path) -> None:
    path = tmp_path / "thing_plugin.py"
    path.write_text(FILE.format(contract="1.0"))
    catalogue = Catalogue([])
    plugin = catalogue.add_file(path)
    assert plugin.state is PluginState.LOADED
    assert catalogue.device("thing")[1] is plugin
    sys.modules.pop("vbox_plugin_file_thing_plugin", None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (FILE.format(contract="2.0"), "it wants contract 2.0, offered is 1.0"),
        (FILE.format(contract="1.9"), "it wants contract 1.9"),
        (FILE.format(contract="new"), "it wants contract new"),
        ("x = 1", "does not say which contract"),
        ('contract = "1.0"\nraise OSError("disk")', "OSError: disk"),
        ("def (", "no Python file"),
    ],
)
def test_single_file_that_cannot_be_used_says_why(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad_plugin.py"
    path.write_text(text)
    with pytest.raises(PdmError) as caught:
        Catalogue([]).add_file(path)
    assert message in str(caught.value)


def test_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(PdmError) as caught:
        Catalogue([]).add_file(tmp_path / "none.py")
    assert caught.value.status == "VERR_FILE_NOT_FOUND"


@pytest.mark.parametrize("name", ["", "x" * 32, "a/b", "é", "a.b"])
def test_type_of_a_wrong_name_is_refused(name: str) -> None:
    with pytest.raises(RegistrationError):
        DeviceType(name, Nothing)
    with pytest.raises(RegistrationError):
        DriverType(name, NoDriver, serves=CharStream)


def test_type_that_allows_no_instance_is_refused() -> None:
    with pytest.raises(RegistrationError):
        DeviceType("x", Nothing, max_instances=0)


def test_generation_changes_only_once_the_plugin_is_there() -> None:
    # Another thread that sees the number looks at once, and not again.
    manager = Catalogue([]).manager
    seen = []

    class Plugin:
        def __dir__(self) -> list[str]:
            seen.append(manager.generation)
            return []

    before = manager.generation
    plugin = Plugin()
    manager.register(plugin)
    registered = manager.generation
    manager.unregister(plugin)

    assert set(seen) == {before}
    assert before < registered < manager.generation
