"""What hangs where in a running machine, learnt from the hook `pdm_link_created`.

Through it the front end finds the drivers that it talks to, without reaching into the kernel.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from vbox_pdm import hookimpl


class LinkBook:
    """A plugin for one run."""

    def __init__(self) -> None:
        self._links: dict[tuple[str, int], Any] = {}

    @hookimpl
    def pdm_link_created(self, instance: Any, lun: int, link: Any) -> None:
        """Note it."""
        self._links[f"{instance.name}#{instance.number}", lun] = link

    def luns(self, title: str) -> dict[int, Any]:
        """LUN -> link of an instance ("serial#0")."""
        return {lun: link for (name, lun), link in sorted(self._links.items()) if name == title}

    def drivers(self) -> Iterator[Any]:
        """All driver objects."""
        for link in self._links.values():
            if link.lower is not None:
                yield link.lower

    def keyboard(self) -> Any | None:
        """The driver that takes keys, or None."""
        return next((d for d in self.drivers() if hasattr(d, "type_text") and hasattr(d, "pending")), None)

    def screen(self) -> Any | None:
        """The driver that shows the guest's screen, or None."""
        return next((d for d in self.drivers() if hasattr(d, "screenshot") and hasattr(d, "text")), None)

    def bottom(self, title: str, lun: int) -> Any | None:
        """The last driver of a chain, or None."""
        link = self._links.get((title, lun))
        found = None
        seen: set[int] = set()
        while link is not None and link.lower is not None and id(link) not in seen:
            seen.add(id(link))
            found = link.lower
            link = next((k for k in self._links.values() if k.upper is found), None)
        return found
