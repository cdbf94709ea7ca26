"""What the runs say: tables for the terminal, and docs/plugins/mutants.md.

`survivors.toml` says why a mutant lives that the kit did not find:

    [[survivor]]
    id = "pit:Pit.follow:comparison:1a2b3c"
    class = "equivalent"
    why = "Both ways mean the same."

Classes are those of CLASSES.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path

from attrs import frozen

from mutants.mutant import CATALOGUE, DRAWN, MutantError
from mutants.results import Result
from mutants.run import Outcome

SURVIVORS = Path(__file__).parent / "survivors.toml"
CLASSES = {
    "equivalent": "No difference that anybody could see.",
    "specification": "Only who knows the chip can tell: a test of the device itself finds it.",
    "untested": "Only who knows the chip can tell, and no test of the device does yet.",
    "hole": "A conformance kit could find it, and ours does not yet.",
}
_TITLES = {CATALOGUE: "Faults written down by hand", DRAWN: "Faults drawn by chance"}


@frozen
class Survivor:
    """Why a mutant lives."""

    id: str
    kind: str
    why: str


def survivors(path: Path = SURVIVORS) -> dict[str, Survivor]:
    """The classified ones, by identity.  MutantError for a class that there is not."""
    found: dict[str, Survivor] = {}
    if not path.is_file():
        return found
    for entry in tomllib.loads(path.read_text()).get("survivor", ()):
        if entry["class"] not in CLASSES:
            raise MutantError(
                f"{path.name}: {entry['id']} has the class {entry['class']!r}, which there is not"
            )
        found[entry["id"]] = Survivor(entry["id"], entry["class"], entry["why"])
    return found


@frozen
class Row:
    """A kind of fault in numbers."""

    kind: str
    killed: int
    hung: int
    broke: int
    doubtful: int
    total: int

    @property
    def rate(self) -> str:
        """Killed of all."""
        return f"{100 * self.killed / self.total:.0f} %" if self.total else "-"


def rows(results: Iterable[Result]) -> list[Row]:
    """By kind, the commonest first, and the sum of all."""
    by_kind: dict[str, list[Result]] = {}
    everything = list(results)
    for result in everything:
        by_kind.setdefault(result.kind, []).append(result)
    found = [_row(kind, them) for kind, them in by_kind.items()]
    return [*sorted(found, key=lambda row: (-row.total, row.kind)), _row("all", everything)]


def _row(kind: str, results: Sequence[Result]) -> Row:
    outcomes = [result.outcome for result in results]
    return Row(
        kind,
        outcomes.count(Outcome.KILLED),
        outcomes.count(Outcome.HUNG),
        outcomes.count(Outcome.BROKE),
        outcomes.count(Outcome.DOUBTFUL),
        len(outcomes),
    )


def summary(results: Sequence[Result]) -> str:
    """For the terminal: tables, what broke how often, survivors."""
    out = []
    for origin, title in _TITLES.items():
        mine = [result for result in results if result.origin == origin]
        if mine:
            out += ["", f"{title}: {len(mine)}", *_table(rows(mine)), "", "found by:", *_finders(mine)]
    left = [result for result in results if result.outcome is not Outcome.KILLED]
    if left:
        out += ["", f"Not found: {len(left)}"]
        out += [
            _survivor(result) for result in sorted(left, key=lambda each: (each.origin, each.file, each.line))
        ]
    return "\n".join(out).lstrip("\n")


def _table(found: Sequence[Row]) -> list[str]:
    wide = max(len(row.kind) for row in found)
    lines = [f"{'kind':{wide}}  killed   of    rate  kit hung  kit broke  doubtful"]
    for row in found:
        more = f"{row.hung or '':>8}  {row.broke or '':>9}  {row.doubtful or '':>8}"
        lines.append(f"{row.kind:{wide}}  {row.killed:6} {row.total:4}  {row.rate:>6}  {more}".rstrip())
    return lines


def _finders(results: Iterable[Result]) -> list[str]:
    """Which property was the first to break, and how often."""
    count: dict[str, int] = {}
    for result in results:
        if result.properties and result.outcome is Outcome.KILLED:
            name = result.properties[0].partition(": ")[2] or result.properties[0]
            count[name] = count.get(name, 0) + 1
    return [
        f"{number:5} {name}" for name, number in sorted(count.items(), key=lambda each: (-each[1], each[0]))
    ]


def _survivor(result: Result) -> str:
    lines = [
        f"{result.outcome.value}: {result.id} ({', '.join(result.names)}) {result.file}:{result.line}",
        f"    {result.text}",
    ]
    if result.unit is not None:
        lines.append(f"    unit tests: {result.unit or 'all pass'}")
    if result.outcome is not Outcome.LIVED:
        lines.append(f"    {result.said.splitlines()[-1] if result.said else ''}")
    return "\n".join(lines)


def unclassified(results: Iterable[Result], classes: dict[str, Survivor]) -> list[Result]:
    """Survivors that nobody has looked at."""
    return [result for result in results if result.outcome is not Outcome.KILLED and result.id not in classes]


def document(results: Sequence[Result], classes: dict[str, Survivor], how: str) -> str:
    """docs/plugins/mutants.md; `how` says what was run."""
    out = [
        "# How good the conformance kit is",
        "",
        "Faults are planted in this project's own devices and drivers, one at a time, and the conformance",
        "kit is asked about each. `make mutants` does it again; `scripts/mutants` has the faults.",
        "",
        how,
    ]
    for origin, title in _TITLES.items():
        mine = [result for result in results if result.origin == origin]
        if not mine:
            continue
        out += ["", f"## {title}", "", "| kind | found | of | rate |", "|---|--:|--:|--:|"]
        out += [f"| {row.kind} | {row.killed} | {row.total} | {row.rate} |" for row in rows(mine)]
        left = [result for result in mine if result.outcome is not Outcome.KILLED]
        for kind, meaning in CLASSES.items():
            those = [each for each in left if each.id in classes and classes[each.id].kind == kind]
            out += _section(kind, meaning, those, classes)
        out += _section("not looked at", "Nobody has classified these.", unclassified(left, classes), classes)
    return "\n".join(out) + "\n"


def _section(title: str, meaning: str, results: Sequence[Result], classes: dict[str, Survivor]) -> list[str]:
    if not results:
        return []
    out = ["", f"### Not found: {title} ({len(results)})", "", meaning, ""]
    for result in sorted(results, key=lambda each: (each.file, each.line)):
        why = f" {classes[result.id].why}" if result.id in classes else ""
        test = f" Found by `{result.unit}`." if result.unit else ""
        out.append(f"- `{result.id}` ({result.file}): {_code(result.text)}.{why}{test}")
    return out


def _code(text: str) -> str:
    """What changed, so that Markdown leaves it alone."""
    text = text.rstrip(".")
    if " -> " not in text:
        return text
    where, _, change = text.partition(": ")
    return f"{where}: `` {change} ``"
