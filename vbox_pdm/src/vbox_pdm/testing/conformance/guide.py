"""Going where nobody was: sessions that reached something new are where later ones begin.

Random steps alone hardly get behind a few registers that must be written in order.  So the moves of a
session are kept each time that they reach a line of the plugin for the first time, or a state of a new
shape, and half of the examples first play such moves again.  Lines are seen by a trace function that
forgets code once it is known whole; where somebody else traces (a debugger, a coverage tool), shapes guide
alone.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import CodeType, FrameType
from typing import Any

import attrs
from attrs import define, field

from vbox_pdm.state import State

_MOST = 256
"""How many beginnings are kept."""
_LONGEST = 60
"""Moves of one of them."""
_SHAPES = 20_000


@define(eq=False)
class Guide:
    """`package` is the top-level package of the plugin."""

    package: str
    pools: dict[str, list[list[Any]]] = field(factory=dict)
    """Beginnings, by configuration: with another there may be other regions."""
    reached: dict[CodeType, set[int]] = field(factory=dict)
    _shapes: set[Any] = field(factory=set)
    _left: dict[CodeType, set[int] | None] = field(factory=dict)
    _news: bool = False

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Lines that run meanwhile count."""
        if sys.gettrace() is not None:
            yield
            return
        sys.settrace(self._called)
        try:
            yield
        finally:
            sys.settrace(None)

    def saw(self, state: State | None) -> None:
        """A state of the device: each field's size of value counts, and all small ones together."""
        if state is None:
            return
        parts = list(_parts(state, ""))
        for shape in (*parts, tuple(part for part in parts if part[1] in (0, 1))):
            if shape not in self._shapes and len(self._shapes) < _SHAPES:
                self._shapes.add(shape)
                self._news = True

    def keep(self, config: object, moves: list[Any]) -> None:
        """If something new was reached since the last time: these moves led there."""
        if self._news and len(moves) <= _LONGEST:
            pool = self.pools.setdefault(str(config), [])
            if len(pool) == _MOST:
                del pool[0]
            pool.append(list(moves))
        self._news = False

    def beginning(self, config: object, choice: int) -> list[Any]:
        """Moves to begin with; none for half of all choices."""
        pool = self.pools.get(str(config), [])
        if choice % 2 or not pool:
            return []
        return pool[choice // 2 % len(pool)]

    def _called(self, frame: FrameType, event: str, argument: Any) -> Any:
        code = frame.f_code
        if code not in self._left:
            name = frame.f_globals.get("__name__", "")
            mine = isinstance(name, str) and name.partition(".")[0] == self.package
            lines = {line for _, _, line in code.co_lines() if line is not None} if mine else None
            self._left[code] = lines
            if mine:
                self.reached[code] = set()
        return self._line if self._left[code] else None

    def _line(self, frame: FrameType, event: str, argument: Any) -> Any:
        left = self._left[frame.f_code]
        if left is not None and event == "line" and frame.f_lineno in left:
            left.discard(frame.f_lineno)
            self.reached[frame.f_code].add(frame.f_lineno)
            self._news = True
        return self._line


def _parts(state: State, prefix: str) -> Iterator[tuple[str, Any]]:
    for attribute in attrs.fields(type(state)):
        value, name = getattr(state, attribute.name), prefix + attribute.name
        items = value if isinstance(value, tuple) else (value,)
        if isinstance(value, tuple):
            yield name, -len(value).bit_length()
        for item in items[:8]:
            if isinstance(item, State):
                yield from _parts(item, name + ".")
            elif isinstance(item, int):  # bool as well
                yield name, int(item) if 0 <= item < 16 else item.bit_length() << 8
            elif isinstance(item, bytes):
                yield name, -len(item).bit_length()
            else:
                yield name, str(item)[:20]
