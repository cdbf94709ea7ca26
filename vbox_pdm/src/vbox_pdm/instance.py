"""An instance and its life cycle, as every host (kernel, bench) keeps it."""

from __future__ import annotations

import builtins
import enum
import functools
import inspect
import typing
from collections.abc import Callable
from typing import Any

import pluggy
from attrs import define, field

from vbox_pdm.device import DeviceType
from vbox_pdm.driver import DriverType
from vbox_pdm.errors import RegistrationError
from vbox_pdm.hooks import MethodHooks
from vbox_pdm.hookspecs import InstanceSpecs
from vbox_pdm.state import State

_NAMES = frozenset(name for name in vars(InstanceSpecs) if name.startswith("pdm_"))


class _InstanceManager(MethodHooks):
    """Takes methods named pdm_*; another such name is a slip of the author's."""

    def __init__(self) -> None:
        super().__init__(InstanceSpecs, _NAMES)

    def parse_hookimpl_opts(self, plugin: Any, name: str) -> Any:
        if name.startswith("pdm_") and name not in _NAMES:
            raise RegistrationError(
                "VERR_PDM_INVALID_DEVICE_REGISTRATION",
                f"{type(plugin).__name__}.{name} is no life-cycle hook",
                f"The hooks are {', '.join(sorted(_NAMES))}; other names must not begin with pdm_",
            )
        return super().parse_hookimpl_opts(plugin, name)


class Phase(enum.Enum):
    """Where in its life an instance stands; hosts assert it."""

    NEW = "new"
    CONSTRUCTED = "constructed"
    READY = "ready"  # init complete; "suspended" in VirtualBox's words
    RUNNING = "running"
    OFF = "off"
    DESTROYED = "destroyed"
    FAILED = "failed"  # construct raised; destruct still follows


@define(eq=False)
class Instance:
    """A device or driver of a machine.  `object` is what the plugin wrote."""

    type: DeviceType | DriverType
    number: int
    object: Any
    distribution: str = ""
    phase: Phase = Phase.NEW
    manager: pluggy.PluginManager = field(factory=_InstanceManager)

    def __attrs_post_init__(self) -> None:
        self.manager.register(self.object)

    @property
    def name(self) -> str:
        """The type's name: "serial"."""
        return self.type.name

    @property
    def title(self) -> str:
        """`serial#0`, as logs and errors have it."""
        return f"{self.type.name}#{self.number}"

    def call(self, hook: str, **arguments: Any) -> Any:
        """Call a life-cycle hook; what the plugin raises comes out."""
        return getattr(self.manager.hook, hook)(**arguments)

    def implements(self, hook: str) -> bool:
        """Whether anybody listens to that hook."""
        return bool(getattr(self.manager.hook, hook).get_hookimpls())

    def state_class(self) -> builtins.type[State] | None:
        """The State class that `pdm_save` is annotated with; None when it saves nothing."""
        method = getattr(type(self.object), "pdm_save", None)
        return None if method is None else _state_class(method)


@functools.cache
def _state_class(method: Callable[..., Any]) -> builtins.type[State]:
    """By method and not by class: classes that are made for one machine must not stay."""
    hint = typing.get_type_hints(method).get("return")
    for part in (*typing.get_args(hint), hint):
        if inspect.isclass(part) and issubclass(part, State):
            return part
    raise RegistrationError(
        "VERR_PDM_INVALID_DEVICE_REGISTRATION",
        f"{method.__qualname__} does not say which State it returns",
        "Annotate it: def pdm_save(self) -> MyState",
    )
