"""Writes sections of pages from classes, and remembers what the code does not explain."""

from __future__ import annotations

import enum
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

import attrs
from attrs import define, field

from refpages import source
from refpages.markdown import Names, Page, code

CALL = ("Name", "What it is or does")
FIELD = ("Field", "Default", "What it is")
MEMBER = ("Member", "Value", "What it means")


@define
class Author:
    """Makes pages whose names link to each other."""

    names: Names = field(factory=Names)
    pages: list[Page] = field(factory=list)
    undocumented: list[str] = field(factory=list)
    """What has no docstring and no help text, as `Rtc.cmos_read`."""

    def page(self, file: str, title: str, purpose: str) -> Page:
        """A new page."""
        made = Page(file, title, purpose, self.names)
        self.pages.append(made)
        return made

    def must(self, text: str, what: str) -> str:
        """`text`, noted when it is missing."""
        if not text.strip():
            self.undocumented.append(what)
        return text

    def class_section(
        self,
        page: Page,
        level: int,
        owner: type[Any],
        *,
        title: str = "",
        but: Collection[str] = (),
        prefix: str = "",
    ) -> None:
        """A section for a class: what it is, its fields, its members, its methods by groups.

        `but` are groups and methods to leave out; `prefix` is what its user calls it ("helpers")."""
        name = owner.__name__
        page.heading(level, title or name, name)
        page.text(self.must(source.docstring(owner), name))
        self.body(page, owner, but=but, prefix=prefix)

    def body(self, page: Page, owner: type[Any], *, but: Collection[str] = (), prefix: str = "") -> None:
        """The tables of a class."""
        if issubclass(owner, enum.Enum):
            rows = source.choices(owner)
            page.define(*(f"{owner.__name__}.{row.name}" for row in rows))
            page.table(MEMBER, [(code(row.signature), code(row.default), row.text) for row in rows])
            return
        rows = [row for row in (*source.fields(owner), *source.assigned(owner)) if row.name not in but]
        page.define(*(f"{owner.__name__}.{row.name}" for row in rows))
        page.table(FIELD, [(code(row.signature), _default(owner, row, rows), row.text) for row in rows])
        self.methods(page, owner, but=but, prefix=prefix)

    def methods(self, page: Page, owner: type[Any], *, but: Collection[str] = (), prefix: str = "") -> None:
        """The methods of a class, a table for each group of them."""
        members = [m for m in source.methods(owner) if m.group not in but and m.name not in but]
        for member in members:
            self.must(member.text, f"{owner.__name__}.{member.name}")
        page.define(*_known_as(owner, members, prefix))
        for group in dict.fromkeys(member.group for member in members):
            if group:
                page.text(f"{group[0].upper()}{group[1:]}:")
            page.table(CALL, [(code(m.signature), m.text) for m in members if m.group == group])

    def functions(self, page: Page, functions: Sequence[Callable[..., Any]]) -> None:
        """A table of functions of a module."""
        page.define(*(each.__name__ for each in functions))
        rows = [(code(source.signature(each)), source.docstring(each)) for each in functions]
        for each, (_, text) in zip(functions, rows, strict=True):
            self.must(text, f"{each.__module__}.{each.__name__}")
        page.table(CALL, rows)

    def aliases(self, page: Page, module: str, names: Sequence[str]) -> None:
        """A table of names that a module assigns."""
        known = source.constants(module)
        page.define(*names)
        for name in names:
            self.must(known[name].text, f"{module}.{name}")
        page.table(("Name", "What it is"), [(code(known[n].signature), known[n].text) for n in names])


def _default(owner: type[Any], row: source.Member, rows: Sequence[source.Member]) -> str:
    """The cell for a default: records say what is required, when not all of it is."""
    if row.default:
        return row.default if row.default == source.MADE else code(row.default)
    return "required" if attrs.has(owner) and any(each.default for each in rows) else ""


def _known_as(owner: type[Any], members: Iterable[source.Member], prefix: str) -> list[str]:
    """The names under which texts speak of methods: a name of one word alone could be anything."""
    found = []
    for member in members:
        found.append(f"{owner.__name__}.{member.name}")
        if prefix:
            found.append(f"{prefix}.{member.name}")
        if "_" in member.name and "(" in member.signature:
            found.append(member.name)
    return found
