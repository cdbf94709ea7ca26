"""`vbox new-plugin`: a new plugin, as a distribution of its own that can be built, tested and installed.

It is made of the files `*.in` in vbox_vmm/templates/plugin, filled in by string.Template.  Where several
folders have a file, the one nearest to kind and layer counts: driver/Media, then driver, then the top.
"""

from __future__ import annotations

import ast
import builtins
import errno
import importlib.resources
import os
import re
import shlex
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template

import click
import importlib_metadata
from attrs import frozen

import vbox_pdm
from vbox_pdm.catalogue import Catalogue
from vbox_pdm.device import MAX_NAME, DeviceType
from vbox_pdm.driver import DriverType
from vbox_pdm.errors import PdmError
from vbox_vmm.frontends.messages import logging_to_stderr
from vbox_vmm.frontends.options import load_catalogue

KINDS = ("device", "pci", "driver", "filter")
LAYERS = ("CharStream", "Keyboard", "Mouse", "Media", "Drive", "Display")
"""The layers of the contract; each has a template for a driver and one for a filter."""
WITH_LAYER = ("driver", "filter")
TEMPLATES = importlib.resources.files("vbox_vmm") / "templates" / "plugin"

_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_-]*[A-Za-z0-9])?", re.ASCII)
_TAKEN_WORDS = {*vbox_pdm.__all__, *dir(builtins), "Callable", "ClassVar", "Command", "Config", "Registers"}
"""What a class may not be named, because the templates use it for something else."""
_RESERVED = ("all", "none", "text", "png")
"""What a type may not be named, because an option takes it for something else."""
_DISK = "Devices/piix3ide/0/LUN#0"
_RUN: Mapping[tuple[str, str], Sequence[str]] = {
    ("device", ""): ("--device", "{}"),
    ("pci", ""): ("--device", "{}"),
    ("driver", "CharStream"): ("--serial", "{}"),
    ("driver", "Keyboard"): ("--set", "Devices/pckbd/0/LUN#0/Driver={}"),
    ("driver", "Mouse"): ("--set", "Devices/pckbd/0/LUN#1/Driver={}"),
    ("driver", "Media"): (
        "--set", f"{_DISK}/Driver=ata-disk",
        "--set", f"{_DISK}/AttachedDriver/Driver={{}}",
    ),
    ("driver", "Drive"): ("--set", f"{_DISK}/Driver={{}}"),
    ("driver", "Display"): ("--display", "{}"),
    ("filter", "CharStream"): ("--serial", "stdio", "--filter", "serial#0/lun0={}"),
    ("filter", "Keyboard"): ("--filter", "pckbd#0/lun0={}"),
    ("filter", "Mouse"): ("--filter", "pckbd#0/lun1={}"),
    ("filter", "Media"): ("--filter", "piix3ide#0/lun0={}"),
    ("filter", "Drive"): ("--filter", "piix3ide#0/lun0={}"),
    ("filter", "Display"): ("--filter", "vga#0/lun0={}"),
}  # fmt: skip
"""(kind, layer) -> the options of `vbox run` that put the type named {} into a machine."""
_STATUS = {
    errno.ENOENT: "VERR_PATH_NOT_FOUND",
    errno.ENOTDIR: "VERR_PATH_NOT_FOUND",
    errno.EEXIST: "VERR_ALREADY_EXISTS",
    errno.ENOTEMPTY: "VERR_DIR_NOT_EMPTY",
    errno.ENAMETOOLONG: "VERR_FILENAME_TOO_LONG",
    errno.ENOSPC: "VERR_DISK_FULL",
    errno.EROFS: "VERR_WRITE_PROTECT",
}


@frozen
class Names:
    """What follows from the name of a type: `my-uart` is MyUart in the package vbox_plugin_my_uart of the
    distribution vbox-plugin-my-uart."""

    type: str
    distribution: str
    package: str
    class_name: str

    @property
    def short(self) -> str:
        """The package without its prefix: what its test is named after."""
        return self.package.removeprefix("vbox_plugin_")


