"""A pluggy manager whose implementations are methods of known names, without a decorator.

Every instance has one for its life and every link two for its traffic, so making them is cheap:
names that are no hooks are passed over without a look at the attribute.
"""

from __future__ import annotations

import contextlib
from typing import Any

import pluggy

from vbox_pdm.hookspecs import PROJECT

_PLAIN = {
    "wrapper": False,
    "hookwrapper": False,
    "optionalhook": False,
    "tryfirst": False,
    "trylast": False,
    "specname": None,
}


class MethodHooks(pluggy.PluginManager):
    """`specs` is a class with marked hook specifications named `names`."""

    def __init__(self, specs: type[Any], names: frozenset[str]) -> None:
        super().__init__(PROJECT)
        self.names = names
        self.add_hookspecs(specs)

    def register(self, plugin: Any, name: str | None = None) -> str | None:
        """As pluggy's, which asks `dir` of the plugin.  That makes its attributes a dict that shares its keys
        with other instances, and CPython 3.11 and 3.12 cannot cache where an attribute lies in such a one:
        each access then takes several times as long, for ever.  In a dict of its own it can."""
        registered = super().register(plugin, name)
        attributes = getattr(plugin, "__dict__", None)
        if isinstance(attributes, dict):
            with contextlib.suppress(AttributeError, TypeError):  # modules and the like keep theirs
                plugin.__dict__ = {**attributes}
        return registered

    def parse_hookspec_opts(self, module_or_class: Any, name: str) -> Any:
        if name not in self.names:
            return None
        return getattr(getattr(module_or_class, name), f"{PROJECT}_spec", None)

    def parse_hookimpl_opts(self, plugin: Any, name: str) -> Any:
        if name not in self.names:
            return None
        return getattr(getattr(plugin, name), f"{PROJECT}_impl", None) or dict(_PLAIN)
