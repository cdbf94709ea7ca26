"""`vbox new-plugin`: what it writes is sound by every tool that an author uses; what it refuses is told."""

from __future__ import annotations

import errno
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from attrs import frozen
from click.testing import Result

from vbox_pdm import PdmError
from vbox_pdm.catalogue import Catalogue
from vbox_vmm import cfgm_xml, machine_boot
from vbox_vmm.frontends import new_plugin
from vbox_vmm.rem.portable import layout
from vbox_vmm.vm import Vm

Vbox = Callable[..., Result]
VARIANTS = [
    ("device", ""), ("pci", ""),
    *((kind, layer) for kind in new_plugin.WITH_LAYER for layer in new_plugin.LAYERS),
]  # fmt: skip
BUILD = """
import sys
from hatchling.builders.wheel import WheelBuilder
for project in sys.argv[2:]:
    next(WheelBuilder(project).build(directory=sys.argv[1], versions=["standard"]))
"""
"""What pip asks hatchling for, in one process for all."""


PYTEST = ("pytest", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir")
"""All of them in one run, without the settings that each has."""


def type_name(kind: str, layer: str) -> str:
    return f"new-{kind}-{layer}".rstrip("-")


@frozen
class Made:
    """All variants.  `projects` has a folder for each, by its name; `site` is where they are installed."""

    projects: Path
    wheels: dict[str, Path]
    site: Path
    environment: dict[str, str]

    @property
    def tests(self) -> list[Path]:
        return sorted(self.projects.glob("*/tests/*.py"))

    def python(self, *words: object, cwd: Path | None = None) -> str:
        """Run `python -m`, which must succeed; its output."""
        return python("-m", *words, environment=self.environment, cwd=cwd)


def passed(output: str) -> int:
    """How many tests pytest says have passed."""
    found = re.search(r"(\d+) passed", output)
    return 0 if found is None else int(found[1])


def python(*words: object, environment: dict[str, str], cwd: Path | None = None) -> str:
    done = subprocess.run(
        [sys.executable, *map(str, words)],
        env=environment,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, f"{words[:2]} failed:\n{done.stdout}"
    return done.stdout


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, search_path: list[str]) -> Made:
    """What pip installs of a wheel are its files, so unpacking them into a folder on the path does."""
    top = tmp_path_factory.mktemp("new-plugins")
    projects, site = top / "projects", top / "site"
    projects.mkdir()
    packages = {}
    for kind, layer in VARIANTS:
        names = new_plugin.names_for(type_name(kind, layer))
        packages[names.type] = names.package
        new_plugin.write(new_plugin.render(names, kind, layer), projects / names.type)
    environment = {name: text for name, text in os.environ.items() if name != "VBOX_BENCH"}
    environment["PYTHONPATH"] = os.pathsep.join([str(site), *search_path])
    python("-c", BUILD, top / "wheels", *projects.iterdir(), environment=environment)
    wheels = {}
    for name, package in packages.items():
        (wheels[name],) = (top / "wheels").glob(f"{package}-*.whl")
        with zipfile.ZipFile(wheels[name]) as wheel:
            wheel.extractall(site)
    return Made(projects, wheels, site, environment)


# --- what is written


@pytest.mark.parametrize(("kind", "layer"), VARIANTS)
def test_new_plugin_writes_the_files_and_tells_what_is_next(
    vbox: Vbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, layer: str
) -> None:
    monkeypatch.chdir(tmp_path)

    result = vbox("new-plugin", "my-thing2", "--kind", kind, *(["--layer", layer] if layer else []))

    assert result.exit_code == 0, result.stderr
    written = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
    assert written == {
        "my-thing2/pyproject.toml",
        "my-thing2/README.md",
        "my-thing2/src/vbox_plugin_my_thing2/__init__.py",
        "my-thing2/src/vbox_plugin_my_thing2/py.typed",
        "my-thing2/tests/test_my_thing2.py",
    }
    assert all(name.removeprefix("my-thing2/") in result.stdout for name in written)
    last = [line.strip() for line in result.stdout.splitlines()[-3:]]
    assert last[:2] == ["pip install -e './my-thing2[test]'", "pytest ./my-thing2"]
    assert last[2].startswith("vbox run ")
    assert "my-thing2" in last[2]
    assert last[2] in Path("my-thing2/README.md").read_text()


def test_help_lists_the_kinds_and_says_how_names_are_made(vbox: Vbox) -> None:
    result = vbox("new-plugin", "--help")

    assert result.exit_code == 0
    for word in (*new_plugin.KINDS, *new_plugin.LAYERS, "vbox_plugin_my_uart", "--output"):
        assert word in result.stdout


def test_new_plugin_without_options_is_a_device(vbox: Vbox, tmp_path: Path) -> None:
    result = vbox("new-plugin", "thing", "--output", tmp_path / "thing")

    assert result.exit_code == 0, result.stderr
    text = (tmp_path / "thing/src/vbox_plugin_thing/__init__.py").read_text()
    assert "DeviceType" in text
    assert "helpers.map_ports" in text


def test_driver_without_a_layer_is_a_character_stream(vbox: Vbox, tmp_path: Path) -> None:
    vbox("new-plugin", "thing", "--kind", "driver", "--output", tmp_path / "thing")

    assert "serves=CharStream" in (tmp_path / "thing/src/vbox_plugin_thing/__init__.py").read_text()


def test_project_is_named_after_the_type_and_wants_this_contract(vbox: Vbox, tmp_path: Path) -> None:
    vbox("new-plugin", "My_Thing-2", "--output", tmp_path / "thing")

    about = tomllib.loads((tmp_path / "thing/pyproject.toml").read_text())
    assert about["project"]["name"] == "vbox-plugin-my-thing-2"
    assert about["project"]["license"] == "MIT"
    assert "vbox-pdm>=1.0,<2" in about["project"]["dependencies"]
    assert about["project"]["optional-dependencies"] == {"test": ["vbox-pdm[testing]"]}
    assert about["project"]["entry-points"] == {"vbox.plugins": {"My_Thing-2": "vbox_plugin_my_thing_2"}}
    assert about["project"]["description"].startswith("An alarm")
    assert "class MyThing2(" in (tmp_path / "thing/src/vbox_plugin_my_thing_2/__init__.py").read_text()


@pytest.mark.parametrize(
    ("name", "package", "class_name"),
    [
        ("uart", "vbox_plugin_uart", "Uart"),
        ("myUart", "vbox_plugin_myuart", "MyUart"),
        ("a--b__c", "vbox_plugin_a_b_c", "ABC"),
        ("3com", "vbox_plugin_3com", "My3com"),
        ("true", "vbox_plugin_true", "MyTrue"),  # not Python's True
        ("device", "vbox_plugin_device", "MyDevice"),  # not the contract's Device
        ("state", "vbox_plugin_state", "MyState"),
    ],
)
def test_package_and_class_follow_from_the_name(name: str, package: str, class_name: str) -> None:
    names = new_plugin.names_for(name)

    assert (names.package, names.class_name) == (package, class_name)


def test_empty_folder_is_filled_where_it_is(
    vbox: Vbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    monkeypatch.chdir(folder)
    before = folder.stat().st_ino

    result = vbox("new-plugin", "thing", "--output", ".")

    assert result.exit_code == 0, result.stderr
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "pyproject.toml", "src", "tests"]
    assert folder.stat().st_ino == before


# --- what its author does with it


def test_plugins_are_clean_for_ruff_whatever_the_name_is(made: Made, tmp_path: Path) -> None:
    for kind, layer in VARIANTS:
        for name in ("a", "true", "n" * 31, "a-b-" * 7 + "abc"):
            names = new_plugin.names_for(name)
            folder = tmp_path / f"{kind}{layer}-{name}"
            new_plugin.write(new_plugin.render(names, kind, layer), folder)

    made.python("ruff", "check", "--no-cache", made.projects, tmp_path)
    made.python("ruff", "format", "--no-cache", "--check", made.projects, tmp_path)


def test_plugins_are_clean_for_strict_mypy(made: Made, tmp_path: Path) -> None:
    sources = [*made.projects.glob("*/src/*"), *made.tests]

    made.python("mypy", "--strict", "--cache-dir", tmp_path, *sources, cwd=tmp_path)


def test_wheels_have_the_package_its_types_and_its_entry_point(made: Made) -> None:
    for name, path in made.wheels.items():
        package = new_plugin.names_for(name).package
        with zipfile.ZipFile(path) as wheel:
            (info,) = {entry.split("/")[0] for entry in wheel.namelist() if ".dist-info/" in entry}
            code = {entry for entry in wheel.namelist() if not entry.startswith(info)}
            entry_points = wheel.read(f"{info}/entry_points.txt").decode()
            metadata = wheel.read(f"{info}/METADATA").decode()

        assert code == {f"{package}/__init__.py", f"{package}/py.typed"}
        assert entry_points.split("\n")[:2] == ["[vbox.plugins]", f"{name} = {package}"]
        assert "License-Expression: MIT" in metadata
        assert "Requires-Dist: vbox-pdm<2,>=1.0" in metadata


def test_wheel_that_pip_builds_is_the_same(made: Made, tmp_path: Path) -> None:
    name = type_name("device", "")

    made.python(
        "pip", "wheel", "-q", "--disable-pip-version-check",
        "--no-index", "--no-deps", "--no-build-isolation", "-w", tmp_path, made.projects / name,
    )  # fmt: skip

    (built,) = tmp_path.glob("*.whl")
    assert built.name == made.wheels[name].name
    assert built.read_bytes() == made.wheels[name].read_bytes()


def test_plugins_keep_the_contract_and_pass_their_own_tests(made: Made, tmp_path: Path) -> None:
    kit = [word for kind, layer in VARIANTS for word in ("--pdm-device", type_name(kind, layer))]

    output = made.python(*PYTEST, tmp_path, *made.tests, *kit, "--pdm-budget", 0.5)

    assert passed(output) >= 3 * len(VARIANTS)


def test_plugins_pass_their_own_tests_on_the_kernel(made: Made, tmp_path: Path) -> None:
    output = made.python(*PYTEST, tmp_path, *made.tests, "--vbox-bench", "kernel")

    assert passed(output) >= 2 * len(VARIANTS)


@pytest.mark.parametrize("name", ["new-device", "new-filter-Media"])
def test_pytest_without_options_runs_the_tests_and_the_kit(made: Made, name: str) -> None:
    output = made.python(
        "pytest", "-v", "--pdm-budget", 1, "-p", "no:cacheprovider", cwd=made.projects / name
    )

    assert f"conformance[{name}] PASSED" in output
    assert passed(output) >= 4


@pytest.mark.long
def test_plugins_keep_the_contract_as_long_as_the_kit_usually_tries(made: Made) -> None:
    made.python("vbox_pdm.testing.conformance", *(type_name(kind, layer) for kind, layer in VARIANTS))


def test_plugins_are_listed_with_their_configuration(made: Made) -> None:
    plugins = {row["name"]: row for row in json.loads(made.python("vbox_vmm", "plugins", "--json"))}
    types = {row["name"]: row for row in json.loads(made.python("vbox_vmm", "devices", "--json"))}

    for kind, layer in VARIANTS:
        name = type_name(kind, layer)
        assert plugins[name]["state"] == "loaded", plugins[name]
        assert plugins[name]["contract"]
        assert types[name]["class"] == (layer or "MISC")
        assert types[name]["summary"]
        assert all(key["help"] for key in types[name]["keys"])


def test_run_commands_make_a_machine_with_the_plugin(
    made: Made, vbox: Vbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(made.site))
    monkeypatch.chdir(tmp_path)
    for image in ("pc.img", "installer.iso"):
        Path(image).write_bytes(bytes(1 << 20))

    for kind, layer in VARIANTS:
        name = type_name(kind, layer)
        words = shlex.split(new_plugin.run_command(new_plugin.names_for(name), kind, layer))
        result = vbox("machine", "--output", "machine.xml", *words[2:])
        assert result.exit_code == 0, result.stderr
        tree = cfgm_xml.read("machine.xml")
        machine_boot.set_firmware(tree, machine_boot.NONE)  # its images need not be installed here
        vm = Vm(tree, Catalogue(), with_engine=False)
        listed = vm.pdm.info_items()["pdm"]("")
        vm.destroy()
        assert f"{name}#0" in listed


# --- what is refused


def assert_refused(result: Result, code: int, *patterns: str) -> None:
    text = result.stderr
    assert result.exit_code == code, text
    assert text.startswith("vbox: ")
    assert text.count("\n") == 1, text
    assert result.stdout == ""
    for pattern in patterns:
        assert re.search(pattern, text), text


@contextmanager
def as_nobody() -> Iterator[None]:
    """Without the rights of root, who may write everywhere."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(before)


@pytest.mark.parametrize("name", ["all", "none"])
def test_name_that_is_a_word_of_an_option_is_refused(vbox: Vbox, tmp_path: Path, name: str) -> None:
    result = vbox("new-plugin", name, "--output", tmp_path / "new")

    assert_refused(result, 1, "VERR_INVALID_NAME", f"'{name}'", "another name")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["", " ", "a b", "a.b", "a/b", "../x", "_a", "a-", "ä", "x" * 32, "a\n"])
def test_name_that_is_none_is_refused_with_the_rule(vbox: Vbox, tmp_path: Path, name: str) -> None:
    result = vbox("new-plugin", name, "--output", tmp_path / "new")

    assert_refused(result, 1, "VERR_INVALID_NAME", r"1 to 31 letters", "vbox_plugin_my_uart")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "kind", "patterns"),
    [
        ("serial", "device", ["'serial' belongs to vbox-plugin-pc", "VERR_PDM_DEVICE_NAME_CLASH"]),
        ("stdio", "filter", ["'stdio' belongs to vbox-plugin-host", "VERR_PDM_DRIVER_NAME_CLASH"]),
        ("rem", "device", ["'rem' belongs to vbox-vmm", "VERR_PDM_DEVICE_NAME_CLASH"]),
        ("PC", "device", ["distribution vbox-plugin-pc, which is installed", "VERR_ALREADY_EXISTS"]),
    ],
)
def test_name_that_is_taken_is_refused_with_its_owner(
    vbox: Vbox, tmp_path: Path, name: str, kind: str, patterns: list[str]
) -> None:
    result = vbox("new-plugin", name, "--kind", kind, "--output", tmp_path / "new")

    assert_refused(result, 1, *patterns, "another name", "vbox plugins")
    assert not list(tmp_path.iterdir())


def test_usb_is_refused_with_the_kinds_that_exist(vbox: Vbox, tmp_path: Path) -> None:
    result = vbox("new-plugin", "thing", "--kind", "usb", "--output", tmp_path / "new")

    assert_refused(result, 1, "'usb'", "VERR_NOT_SUPPORTED", "device, pci, driver, filter")


def test_unknown_kind_is_wrong_usage(vbox: Vbox, tmp_path: Path) -> None:
    result = vbox("new-plugin", "thing", "--kind", "devcie", "--output", tmp_path / "new")

    assert_refused(result, 2, "'devcie'", "device, pci, driver, filter", "vbox new-plugin --help")


def test_unknown_layer_is_wrong_usage(vbox: Vbox, tmp_path: Path) -> None:
    result = vbox(
        "new-plugin", "thing", "--kind", "driver", "--layer", "Network", "--output", tmp_path / "new"
    )

    assert_refused(result, 2, "'Network'", "CharStream", "Media")


def test_device_with_a_layer_is_wrong_usage(vbox: Vbox, tmp_path: Path) -> None:
    result = vbox("new-plugin", "thing", "--layer", "Media", "--output", tmp_path / "new")

    assert_refused(result, 2, "--layer", "a device serves no layer", "--kind driver")


def test_folder_with_something_in_it_is_refused_and_not_touched(vbox: Vbox, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / ".keep").write_text("mine")

    result = vbox("new-plugin", "thing", "--output", tmp_path / "new")

    assert_refused(result, 1, f"{tmp_path}/new is not empty", "VERR_DIR_NOT_EMPTY", "--output DIR")
    assert [path.name for path in (tmp_path / "new").iterdir()] == [".keep"]
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_folder_that_is_a_file_is_refused(vbox: Vbox, tmp_path: Path) -> None:
    (tmp_path / "new").write_text("mine")

    result = vbox("new-plugin", "thing", "--output", tmp_path / "new")

    assert_refused(result, 1, f"{tmp_path}/new", "VERR_NOT_A_DIRECTORY", "--output DIR")
    assert (tmp_path / "new").read_text() == "mine"


@pytest.mark.parametrize("parent", ["missing", "file"])
def test_folder_in_what_is_no_folder_is_refused(vbox: Vbox, tmp_path: Path, parent: str) -> None:
    (tmp_path / "file").write_text("mine")

    result = vbox("new-plugin", "thing", "--output", tmp_path / parent / "new")

    assert_refused(result, 1, f"{tmp_path}/{parent}/new", "VERR_PATH_NOT_FOUND", f"{tmp_path}/{parent} is")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_folder_that_may_not_be_written_is_refused(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    files = new_plugin.render(new_plugin.names_for("thing"), "device")

    with as_nobody(), pytest.raises(PdmError, match="Permission denied") as error:
        new_plugin.write(files, closed / "new")

    assert error.value.status == "VERR_ACCESS_DENIED"
    assert str(closed) in str(error.value)
    assert not list(closed.iterdir())


@pytest.mark.parametrize("there", [False, True])
def test_disk_that_is_full_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    folder = tmp_path / "new"
    if there:
        folder.mkdir()
    real = Path.write_text

    def write_text(path: Path, *words: object, **more: object) -> int:
        if path.name == "py.typed":
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(path, *words, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "write_text", write_text)
    files = new_plugin.render(new_plugin.names_for("thing"), "device")

    with pytest.raises(PdmError, match="No space left") as error:
        new_plugin.write(files, folder)

    assert error.value.status == "VERR_DISK_FULL"
    assert list(tmp_path.rglob("*")) == ([folder] if there else [])


# --- the templates


def test_every_layer_of_the_contract_has_templates() -> None:
    import vbox_pdm

    layers = {each.name for each in vars(vbox_pdm).values() if isinstance(each, vbox_pdm.Layer)}

    assert layers == set(new_plugin.LAYERS)


def test_templates_and_the_layout_of_unicorn_are_package_data() -> None:
    root = Path(new_plugin.__file__).parents[3]
    about = tomllib.loads((root / "pyproject.toml").read_text())
    patterns = about["tool"]["setuptools"]["package-data"]["vbox_vmm"]
    package = root / "src" / "vbox_vmm"

    templates = {path for path in (package / "templates").rglob("*") if path.is_file()}
    assert templates | {layout.HEADER} == {path for pattern in patterns for path in package.glob(pattern)}