def names_for(name: str) -> Names:
    """PdmError VERR_INVALID_NAME."""
    if len(name) > MAX_NAME or _NAME.fullmatch(name) is None:
        raise PdmError(
            "VERR_INVALID_NAME",
            f"{name!r} is no name for a plugin",
            f"Use 1 to {MAX_NAME} letters, digits, '_' or '-', the first and the last a letter or digit; "
            "my-uart gives the package vbox_plugin_my_uart with the class MyUart",
        )
    if name in _RESERVED:
        raise PdmError(
            "VERR_INVALID_NAME",
            f"A plugin named {name!r} could not be told from what '{name}' means to `vbox`",
            f"Choose another name than {', '.join(_RESERVED)}",
        )
    words = re.split("[-_]+", name)
    distribution = "-".join(("vbox-plugin", *(word.lower() for word in words)))
    class_name = "".join(word[0].upper() + word[1:] for word in words)
    if class_name[0].isdigit() or class_name in _TAKEN_WORDS:
        class_name = f"My{class_name}"
    return Names(name, distribution, distribution.replace("-", "_"), class_name)


def check_free(names: Names, kind: str, catalogue: Catalogue) -> None:
    """Whether nothing that is installed has these names.

    PdmError VERR_PDM_DEVICE_NAME_CLASH, VERR_PDM_DRIVER_NAME_CLASH, VERR_ALREADY_EXISTS."""
    remedy = "Choose another name; `vbox plugins` lists those that are taken"
    catalogue.load_all()
    for plugin in catalogue.plugins:
        types: list[DeviceType | DriverType] = [*plugin.devices, *plugin.drivers]
        if names.type in (plugin.name, *(each.name for each in types)):
            raise PdmError(
                f"VERR_PDM_{'DRIVER' if kind in WITH_LAYER else 'DEVICE'}_NAME_CLASH",
                f"The name '{names.type}' belongs to {plugin.distribution} already",
                remedy,
            )
    try:
        importlib_metadata.distribution(names.distribution)
    except importlib_metadata.PackageNotFoundError:
        return
    raise PdmError(
        "VERR_ALREADY_EXISTS",
        f"'{names.type}' would be the distribution {names.distribution}, which is installed already",
        remedy,
    )


def render(names: Names, kind: str, layer: str = "") -> dict[str, str]:
    """All files of a plugin: path -> content.  `layer` is for drivers and filters."""
    module = _template("plugin.py", kind, layer)
    summary = (ast.get_docstring(ast.parse(module.safe_substitute(class_name="X"))) or "").partition("\n")[0]
    major = vbox_pdm.CONTRACT.partition(".")[0]
    values = {
        "name": names.type,
        "distribution": names.distribution,
        "package": names.package,
        "class_name": names.class_name,
        "layer": layer,
        "summary": summary,
        "contract": f">={vbox_pdm.CONTRACT},<{int(major) + 1}",
        "run": run_command(names, kind, layer),
    }
    templates = {
        "pyproject.toml": _template("pyproject.toml", kind, layer),
        "README.md": _template("README.md", kind, layer),
        f"src/{names.package}/__init__.py": module,
        f"src/{names.package}/py.typed": Template(""),
        f"tests/test_{names.short}.py": _template("test_plugin.py", kind, layer),
    }
    return {path: template.substitute(values) for path, template in templates.items()}


def run_command(names: Names, kind: str, layer: str = "") -> str:
    """`vbox run` with the new type, and something to start from: where it is the disk, that is a CD."""
    words = [word.format(names.type) for word in _RUN[kind, layer]]
    start = ("--cdrom", "installer.iso") if any(_DISK in word for word in words) else ("--disk", "pc.img")
    return shlex.join(["vbox", "run", *start, *words])


