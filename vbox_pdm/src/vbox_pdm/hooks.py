"""A pluggy manager whose implementations are methods of known names, without a decorator.

Every instance has one for its life and every link two for its traffic, so making them is cheap:
names that are no hooks are passed over without a look at the attribute.
"""

from __future__ import annotations

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

    def parse_hookspec_opts(self, module_or_class: Any, name: str) -> Any:
        if name not in self.names:
            return None
        return getattr(getattr(module_or_class, name), f"{PROJECT}_spec", None)

    def parse_hookimpl_opts(self, plugin: Any, name: str) -> Any:
        if name not in self.names:
            return None
        return getattr(getattr(plugin, name), f"{PROJECT}_impl", None) or dict(_PLAIN)
