"""The pages about the contract: hooks, types, helpers, layers, regions, registers, state and the rest.

A page names the classes that it explains, in an order that can be read; their members come from the
code.  `test_docs_reference.py` sees that no public name of `vbox_pdm` is left out.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Mapping
from typing import Any

from refpages import samples, source
from refpages.author import CALL, Author
from refpages.markdown import Page, code
from vbox_pdm import (
    config,
    device,
    display,
    drive,
    driver,
    engine,
    errors,
    helpers,
    hookspecs,
    instance,
    layers,
    links,
    media,
    pci,
    readout,
    regions,
    registers,
    state,
    timers,
    version,
    workers,
)

_STATUS = re.compile(r"VERR_[A-Z0-9_*]+")
_HOSTS_OWN = ("call", "implements", "state_class")


def hooks(author: Author) -> None:
    """Catalogue, VM, life of an instance."""
    page = author.page("hooks.md", "Hooks", "Every hook that a plugin may implement, and when it is called.")
    page.text(
        "A hook of the catalogue or of the VM is a function of the plugin's module, marked `@hookimpl`. "
        "Those of an instance are methods of its class and need no mark."
    )
    page.define("hookimpl")
    for specs, title in (
        (hookspecs.CatalogueSpecs, "The catalogue"),
        (hookspecs.VmSpecs, "The VM"),
        (hookspecs.InstanceSpecs, "The life of an instance"),
    ):
        page.heading(2, title, specs.__name__)
        page.text(author.must(source.docstring(specs), specs.__name__))
        page.define(*(member.name for member in source.methods(specs)))
        author.body(page, specs)
    page.heading(2, "What hooks are given")
    author.class_section(page, 3, instance.Instance, but=(*_HOSTS_OWN, "phase", "manager"))
    author.class_section(page, 3, links.Link, but=("set_upper", "set_lower"))


def types(author: Author) -> None:
    """What a plugin registers, and its errors."""
    page = author.page(
        "types.md", "Types", "What a plugin registers: devices, drivers, and the errors that they raise."
    )
    page.define("CONTRACT")
    page.text(
        f"The version of the contract is {version.CONTRACT}. "
        + author.must(_module_text(version), "vbox_pdm.version").partition("major.minor.")[2].strip()
    )
    page.heading(2, "Devices")
    page.text(_body(device))
    author.class_section(page, 3, device.DeviceType)
    author.class_section(page, 3, device.Device)
    author.class_section(page, 3, device.DeviceClass)
    page.heading(2, "Drivers")
    page.text(_body(driver))
    author.class_section(page, 3, driver.DriverType)
    author.class_section(page, 3, driver.Driver)
    page.heading(2, "Errors")
    page.text(_body(errors))
    author.class_section(page, 3, errors.PdmError)
    rows = []
    for error in (errors.ConfigError, errors.RegistrationError, errors.StateError):
        page.define(error.__name__)
        rows.append((code(error.__name__), author.must(source.docstring(error), error.__name__)))
    page.table(("PdmError", "What it says"), rows)


def host_helpers(author: Author) -> None:
    """What an instance may ask of its host."""
    page = author.page(
        "helpers.md",
        "Helpers",
        "What an instance may ask of its host: who has it, what it does, how it fails.",
    )
    page.text(_body(helpers))
    for owner, title in (
        (helpers.Helpers, "Devices and drivers"),
        (helpers.DeviceHelpers, "Devices"),
        (helpers.DriverHelpers, "Drivers"),
    ):
        author.class_section(page, 2, owner, title=title, prefix="helpers")
    page.heading(2, "What helpers hand out")
    page.text("Timers have [a page of their own](timers.md), so have [queues and workers](queues.md).")
    handles = (helpers.Mapping, helpers.IrqLine, helpers.Dma, helpers.DmaChannel)
    for handle in handles:
        author.class_section(page, 3, handle)
    author.aliases(page, "vbox_pdm.helpers", ("DmaTransfer",))
    page.heading(2, "What helpers are given")
    for each in (helpers.ShadowMode, helpers.ResetSource, helpers.RuntimeErrorFlags):
        author.class_section(page, 3, each)
    page.heading(2, "Roles")
    page.text(
        "What a device that plays a role offers to its host, and what it gets for it. The host calls it "
        "under the lock of the VM."
    )
    roles = (helpers.Pic, helpers.PicHelpers, helpers.PciBusHelpers, helpers.PciRouter)
    for role in (*roles, helpers.Rtc, helpers.Dmac, helpers.FpuErrors):
        author.class_section(page, 3, role)
    page.heading(2, "Errors")
    page.text("The status names that helpers raise on purpose, and which of them do.")
    page.table(("Status", "Raised by"), _raised())


def _raised() -> list[tuple[str, str]]:
    """Status names in the docstrings of helpers."""
    found: dict[str, list[str]] = {}
    for owner in (helpers.Helpers, helpers.DeviceHelpers, helpers.DriverHelpers, helpers.Mapping):
        for member in source.methods(owner):
            spoken = f"{'Mapping' if owner is helpers.Mapping else 'helpers'}.{member.name}"
            for status in _STATUS.findall(member.text):
                found.setdefault(status, []).append(code(spoken))
    return [(code(status), ", ".join(dict.fromkeys(found[status]))) for status in sorted(found)]


def traffic(author: Author, users: Mapping[str, str]) -> None:
    """Layers and their requests; `users` says who of our own serves and wants a layer."""
    page = author.page(
        "layers.md",
        "Layers",
        "What neighbours say to each other: who calls what, and what an open end answers.",
    )
    page.text(_body(layers))
    author.class_section(page, 2, layers.Layer)
    author.class_section(page, 2, layers.End)
    for module in (layers, media, drive, display):
        found = [value for value in vars(module).values() if isinstance(value, layers.Layer)]
        for layer in found:
            if layer.below.__module__ == module.__name__:
                _layer(author, page, layer, module, users)
    page.heading(2, "Rules of links")
    page.text(_body(links))


def _layer(
    author: Author, page: Page, layer: layers.Layer[Any, Any], module: Any, users: Mapping[str, str]
) -> None:
    """A layer with both directions, and the records that its module declares."""
    page.heading(2, layer.name, layer.name)
    if module is not layers:
        page.text(_module_text(module))
    page.text(users.get(layer.name, ""))
    for protocol, way in (
        (layer.below, "Down, to what hangs below"),
        (layer.above, "Up, to whoever is above"),
    ):
        page.heading(3, f"{layer.name}: {way[0].lower()}{way[1:]}", protocol.__name__)
        page.text(author.must(source.docstring(protocol), protocol.__name__))
        rows = []
        for member in source.methods(protocol):
            page.define(member.name)
            assert member.function is not None
            answer = source.open_answer(member.function)
            author.must(member.text, f"{protocol.__name__}.{member.name}")
            rows.append((code(member.signature), member.text, code(answer)))
        page.table((*CALL, "An open end"), rows)
    records = [
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and value.__module__ == module.__name__
        and module is not layers
        and not source.is_protocol(value)
    ]
    for record in records:
        author.class_section(page, 3, record)
    named = [name for name, member in source.constants(module.__name__).items() if member.text]
    if named and module is not layers:
        page.heading(3, f"{layer.name}: constants")
        known = source.constants(module.__name__)
        page.define(*named)
        page.table(("Name", "What it is"), [(code(name), known[name].text) for name in named])


def guest_regions(author: Author) -> None:
    """Ports, MMIO, RAM, ROM and width policies."""
    page = author.page(
        "regions.md",
        "Regions",
        "The kinds of regions through which a guest reaches a device, and their widths.",
    )
    page.text(_body(regions))
    for owner in (regions.Ports, regions.Mmio, regions.Ram, regions.Rom):
        author.class_section(page, 2, owner, but=("limit",))
    author.aliases(page, "vbox_pdm.regions", ("Region",))
    page.heading(2, "Handlers")
    handlers = ("ReadHandler", "WriteHandler", "ReadStringHandler", "WriteStringHandler")
    author.aliases(page, "vbox_pdm.engine", handlers)
    author.functions(page, (regions.read_nothing, regions.write_nothing))
    author.class_section(page, 3, regions.Latch)
    author.class_section(page, 2, regions.Width, but=("ANY", "BYTE", "WORD", "DWORD"))
    page.text("These have names; any other pair of policies can be made, `Width(reads, writes)`:")
    page.table(("Width", "Reads", "Writes"), samples.named_widths())
    author.class_section(page, 3, regions.ReadWidth)
    page.text("What the handler of a region of ports or MMIO is called with, (offset, size):")
    page.table(samples.READS, samples.reads())
    author.class_section(page, 3, regions.WriteWidth)
    page.text(
        "What it is called with for a write, (offset, size, value), and before it for a read that it needs:"
    )
    page.table(samples.WRITES, samples.writes())


def register_maps(author: Author) -> None:
    """Register maps."""
    page = author.page(
        "registers.md", "Register maps", "How a device declares its registers, once for all uses."
    )
    page.text(_body(registers))
    author.class_section(page, 2, registers.Register)
    page.heading(2, "Registers by size")
    page.text("They take the fields of `Register` but `size`, as keywords after `offset` and `access`.")
    author.functions(page, (registers.Reg8, registers.Reg16, registers.Reg32, registers.Reg64))
    author.class_section(page, 2, registers.RegisterMap)


def configuration(author: Author) -> None:
    """Configuration keys."""
    page = author.page(
        "config.md",
        "Configuration keys",
        "How a type declares its configuration, and which values are accepted.",
    )
    page.text(_body(config))
    page.heading(2, "Keys")
    author.functions(page, (config.key,))
    author.class_section(page, 3, config.NoConfig)
    page.heading(2, "Field types")
    page.text(
        "What a command line or a file of machines may say for a field of each type, and what comes out:"
    )
    page.table(samples.FIELD_TYPES, samples.field_types())
    page.heading(2, "What is refused")
    page.text("With this class, and each of these configurations:")
    page.code("python", samples.SHOWN_CONFIG)
    page.table(samples.REFUSED, samples.refused())


def saved_states(author: Author) -> None:
    """Saved states and their encoding."""
    page = author.page("state.md", "Saved states", "What a device saves, and how it is encoded.")
    page.text(_body(state))
    author.class_section(page, 2, state.State)
    page.heading(2, "Encoding")
    page.text("The bytes of a value, after the name of its field: a tag, then what the tag says.")
    page.table(samples.ENCODED, samples.encoded())
    page.heading(2, "What loading refuses")
    page.text("Each is a `StateError`, and leaves the machine as it was.")
    page.table(samples.UNREADABLE, samples.unreadable())


def pci_functions(author: Author) -> None:
    """PCI."""
    page = author.page(
        "pci.md", "PCI functions", "What `helpers.pci` takes and gives: a PCI function and its parts."
    )
    page.text(_body(pci))
    author.class_section(page, 2, pci.PciIdentity)
    author.class_section(page, 2, pci.PciFunction, but=("for the host", "config_read", "config_write"))
    page.heading(2, "Capabilities")
    for each in (pci.Msi, pci.MsiX, pci.Capability):
        author.class_section(page, 3, each)


def clocks(author: Author) -> None:
    """Timers and clocks."""
    page = author.page(
        "timers.md", "Timers and clocks", "The clocks that a device may read and set timers on."
    )
    page.text(
        "Timers are made by `helpers.timer`; `helpers.now` reads a clock, `helpers.utc_now` the guest's date."
    )
    author.class_section(page, 2, timers.Clock)
    author.class_section(page, 2, timers.Timer)
    author.class_section(page, 2, readout.Readout)
    page.text(_body(readout))


def threads(author: Author) -> None:
    """Queues and workers."""
    page = author.page(
        "queues.md",
        "Queues and workers",
        "How what happens outside of the VM comes in: queues and drivers' threads.",
    )
    page.text("A queue is made by `helpers.queue`, a worker by `helpers.worker`; devices have no workers.")
    author.class_section(page, 2, helpers.Queue)
    author.class_section(page, 2, helpers.Worker)
    page.text(_body(workers))


def engines(author: Author) -> None:
    """The engine contract."""
    page = author.page("engine.md", "Engines", "What a plugin that executes guest code has to offer.")
    page.text(_body(engine))
    author.class_section(page, 2, engine.EngineType)
    for each in (engine.Engine, engine.InstructionCounter, engine.EngineHost, engine.EngineFactory):
        author.class_section(page, 2, each)
    page.heading(2, "Records")
    for record in (engine.Exit, engine.ExitReason, engine.CpuModel, engine.CpuState, engine.Segment):
        author.class_section(page, 3, record)


def _module_text(module: Any) -> str:
    return inspect.cleandoc(module.__doc__ or "")


def _body(module: Any) -> str:
    """The docstring of a module without its first sentence, which says what a page says anyway."""
    name = module if isinstance(module, str) else module.__name__
    text = _module_text(sys.modules[name])
    return text.partition("\n\n")[2]
