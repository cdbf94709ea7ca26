"""Faults that programmers make, written down by hand in `faults/*.toml`.

    [[fault]]
    id = "serial-ier-mask"
    kind = "missing mask"
    types = ["serial"]
    file = "plugins/pc/src/vbox_plugin_pc/serial.py"
    why = "The upper half of IER reads back what was written."
    old = "        value &= 0x0F\n"
    new = ""

The old text must be in the file exactly once.  A fault that takes more than one place (an import, a
field that a state does not have at all) lists the other pairs in `also = [["old", "new"], ...]`.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from mutants.mutant import CATALOGUE, ROOT, Mutant, MutantError, edit_of, read_source

FAULTS = Path(__file__).parent / "faults"
_KEYS = {"id", "kind", "types", "file", "why", "old", "new"}


def catalogue(folder: Path = FAULTS, root: Path = ROOT, *, stale: list[str] | None = None) -> list[Mutant]:
    """All faults, file after file.  Of one that cannot be planted (the plugin has changed) the reason
    goes to `stale`, where that is given; otherwise it is a MutantError."""
    found = []
    for path in sorted(folder.glob("*.toml")):
        for entry in tomllib.loads(path.read_text())["fault"]:
            try:
                found.append(_mutant(entry, path.name, root))
            except MutantError as error:
                if stale is None:
                    raise
                stale.append(str(error))
    return found


def _mutant(entry: dict[str, Any], where: str, root: Path) -> Mutant:
    if not _KEYS <= entry.keys() <= _KEYS | {"also"}:
        raise MutantError(f"{where}: a fault needs the keys {', '.join(sorted(_KEYS))}: {entry}")
    source = read_source(root / entry["file"])
    pairs = [(entry["old"], entry["new"]), *entry.get("also", ())]
    return Mutant(
        entry["id"],
        CATALOGUE,
        entry["kind"],
        tuple(entry["types"]),
        entry["file"],
        tuple(edit_of(source, old, new, entry["id"]) for old, new in pairs),
        entry["why"],
    )
