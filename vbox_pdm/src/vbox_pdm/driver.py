"""What the author of a driver declares: what hangs below a LUN, and filters in between.

A driver serves a layer upwards; a filter, and a driver that needs another one, wants a layer
below.  A filter serves and wants the same layer: it may pass on nothing, once, many times, now or
later.
"""

from __future__ import annotations

from typing import Any, ClassVar, Generic, TypeVar

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

    transient: ClassVar[frozenset[str]] = frozenset()
    """Attributes that need neither be saved nor reset: caches, counts for people.  The conformance kit
    expects of all others that a load and a reset bring them back."""


@frozen(eq=False)
class DriverType:
    """What `vbox_register_drivers(register)` registers."""

    name: str
    """What `--filter` and the configuration of a machine call it: 1 to 31 letters, digits, '_', '-'."""
    driver: type[Driver[Any]]
    """Made once for each instance, without arguments."""
    config: type[Any] = NoConfig
    """An attrs class whose fields are made by `key`."""
    serves: Layer[Any, Any] = field(kw_only=True)
    """The layer that it speaks with the neighbour above."""
    wants: Layer[Any, Any] | None = field(default=None, kw_only=True)
    """The layer that it speaks with the one below; None: nothing may be attached there."""
    needs_below: bool = field(default=False, kw_only=True)
    """Whether construction fails when nothing is attached below."""
    transparent: bool = field(default=True, kw_only=True)
    """Of a filter: it passes on every request and every byte as it came, though perhaps later.  False for
    one whose purpose is to drop, change or fail some.  The conformance kit checks it."""
    max_instances: int | None = field(default=None, kw_only=True)
    """How many a machine may have; None: any number."""
    summary: str = field(default="", kw_only=True)
    """A few words for `vbox devices`."""

    def __attrs_post_init__(self) -> None:
        check_name("DRIVER", self.name)