def write(files: Mapping[str, str], folder: Path) -> None:
    """Write all files, or none: they are made beside, and renamed when they are complete.

    `folder` must not exist, or be empty.  PdmError VERR_DIR_NOT_EMPTY, VERR_NOT_A_DIRECTORY, and others for
    what the file system refuses."""
    remedy = "Give another folder: --output DIR"
    try:
        there = folder.exists()
        if there and not folder.is_dir():
            raise PdmError("VERR_NOT_A_DIRECTORY", f"{folder} is there already, and no folder", remedy)
        if there and any(folder.iterdir()):
            raise PdmError("VERR_DIR_NOT_EMPTY", f"The folder {folder} is not empty", remedy)
        # An empty folder is filled, not replaced: it may be somebody's current one.
        where = folder if there else folder.parent
        with tempfile.TemporaryDirectory(prefix=".new-plugin-", dir=where) as beside:
            made = Path(beside, "made")
            for name, text in files.items():
                path = made / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8")
            if there:
                for path in sorted(made.iterdir()):
                    path.rename(folder / path.name)
            else:
                os.rename(made, folder)
    except OSError as error:
        status = _STATUS.get(error.errno or 0, "VERR_ACCESS_DENIED")
        raise PdmError(
            status,
            f"Cannot write the plugin to {folder}: {error.strerror}",
            f"Check that {folder.parent} is a folder that you may write to, or give another: --output DIR",
        ) from None


def _template(name: str, kind: str, layer: str) -> Template:
    """The template nearest to kind and layer."""
    top = TEMPLATES / kind
    for folder in (*((top / layer,) if layer else ()), top, TEMPLATES):
        file = folder / f"{name}.in"
        if file.is_file():
            return Template(file.read_text(encoding="utf-8"))
    raise FileNotFoundError(f"no template {name}.in for {kind} {layer}")


def _check_kind(kind: str, layer: str | None) -> str:
    """The layer to use.  PdmError VERR_NOT_SUPPORTED; click.BadParameter for what is wrong usage."""
    if kind == "usb":
        raise PdmError(
            "VERR_NOT_SUPPORTED",
            f"Contract {vbox_pdm.CONTRACT} has no USB devices, so there is no plugin of kind 'usb'",
            f"The kinds are {', '.join(KINDS)}",
        )
    if kind not in KINDS:
        raise click.BadParameter(f"'{kind}' is none of {', '.join(KINDS)}", param_hint="'--kind'")
    if kind in WITH_LAYER:
        return layer or LAYERS[0]
    if layer is not None:
        raise click.BadParameter(
            f"a {kind} serves no layer; --kind {' and --kind '.join(WITH_LAYER)} do", param_hint="'--layer'"
        )
    return ""


@click.command("new-plugin", short_help="Write a new plugin, to begin with.")
@click.argument("name")
@click.option(
    "--kind",
    default=KINDS[0],
    metavar="|".join(KINDS),
    help="device: ports, an interrupt, a timer.  pci: a PCI function with registers in memory, DMA and an "
    f"interrupt.  driver: what hangs below a device.  filter: stands in between.  [default: {KINDS[0]}]",
)
@click.option(
    "--layer",
    type=click.Choice(LAYERS),
    help=f"What a driver or a filter talks.  [default: {LAYERS[0]}]",
)
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Where to: a folder that does not exist, or is empty.  [default: ./NAME]",
)
@click.option("--debug", is_flag=True, help="Tracebacks for errors.")
def new_plugin(name: str, kind: str, layer: str | None, output: Path | None, debug: bool) -> None:
    """Write a new plugin: a distribution with a device or a driver that works, its tests, and all that it
    needs to be built and installed.

    NAME is that of the type, as users write it.  The package is named after it: my-uart gives
    vbox_plugin_my_uart, in the distribution vbox-plugin-my-uart."""
    with logging_to_stderr(None, debug):
        chosen = _check_kind(kind, layer)
        names = names_for(name)
        check_free(names, kind, load_catalogue())
        folder = Path(name) if output is None else output
        files = render(names, kind, chosen)
        write(files, folder)
    click.echo(f"{folder}:")
    for path in files:
        click.echo(f"  {path}")
    where = str(folder) if folder.is_absolute() else os.path.join(".", folder)
    click.echo("\nNext:")
    click.echo(f"  {shlex.join(['pip', 'install', '-e', f'{where}[test]'])}")
    click.echo(f"  {shlex.join(['pytest', where])}")
    click.echo(f"  {run_command(names, kind, chosen)}")
