"""Driver chains: their descriptions, and the building of one below a link.

A chain hangs below a LUN, top to bottom.  Hosts (kernel, bench) build it with `build_chain` and keep
the `Lun` records, so that the order of construction and the handling of errors are the same
everywhere.

Order: links and instances are made from the top down (that numbers the instances), constructed from
the bottom up, and each is connected to its neighbour above once that is constructed: a driver whose
construct runs finds its neighbour below ready, and nobody above listening yet.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from attrs import define, field, frozen

from vbox_pdm.driver import DriverType
from vbox_pdm.errors import ConfigError, PdmError
from vbox_pdm.instance import Instance, Phase
from vbox_pdm.layers import Layer
from vbox_pdm.links import Link


class DriverSource(Protocol):
    """Where driver types are found by name: a Catalogue."""

    def driver(self, name: str) -> tuple[DriverType, Any]:
        """The type and its plugin (which has a `distribution`); VERR_PDM_DRIVER_NOT_FOUND."""


@frozen(eq=False)
class ChainDriver:
    """One driver of a chain and the values of its configuration."""

    type: DriverType
    config: Mapping[str, object] = field(factory=dict)
    distribution: str = ""


@frozen(eq=False)
class Chain:
    """What hangs below a LUN: drivers from the top down, and what ends it.

    `end` is a neighbour that is no driver (a test's fake): any object with methods of the layer's
    `below` Protocol; the host sets its attribute `above` to the end of the link to talk up to, and
    to None when it is detached.
    """

    drivers: tuple[ChainDriver, ...] = ()
    end: Any = None

    @property
    def empty(self) -> bool:
        """Whether nothing is attached by it."""
        return not self.drivers and self.end is None


@define(eq=False)
class Lun:
    """A LUN, or the place below a driver: its link and what hangs there now.

    `drivers` is the chain from the top down, `links` the link below each of them (None for a driver
    that wants nothing below).
    """

    owner: Instance
    number: int
    link: Link[Any, Any]
    drivers: list[Instance] = field(factory=list)
    links: list[Link[Any, Any] | None] = field(factory=list)
    end: Any = None

    @property
    def attached(self) -> bool:
        """Whether anything hangs below."""
        return bool(self.drivers) or self.end is not None

    def link_below(self, driver: Instance) -> Link[Any, Any] | None:
        """The link below a driver of this chain."""
        return next((k for d, k in zip(self.drivers, self.links, strict=True) if d is driver), None)


def chain_from_tree(catalogue: DriverSource, tree: Mapping[str, Any], where: str) -> Chain:
    """A chain from a configuration tree: {"Driver": name, "Config": {...}, "AttachedDriver": {...}}.

    `where` names the LUN ("LUN#0 of serial#0").  VERR_PDM_CFG_MISSING_DRIVER_NAME,
    VERR_PDM_DRIVER_NOT_FOUND, VERR_CFGM_CONFIG_UNKNOWN_NODE."""
    drivers: list[ChainDriver] = []
    node: Mapping[str, Any] | None = tree
    while node is not None:
        unknown = set(node) - {"Driver", "Config", "AttachedDriver"}
        if unknown:
            raise ConfigError(
                "VERR_CFGM_CONFIG_UNKNOWN_NODE",
                f"Unknown configuration value '/{min(unknown)}' found below {where}",
                "A driver has Driver, Config and AttachedDriver",
            )
        name = node.get("Driver")
        if not isinstance(name, str) or not name:
            raise ConfigError(
                "VERR_PDM_CFG_MISSING_DRIVER_NAME", f"{where} names no driver", 'Give it a value "Driver"'
            )
        found, plugin = catalogue.driver(name)
        drivers.append(ChainDriver(found, node.get("Config") or {}, plugin.distribution))
        node = node.get("AttachedDriver")
    return Chain(tuple(drivers))


def check_chain(layer: Layer[Any, Any], chain: Chain, where: str) -> None:
    """Whether each neighbour serves what the one above it wants.

    VERR_PDM_MISSING_INTERFACE_BELOW, VERR_PDM_DRVINS_NO_ATTACH (a driver that wants nothing has
    something below), VERR_PDM_NO_ATTACHED_DRIVER (one that needs something has nothing)."""
    wanted: Layer[Any, Any] | None = layer
    above = where
    needed = False
    for driver in chain.drivers:
        if wanted is None:
            raise _no_attach(above, f"'{driver.type.name}'")
        if driver.type.serves is not wanted:
            raise PdmError(
                "VERR_PDM_MISSING_INTERFACE_BELOW",
                f"{above} wants a {wanted.name} below, driver '{driver.type.name}' serves "
                f"{driver.type.serves.name}",
                f"Attach a driver that serves {wanted.name}",
            )
        wanted, above, needed = driver.type.wants, f"driver '{driver.type.name}'", driver.type.needs_below
    if chain.end is not None and wanted is None:
        raise _no_attach(above, type(chain.end).__name__)
    if chain.end is None and needed and wanted is not None:
        raise PdmError(
            "VERR_PDM_NO_ATTACHED_DRIVER",
            f"{above} needs a {wanted.name} below and has none",
            "Attach a driver below it",
        )


def _no_attach(above: str, below: str) -> PdmError:
    return PdmError("VERR_PDM_DRVINS_NO_ATTACH", f"{above} takes nothing below, {below} stands there", "")


def build_chain(
    lun: Lun,
    chain: Chain,
    make: Callable[[ChainDriver], Instance],
    construct: Callable[[Instance], None],
    destroy: Callable[[Instance], None],
    created: Callable[[Instance, int, Link[Any, Any]], None],
) -> None:
    """Build `chain` below `lun` and connect it.

    The host's part: `make` creates an instance and gives it number, config and helpers; `construct`
    calls pdm_construct and sets the phase (also to FAILED); `destroy` calls pdm_destruct and frees;
    `created` is told of each link below a driver (the caller tells of the LUN's own).

    On an error what was constructed is destroyed from the bottom up, the LUN stays empty."""
    check_chain(lun.link.layer, chain, f"LUN#{lun.number} of {lun.owner.title}")
    drivers: list[Instance] = []
    links: list[Link[Any, Any] | None] = []
    above = lun.link
    for item in chain.drivers:
        driver = make(item)
        wants = item.type.wants
        link = Link(wants, f"below {driver.title}") if wants is not None else None
        driver.object.above = above.above
        driver.object.below = link.below if link is not None else None
        drivers.append(driver)
        links.append(link)
        above = link if link is not None else above
    try:
        if chain.end is not None:
            lowest = links[-1] if links else lun.link
            assert lowest is not None  # check_chain
            lowest.set_lower(chain.end)
        for index in reversed(range(len(drivers))):
            construct(drivers[index])
            below = links[index]
            if below is not None:
                below.set_upper(drivers[index].object)
            upper = lun.link if index == 0 else links[index - 1]
            assert upper is not None  # check_chain
            upper.set_lower(drivers[index].object)
    except BaseException:
        _unlink(lun.link, links)
        for driver in reversed(drivers):
            if driver.phase is not Phase.NEW:
                destroy(driver)
        raise
    lun.drivers, lun.links, lun.end = drivers, links, chain.end
    if chain.end is not None:
        lowest = links[-1] if links else lun.link
        assert lowest is not None
        chain.end.above = lowest.above
    for driver, link in zip(drivers, links, strict=True):
        if link is not None:
            created(driver, 0, link)


def remove_chain(lun: Lun, destroy: Callable[[Instance], None]) -> None:
    """Disconnect what hangs below `lun` and destroy it from the bottom up."""
    drivers, links, end = lun.drivers, lun.links, lun.end
    lun.drivers, lun.links, lun.end = [], [], None
    _unlink(lun.link, links)
    if end is not None:
        end.above = None
    for driver in reversed(drivers):
        destroy(driver)


def _unlink(top: Link[Any, Any], links: Sequence[Link[Any, Any] | None]) -> None:
    top.set_lower(None)
    for link in links:
        if link is not None:
            link.set_lower(None)
            link.set_upper(None)
