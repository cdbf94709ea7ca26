"""A link between two neighbours of a layer, and the resolution of its hooks.

Each direction has a pluggy manager whose hook specifications come from the layer's Protocol; all
traffic hooks are firstresult.  A hook with one plain implementation and no wrapper resolves to the
bound method itself; with wrappers (observers) it goes through pluggy.  Connecting, disconnecting,
observing and its end resolve again.
"""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar, cast

import pluggy

from vbox_pdm.errors import RegistrationError
from vbox_pdm.hooks import MethodHooks
from vbox_pdm.hookspecs import PROJECT
from vbox_pdm.layers import End, Layer

B = TypeVar("B")
A = TypeVar("A")
_SPEC = pluggy.HookspecMarker(PROJECT)


@functools.cache
def _methods(protocol: type[Any]) -> Mapping[str, Callable[..., Any]]:
    """The traffic hooks of a Protocol, marked as pluggy wants them, by name."""
    found = {
        name: member
        for base in reversed(protocol.__mro__)
        if base not in (object, End) and getattr(base, "_is_protocol", False)
        for name, member in vars(base).items()
        if inspect.isfunction(member) and not name.startswith("_")
    }
    for method in found.values():
        _SPEC(firstresult=True)(method)
    return types.MappingProxyType(found)


@functools.cache
def _arguments(function: Callable[..., Any]) -> tuple[str, ...]:
    return tuple(inspect.signature(function).parameters)[1:]


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
        self.protocol = protocol
        self.methods = _methods(protocol)  # type: ignore[arg-type]  # mypy: a class is hashable
        self.manager = MethodHooks(protocol, frozenset(self.methods))
        self.end = _End()
        self.target: object | None = None
        self.resolve()

    def set_target(self, target: object | None) -> None:
        if self.target is not None:
            self.manager.unregister(self.target)
        if target is not None:
            _check_signatures(self.layer, self.protocol, type(target))  # type: ignore[arg-type]  # mypy: a class is hashable
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
    manager: MethodHooks, hook: Any, default: Callable[..., Any], open_answer: Callable[..., Any] | None
) -> Callable[..., Any]:
    signature = inspect.signature(default)
    names = list(signature.parameters)[1:]

    def named(args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        if not kwargs and len(args) == len(names):
            return dict(zip(names, args, strict=True))
        bound = signature.bind(None, *args, **kwargs)
        bound.apply_defaults()
        return {name: bound.arguments[name] for name in names}

    if open_answer is None:

        def call(*args: Any, **kwargs: Any) -> Any:
            return hook(**named(args, kwargs))

        return call

    def call_open(*args: Any, **kwargs: Any) -> Any:
        result = hook(**named(args, kwargs))
        return open_answer(*args, **kwargs) if result is None else result

    return call_open


@functools.cache
def _check_signatures(layer: Layer[Any, Any], protocol: type[Any], target: type[Any]) -> None:
    for name, spec in _methods(protocol).items():  # type: ignore[arg-type]  # mypy: a class is hashable
        method = getattr(target, name, None)
        if method is None:
            continue
        wanted, found = _arguments(spec), _arguments(method)
        if wanted != found:
            raise RegistrationError(
                "VERR_PDM_MISSING_INTERFACE",
                f"{target.__name__}.{name}({', '.join(found)}) is not the {layer.name} layer's "
                f"{name}({', '.join(wanted)})",
                "Give it exactly these arguments",
            )


class Link(Generic[B, A]):
    """One link.  `layer` is what is spoken on it, `description` what its LUN is called."""

    def __init__(self, layer: Layer[B, A], description: str) -> None:
        self.layer = layer
        self.description = description
        self._down = _Direction(layer, layer.below)
        self._up = _Direction(layer, layer.above)

    @property
    def below(self) -> B:
        """The end that the upper neighbour uses."""
        return cast(B, self._down.end)

    @property
    def above(self) -> A:
        """The end that the lower neighbour uses."""
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
