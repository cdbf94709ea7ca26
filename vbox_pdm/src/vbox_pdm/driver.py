"""What the author of a driver declares: what hangs below a LUN, and filters in between.

A driver serves a layer upwards; a filter, and a driver that needs another one, wants a layer
below.  A filter serves and wants the same layer: it may pass on nothing, once, many times, now or
later.
"""

from __future__ import annotations

from typing import Any, Generic, TypeVar

from attrs import field, frozen

from vbox_pdm.config import NoConfig
from vbox_pdm.device import check_name
from vbox_pdm.helpers import DriverHelpers
from vbox_pdm.layers import Layer

C = TypeVar("C")


class Driver(Generic[C]):
    """Base of all drivers.  The host sets the attributes before construct.

    `above` is the neighbour above (methods of the served layer's `above` Protocol), `below` the one
    below (of the wanted layer's `below`); annotate them in the class with those Protocols.
    """

    config: C
    helpers: DriverHelpers
    instance: int
    above: Any
    below: Any


@frozen(eq=False)
class DriverType:
    """What `vbox_register_drivers(register)` registers."""

    name: str
    driver: type[Driver[Any]]
    config: type[Any] = NoConfig
    serves: Layer[Any, Any] = field(kw_only=True)
    wants: Layer[Any, Any] | None = field(default=None, kw_only=True)
    needs_below: bool = field(default=False, kw_only=True)
    """Whether construction fails when nothing is attached below."""
    max_instances: int | None = field(default=None, kw_only=True)
    summary: str = field(default="", kw_only=True)

    def __attrs_post_init__(self) -> None:
        check_name("DRIVER", self.name)
