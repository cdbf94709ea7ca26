"""A mutant: one file of a plugin with one fault planted, known by the spans of text that differ."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path

from attrs import frozen

ROOT = Path(__file__).resolve().parent.parent.parent
CATALOGUE, DRAWN = "catalogue", "drawn"


class MutantError(Exception):
    """A fault cannot be planted."""


@frozen
class Edit:
    """Characters [start, end) of a source become `new`."""

    start: int
    end: int
    new: str


@frozen
class Mutant:
    """`names` are the types for the kit to check; `file` is relative to the project."""

    id: str
    origin: str
    kind: str
    names: tuple[str, ...]
    file: str
    edits: tuple[Edit, ...]
    text: str

    def source(self, root: Path = ROOT) -> str:
        """The file as it is."""
        return read_source(root / self.file)

    def applied(self, source: str) -> str:
        """The file with the fault."""
        for edit in sorted(self.edits, key=lambda each: each.start, reverse=True):
            source = source[: edit.start] + edit.new + source[edit.end :]
        return source

    def line(self, source: str) -> int:
        """The line of the fault, from 1."""
        return source.count("\n", 0, min(edit.start for edit in self.edits)) + 1

    def diff(self, source: str) -> str:
        """What differs, without context."""
        lines = difflib.unified_diff(source.splitlines(), self.applied(source).splitlines(), lineterm="", n=0)
        return "\n".join(line for line in lines if not line.startswith(("---", "+++")))


def read_source(path: Path) -> str:
    """A source text, line ends as they are."""
    return path.read_bytes().decode()


def edit_of(source: str, old: str, new: str, what: str) -> Edit:
    """The edit that replaces the only `old`.  MutantError when there are several, or none."""
    found = source.count(old) if old else 0
    if found != 1:
        raise MutantError(f"{what}: the old text must be there once, and is there {found} times: {old!r}")
    start = source.index(old)
    return Edit(start, start + len(old), new)


def check(mutants: Iterable[Mutant], root: Path = ROOT) -> None:
    """MutantError unless identities are unique and each fault changes a file that still compiles."""
    seen: set[str] = set()
    for mutant in mutants:
        if mutant.id in seen:
            raise MutantError(f"{mutant.id}: two mutants have this name")
        seen.add(mutant.id)
        source = mutant.source(root)
        changed = mutant.applied(source)
        if changed == source:
            raise MutantError(f"{mutant.id}: nothing is changed")
        try:
            compile(changed, mutant.file, "exec", dont_inherit=True)
        except SyntaxError as error:
            raise MutantError(f"{mutant.id}: {mutant.file} does not compile any more: {error}") from None
