"""LUNs and driver chains: built with their devices, changed at run time, looked up.

Facts: pdm.md sections 3.4 and 3.5.  The building itself is the contract's (`vbox_pdm.chains`), so that
every host does it in the same order.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from vbox_pdm import config
from vbox_pdm.chains import Chain, ChainDriver, Lun, build_chain, remove_chain
from vbox_pdm.errors import PdmError
from vbox_pdm.instance import Instance, Phase
from vbox_pdm.layers import Layer
from vbox_pdm.life import DeviceNode, construct_error
from vbox_pdm.links import Link
from vbox_vmm.pdm.driver_helpers import DriverHelpers
from vbox_vmm.pdm.owned import Owned
from vbox_vmm.pdm.plans import chain_of, lun_node

if TYPE_CHECKING:
    from vbox_vmm.pdm.manager import Pdm

log = logging.getLogger("vbox.PDM")

NOTHING_ATTACHED = "VINF_PDM_NO_DRIVER_ATTACHED_TO_LUN"
SUCCESS = "VINF_SUCCESS"


class Wiring:
    """The chains of one VM.  EMT only."""

    def __init__(self, pdm: Pdm) -> None:
        self._pdm = pdm

    # --- building

    def make_lun(
        self, owned: Owned, number: int, layer: Layer[Any, Any], description: str, above: object
    ) -> Lun:
        """A LUN of a device under construction, with what the configuration hangs there."""
        owner = owned.instance
        node = self._pdm.node(owner)
        if number in node.luns:
            raise PdmError("VERR_PDM_DRIVER_ALREADY_ATTACHED", f"{owner.title} has LUN#{number} already")
        lun = Lun(owner, number, Link(layer, description))
        node.luns[number] = lun
        self._build(lun, owned.chains.pop(number, Chain()), owner.title, number)
        lun.link.set_upper(above)
        self.created(owner, number, lun.link)
        return lun

    def _build(self, lun: Lun, chain: Chain, device: str, number: int) -> None:
        before = {owned.instance for owned in self._pdm.owned_records()}
        try:
            build_chain(
                lun,
                chain,
                lambda item: self._make_driver(item, f"{device}/LUN#{number}"),
                self._construct_driver,
                self._pdm.destroy,
                self.created,
            )
        except BaseException:
            for owned in self._pdm.owned_records():  # made, and not constructed by then
                if owned.instance not in before:
                    self._pdm.destroy(owned.instance)
            raise

    def _make_driver(self, item: ChainDriver, where: str) -> Instance:
        kind = item.type
        alive = {o.instance.number for o in self._pdm.owned_records() if o.instance.type is kind}
        if kind.max_instances is not None and len(alive) >= kind.max_instances:
            raise PdmError(
                "VERR_PDM_TOO_MANY_DRIVER_INSTANCES",
                f"Driver '{kind.name}' allows {kind.max_instances} instances",
                "Remove one of them",
            )
        number = next(at for at in range(len(alive) + 1) if at not in alive)
        parsed = config.parse(kind.config, item.config, f"{kind.name} instance #{number}")
        instance = Instance(kind, number, kind.driver(), item.distribution)
        owned = self._pdm.adopt(Owned(instance, f"{where}/{instance.title}"))
        instance.object.config = parsed
        instance.object.instance = number
        instance.object.helpers = DriverHelpers(self._pdm, owned)
        return instance

    def _construct_driver(self, instance: Instance) -> None:
        try:
            instance.call("pdm_construct")
        except Exception as error:
            instance.phase = Phase.FAILED
            raise construct_error(instance, error, self._pdm.owned(instance).error_text) from error
        instance.phase = Phase.CONSTRUCTED

    def created(self, owner: Instance, lun: int, link: Link[Any, Any]) -> None:
        """Tell the `pdm_link_created` hooks."""
        hook = self._pdm.services.catalogue.manager.hook.pdm_link_created
        if not hook.get_hookimpls():
            return
        try:
            hook(instance=owner, lun=lun, link=link)
        except Exception:
            log.exception("PDM: a pdm_link_created hook failed at LUN#%d of %s", lun, owner.title)

    # --- looking up

    def lun(self, device: Instance, number: int) -> Lun:
        """VERR_PDM_LUN_NOT_FOUND."""
        luns = self._pdm.node(device).luns
        found = luns.get(number)
        if found is None:
            listed = ", ".join(map(str, sorted(luns))) or "none"
            raise PdmError(
                "VERR_PDM_LUN_NOT_FOUND", f"{device.title} has no LUN#{number}", f"Its LUNs: {listed}"
            )
        return found

    def query_device(self, name: str, number: int) -> Instance:
        """VERR_PDM_DEVICE_NOT_FOUND, VERR_PDM_DEVICE_INSTANCE_NOT_FOUND."""
        mine = [node.instance for node in self._pdm.nodes if node.instance.name == name]
        if not mine:
            have = ", ".join(sorted({node.instance.name for node in self._pdm.nodes})) or "none"
            raise PdmError("VERR_PDM_DEVICE_NOT_FOUND", f"The VM has no device '{name}'", f"It has: {have}")
        for instance in mine:
            if instance.number == number:
                return instance
        have = ", ".join(str(instance.number) for instance in mine)
        raise PdmError(
            "VERR_PDM_DEVICE_INSTANCE_NOT_FOUND",
            f"Device '{name}' has no instance #{number}",
            f"Its instances: {have}",
        )

    def query_device_lun(self, name: str, number: int, lun: int) -> Link[Any, Any]:
        """The link below a LUN.  Errors as `query_device`, VERR_PDM_LUN_NOT_FOUND."""
        link: Link[Any, Any] = self.lun(self.query_device(name, number), lun).link
        return link

    def query_lun(self, name: str, number: int, lun: int) -> Instance:
        """The top driver below a LUN.  VERR_PDM_NO_DRIVER_ATTACHED_TO_LUN and as before."""
        drivers = self.lun(self.query_device(name, number), lun).drivers
        if not drivers:
            raise PdmError("VERR_PDM_NO_DRIVER_ATTACHED_TO_LUN", f"LUN#{lun} of {name}#{number} is empty")
        return drivers[0]

    def query_driver_on_lun(
        self, name: str, number: int, lun: int, driver: str, occurrence: int = 0
    ) -> Instance:
        """A driver of a chain by its name.  VERR_PDM_DRIVER_INSTANCE_NOT_FOUND and as before."""
        self.query_lun(name, number, lun)
        place = self.lun(self.query_device(name, number), lun)
        return place.drivers[_index(place, driver, occurrence)]

    # --- run time, by configuration

    def device_attach(self, name: str, number: int, lun: int) -> None:
        """Plug what /Devices/<name>/<number>/LUN#<lun> describes.

        VERR_PDM_DRIVER_ALREADY_ATTACHED, VERR_PDM_DEVICE_NO_RT_ATTACH, VERR_PDM_NO_ATTACHED_DRIVER
        (nothing is configured), errors of the look-up and of the chain."""
        device = self.query_device(name, number)
        self.lun(device, lun)
        self._require_callback(device, "pdm_attach", "VERR_PDM_DEVICE_NO_RT_ATTACH")
        node = lun_node(self._pdm.services.cfgm, name, number, lun)
        where = f"LUN#{lun} of {device.title}"
        if node is None:
            raise PdmError("VERR_PDM_NO_ATTACHED_DRIVER", f"Nothing is configured for {where}")
        self.attach(device, lun, chain_of(self._pdm.services.catalogue, node, where))

    def device_detach(self, name: str, number: int, lun: int) -> str:
        """Unplug the chain below a LUN; answers a status, VINF_PDM_NO_DRIVER_ATTACHED_TO_LUN when
        there was none.  VERR_PDM_DRIVER_DETACH_NOT_POSSIBLE and errors of the look-up."""
        device = self.query_device(name, number)
        if not self.lun(device, lun).attached:
            return NOTHING_ATTACHED
        self._require_callback(device, "pdm_detach", "VERR_PDM_DRIVER_DETACH_NOT_POSSIBLE")
        self.detach(device, lun)
        return SUCCESS

    def driver_attach(self, name: str, number: int, lun: int) -> None:
        """Plug what is configured below the lowest driver of a LUN, or at an empty LUN.

        VERR_PDM_DRIVER_NO_RT_ATTACH, VERR_PDM_DRVINS_NO_ATTACH (it takes nothing below),
        VERR_PDM_NO_ATTACHED_DRIVER, VERR_PDM_DRIVER_ALREADY_ATTACHED, and as `device_attach`."""
        device = self.query_device(name, number)
        place = self.lun(device, lun)
        if not place.attached:
            self.device_attach(name, number, lun)
            return
        where = f"LUN#{lun} of {device.title}"
        if place.end is not None:
            raise PdmError("VERR_PDM_DRIVER_ALREADY_ATTACHED", f"{where} has a lower end", "Detach it first")
        lowest, link = place.drivers[-1], place.links[-1]
        if link is None:
            raise PdmError("VERR_PDM_DRVINS_NO_ATTACH", f"{lowest.title} takes nothing below")
        self._require_callback(lowest, "pdm_attach", "VERR_PDM_DRIVER_NO_RT_ATTACH")
        node = lun_node(self._pdm.services.cfgm, name, number, lun)
        for _ in place.drivers:
            node = node.find("AttachedDriver") if node is not None else None
        if node is None:
            raise PdmError(
                "VERR_PDM_NO_ATTACHED_DRIVER",
                f"Nothing is configured below {lowest.title} of {where}",
                "Add the node AttachedDriver",
            )
        chain = chain_of(self._pdm.services.catalogue, node, where)
        below = Lun(lowest, 0, link)
        with self._pdm.services.iom.batch():
            self._build(below, chain, device.title, lun)
            self._catch_up(below)
        place.drivers.extend(below.drivers)
        place.links.extend(below.links)
        place.end = below.end
        self.created(lowest, 0, link)
        self._pdm.call(lowest, "pdm_attach", {"lun": 0})

    def driver_detach(
        self, name: str, number: int, lun: int, driver: str | None = None, occurrence: int = 0
    ) -> str:
        """Unplug a driver and all below it (None: the whole chain); answers a status.

        VERR_PDM_DRIVER_INSTANCE_NOT_FOUND, VERR_PDM_DRIVER_DETACH_NOT_POSSIBLE (who is above cannot),
        and errors of the look-up."""
        device = self.query_device(name, number)
        place = self.lun(device, lun)
        if not place.attached:
            return NOTHING_ATTACHED
        index = 0 if driver is None else _index(place, driver, occurrence)
        if index == 0:
            return self.device_detach(name, number, lun)
        above, link = place.drivers[index - 1], place.links[index - 1]
        assert link is not None
        self._require_callback(above, "pdm_detach", "VERR_PDM_DRIVER_DETACH_NOT_POSSIBLE")
        below = Lun(above, 0, link, place.drivers[index:], place.links[index:], place.end)
        self._pdm.call(above, "pdm_detach", {"lun": 0})
        self._pdm.queues.drain()
        place.drivers, place.links, place.end = place.drivers[:index], place.links[:index], None
        self._remove(below)
        self.created(above, 0, link)
        return SUCCESS

    # --- run time, by description

    def attach(self, device: Instance, number: int, chain: Chain) -> None:
        """Plug a chain.  VERR_PDM_LUN_NOT_FOUND, VERR_PDM_DRIVER_ALREADY_ATTACHED, and errors of the
        chain, after which the LUN is as before."""
        place = self.lun(device, number)
        if place.attached:
            raise PdmError(
                "VERR_PDM_DRIVER_ALREADY_ATTACHED",
                f"LUN#{number} of {device.title} has something attached",
                "Detach it first",
            )
        with self._pdm.services.iom.batch():
            self._build(place, chain, device.title, number)
            if not place.attached:
                return
            self._catch_up(place)
        self.created(device, number, place.link)
        self._pdm.call(device, "pdm_attach", {"lun": number})

    def detach(self, device: Instance, number: int) -> None:
        """Unplug a chain.  VERR_PDM_LUN_NOT_FOUND, VERR_PDM_NO_DRIVER_ATTACHED_TO_LUN."""
        place = self.lun(device, number)
        if not place.attached:
            raise PdmError("VERR_PDM_NO_DRIVER_ATTACHED_TO_LUN", f"LUN#{number} of {device.title} is empty")
        self._pdm.call(device, "pdm_detach", {"lun": number})
        self._pdm.queues.drain()
        self._remove(place)
        self.created(device, number, place.link)

    def _remove(self, place: Lun) -> None:
        pdm = self._pdm
        for driver in place.drivers:
            owned = pdm.owned(driver)
            if owned.powered:
                pdm.call(driver, "pdm_power_off", {})
            pdm.workers.halt(owned.workers)
        remove_chain(place, pdm.destroy)

    def _catch_up(self, place: Lun) -> None:
        """The new drivers of a VM that is on already."""
        pdm = self._pdm
        if not pdm.complete:
            return
        try:
            for driver in place.drivers:
                driver.call("pdm_init_complete")
                driver.phase = Phase.READY
            if pdm.running:
                for driver in place.drivers:
                    pdm.power_on_one(driver)
                    pdm.workers.start(pdm.owned(driver).workers)
        except BaseException:
            self._remove(place)
            raise

    def _require_callback(self, instance: Instance, hook: str, status: str) -> None:
        if not instance.implements(hook):
            raise PdmError(status, f"{instance.title} cannot do this while the VM exists: it has no {hook}")

    def terminate(self, node: DeviceNode) -> None:
        """Destroy a device and its chains, drivers from the bottom up."""
        for number in sorted(node.luns):
            lun = node.luns[number]
            remove_chain(lun, self._pdm.destroy)
            lun.link.set_upper(None)
        self._pdm.destroy(node.instance)


def _index(place: Lun, driver: str, occurrence: int) -> int:
    found = [index for index, instance in enumerate(place.drivers) if instance.name == driver]
    if occurrence >= len(found):
        names = ", ".join(instance.name for instance in place.drivers) or "nothing"
        raise PdmError(
            "VERR_PDM_DRIVER_INSTANCE_NOT_FOUND",
            f"No driver '{driver}' (occurrence {occurrence}) is at LUN#{place.number} of {place.owner.title}",
            f"There is: {names}",
        )
    return found[occurrence]
