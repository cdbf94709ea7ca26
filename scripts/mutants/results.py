"""Results of all runs in one JSON file, so that a run that was ended goes on where it was.

A result belongs to what was run: the plugin with its fault, the types, the contract with the kit in
it, and the kit's options.  When any of these changes, the mutant is tried again.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from attrs import asdict, evolve, frozen

from mutants.mutant import ROOT, Mutant
from mutants.run import Options, Outcome, Verdict
from mutants.sources import Distribution, digest, kit_digest


@frozen
class Result:
    """One mutant, or (without origin) a type as it is.  `unit` is the plugin's own test that fails
    first: None when they were not run, empty when all of them pass."""

    key: str
    id: str
    origin: str
    kind: str
    names: tuple[str, ...]
    file: str
    line: int
    text: str
    diff: str
    outcome: Outcome
    properties: tuple[str, ...]
    said: str
    seconds: float
    unit: str | None = None


def words_of(properties: Sequence[str], said: str) -> str:
    """What the kit said first, without numbers: the same words about two faults are suspicious."""
    text = re.sub(r"0x[0-9a-fA-F]+|-?\d+|b'[^']*'|True|False", "#", said.partition("\n")[0])
    return f"{properties[0] if properties else ''}: {text[:120]}"


def key_of(
    mutant: Mutant | None,
    names: Iterable[str],
    distribution: Distribution,
    options: Options,
    root: Path = ROOT,
) -> str:
    """What a result depends on, as a hash."""
    parts = [
        digest(distribution.source),
        kit_digest(root),
        *options.command[1:],
        *options.arguments(),
        *names,
    ]
    if mutant is not None:
        parts += [mutant.file, *(f"{each.start} {each.end} {each.new}" for each in mutant.edits)]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:20]


def result_of(
    mutant: Mutant | None, names: tuple[str, ...], key: str, verdict: Verdict, root: Path = ROOT
) -> Result:
    """The record of a verdict, on a mutant or on a type as it is."""
    source = "" if mutant is None else mutant.source(root)
    return Result(
        key,
        f"as it is: {', '.join(names)}" if mutant is None else mutant.id,
        "" if mutant is None else mutant.origin,
        "" if mutant is None else mutant.kind,
        names,
        "" if mutant is None else mutant.file,
        0 if mutant is None else mutant.line(source),
        "" if mutant is None else mutant.text,
        "" if mutant is None else mutant.diff(source),
        verdict.outcome,
        verdict.properties,
        verdict.said,
        round(verdict.seconds, 1),
    )


class Results:
    """The file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._by_key: dict[str, Result] = {}
        if path.is_file():
            for entry in json.loads(path.read_text())["results"]:
                result = _read(entry)
                self._by_key[result.key] = result

    def get(self, key: str) -> Result | None:
        """What is known of a run."""
        return self._by_key.get(key)

    def latest(self, mutant: str) -> Result | None:
        """The newest result of a mutant, whatever it was tried with."""
        found = None
        for result in self._by_key.values():
            if result.id == mutant:
                found = result
        return found

    def put(self, result: Result) -> None:
        """Keep a result; the file is written at once."""
        self._by_key.pop(result.key, None)
        self._by_key[result.key] = result
        self._write()

    def note_unit(self, key: str, test: str) -> None:
        """Keep what the plugin's own tests said."""
        self._by_key[key] = evolve(self._by_key[key], unit=test)
        self._write()

    def doubt(self, key: str) -> None:
        """What was found is no merit: see Outcome.DOUBTFUL."""
        self._by_key[key] = evolve(self._by_key[key], outcome=Outcome.DOUBTFUL)
        self._write()

    def _write(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        beside = self._path.with_name(self._path.name + ".new")
        entries = [asdict(result, value_serializer=_plain) for result in self._by_key.values()]
        beside.write_text(json.dumps({"results": entries}, indent=1) + "\n")
        beside.replace(self._path)


def _plain(instance: Any, attribute: Any, value: Any) -> Any:
    return value.value if isinstance(value, Outcome) else value


def _read(entry: dict[str, Any]) -> Result:
    return Result(
        **{
            **entry,
            "names": tuple(entry["names"]),
            "properties": tuple(entry["properties"]),
            "outcome": Outcome(entry["outcome"]),
        }
    )
