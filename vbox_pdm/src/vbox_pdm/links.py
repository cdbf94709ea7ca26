"""A link between two neighbours of a layer, and the resolution of its hooks.

Each direction has a pluggy manager whose hook specifications come from the layer's Protocol; all
traffic hooks are firstresult.  A hook with one plain implementation and no wrapper resolves to the
bound method itself; with wrappers (observers) it goes through pluggy.  Connecting, disconnecting,
observing and its end resolve again.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable
from typing import Any, Generic, TypeVar, cast

import pluggy

from vbox_pdm.errors import RegistrationError
from vbox_pdm.layers import End, Layer

B = TypeVar("B")
A = TypeVar("A")
_PROJECT = "vbox"
_SPEC = pluggy.HookspecMarker(_PROJECT)


class _Manager(pluggy.PluginManager):
    """Takes the methods of one Protocol as hook implementations, without a decorator."""

    def __init__(self, names: frozenset[str]) -> None:
        super().__init__(_PROJECT)
        self.names = names

    def parse_hookimpl_opts(self, plugin: Any, name: str) -> Any:
        if name not in self.names:
            return None
        marked = super().parse_hookimpl_opts(plugin, name)
        if marked is not None:
            return marked
        return {
            "wrapper": False, "hookwrapper": False, "optionalhook": False,
            "tryfirst": False, "trylast": False, "specname": None,
        }  # fmt: skip


def _methods(protocol: type[Any]) -> dict[str, Callable[..., Any]]:
    return {
        name: member
        for base in reversed(protocol.__mro__)
        if base not in (object, End) and getattr(base, "_is_protocol", False)
        for name, member in vars(base).items()
        if inspect.isfunction(member) and not name.startswith("_")
    }


class _End:
    """One end of a link as its user sees it: the methods of the neighbour, and `connected`.

    Its method attributes are set on the instance by `_Direction.resolve`.
    """

    def __init__(self) -> None:
        self.connected = False


class _Direction:
    """The calls that go one way over a link."""

    def __init__(self, layer: Layer[Any, Any], protocol: type[Any]) -> None:
        self.layer = layer
        self.methods = _methods(protocol)
        self.manager = _Manager(frozenset(self.methods))
        for method in self.methods.values():
            _SPEC(firstresult=True)(method)
        self.manager.add_hookspecs(protocol)
        self.end = _End()
        self.target: object | None = None
        self.resolve()

    def set_target(self, target: object | None) -> None:
        if self.target is not None:
            self.manager.unregister(self.target)
        if target is not None:
            _check_signatures(self.layer, self.methods, target)
            self.manager.register(target)
        self.target = target
        self.resolve()

    def resolve(self) -> None:
        self.end.connected = self.target is not None
        for name, default in self.methods.items():
            hook = getattr(self.manager.hook, name)
            plain = [i for i in hook.get_hookimpls() if not (i.wrapper or i.hookwrapper)]
            wrappers = [i for i in hook.get_hookimpls() if i.wrapper or i.hookwrapper]
            answer = plain[-1].function if plain else types.MethodType(default, self.end)
            if wrappers:
                answer = _through_pluggy(self.manager, hook, default, answer if not plain else None)
            setattr(self.end, name, answer)


def _through_pluggy(
    manager: _Manager, hook: Any, default: Callable[..., Any], open_answer: Callable[..., Any] | None
) -> Callable[..., Any]:
    names = list(inspect.signature(default).parameters)[1:]

    if open_answer is None:

        def call(*args: Any) -> Any:
            return hook(**dict(zip(names, args, strict=True)))

        return call

    def call_open(*args: Any) -> Any:
        result = hook(**dict(zip(names, args, strict=True)))
        return open_answer(*args) if result is None else result

    return call_open


def _check_signatures(layer: Layer[Any, Any], methods: dict[str, Callable[..., Any]], target: object) -> None:
    for name, spec in methods.items():
        method = getattr(type(target), name, None)
        if method is None:
            continue
        wanted = list(inspect.signature(spec).parameters)[1:]
        found = list(inspect.signature(method).parameters)[1:]
        if wanted != found:
            raise RegistrationError(
                "VERR_PDM_MISSING_INTERFACE",
                f"{type(target).__name__}.{name}({', '.join(found)}) is not the {layer.name} layer's "
                f"{name}({', '.join(wanted)})",
                "Give it exactly these arguments",
            )


class Link(Generic[B, A]):
    """One link.  `below` is the end that the upper neighbour uses, `above` that of the lower."""

    def __init__(self, layer: Layer[B, A], description: str) -> None:
        self.layer = layer
        self.description = description
        self._down = _Direction(layer, layer.below)
        self._up = _Direction(layer, layer.above)

    @property
    def below(self) -> B:
        return cast(B, self._down.end)

    @property
    def above(self) -> A:
        return cast(A, self._up.end)

    @property
    def upper(self) -> object | None:
        """The neighbour above, once it is set."""
        return self._up.target

    @property
    def lower(self) -> object | None:
        """The neighbour below, or None for an open end."""
        return self._down.target

    def set_upper(self, upper: object | None) -> None:
        """Who receives what goes up.  RegistrationError when its methods do not fit the layer."""
        self._up.set_target(upper)

    def set_lower(self, lower: object | None) -> None:
        """Who receives what goes down; None disconnects."""
        self._down.set_target(lower)

    def observe(self, observer: object) -> None:
        """Register hook wrappers for any methods of the layer, in both directions.

        They are marked `@hookimpl(wrapper=True)`, see every call and change none."""
        for name in (*self._down.methods, *self._up.methods):
            function = getattr(observer, name, None)
            if function is not None and not getattr(function, "vbox_impl", {}).get("wrapper"):
                raise RegistrationError(
                    "VERR_INVALID_PARAMETER",
                    f"Observer {type(observer).__name__}.{name} is not a hook wrapper",
                    "Mark it @hookimpl(wrapper=True); what answers or changes is a filter driver",
                )
        for direction in (self._down, self._up):
            direction.manager.register(observer)
            direction.resolve()

    def unobserve(self, observer: object) -> None:
        """The end of `observe`."""
        for direction in (self._down, self._up):
            direction.manager.unregister(observer)
            direction.resolve()
