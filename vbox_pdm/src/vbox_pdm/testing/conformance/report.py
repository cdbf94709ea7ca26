"""What a check found, for people (text, HTML) and for programs (JSON)."""

from __future__ import annotations

import html
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import asdict, define, field

from vbox_pdm.testing.conformance.violations import PROPERTIES

if TYPE_CHECKING:
    from vbox_pdm.testing.conformance.watched_host import Notes, Watched


@define
class Failure:
    """A property that does not hold.  `steps` lead there, shortest known; `snippet` repeats them."""

    property: str
    text: str
    steps: list[str] = field(factory=list)
    snippet: str = ""
    traceback: str = ""

    def __str__(self) -> str:
        lines = [f"{PROPERTIES[self.property]} [{self.property}]", f"    {self.text}"]
        if self.steps:
            lines.append("Steps:")
            lines += [f"    {number}. {step}" for number, step in enumerate(self.steps, 1)]
        if self.traceback:
            lines += ["Raised by:", *(f"    {line}" for line in self.traceback.splitlines())]
        if self.snippet:
            lines += ["To repeat it:", *(f"    {line}" for line in self.snippet.splitlines())]
        return "\n".join(lines)


@define
class Coverage:
    """What of the regions was reached.  `registers`: of each, by reads and by writes; None where the
    register cannot be accessed so.  `values`: how many different ones were written to a register."""

    region: str
    size: int
    offsets: int = 0
    registers: dict[str, tuple[bool | None, bool | None]] = field(factory=dict)
    values: dict[str, int] = field(factory=dict)
    commands: dict[str, bool] = field(factory=dict)
    """Of each named value of a register, as `COMMAND: READ DMA`: whether it was written."""


@define
class Report:
    """Of one type."""

    name: str
    kind: str
    distribution: str
    profile: str
    seed: int
    seconds: float = 0.0
    examples: int = 0
    steps: int = 0
    checks: list[str] = field(factory=list)
    failures: list[Failure] = field(factory=list)
    notes: list[str] = field(factory=list)
    coverage: list[Coverage] = field(factory=list)

    @property
    def passed(self) -> bool:
        """Whether every property held."""
        return not self.failures

    def __str__(self) -> str:
        head = (
            f"{self.name}: {'passed' if self.passed else 'FAILED'}, {self.examples} examples, "
            f"{self.steps} steps in {self.seconds:.1f} s (profile {self.profile}, seed {self.seed})"
        )
        lines = [head, *(f"  {_line(one)}" for one in self.coverage), *(f"  note: {n}" for n in self.notes)]
        for failure in self.failures:
            lines += ["", str(failure)]
        return "\n".join(lines)

    def as_json(self) -> str:
        """All of it."""
        return json.dumps({"passed": self.passed, **asdict(self)}, indent=1)

    def as_html(self) -> str:
        """A page of its own."""
        return _PAGE.format(
            title=html.escape(self.name), verdict="passed" if self.passed else "failed",
            head=html.escape(str(self).splitlines()[0]),
            failures="".join(f"<pre class=bad>{html.escape(str(f))}</pre>" for f in self.failures),
            coverage="".join(_table(one) for one in self.coverage),
            properties="".join(
                f"<tr><td>{name}<td>{html.escape(text)}"
                f"<td>{'no' if any(f.property == name for f in self.failures) else ''}"
                for name, text in PROPERTIES.items()
            ),
        )  # fmt: skip

    def write(self, folder: Path) -> None:
        """NAME.json and NAME.html, each written beside and renamed."""
        folder.mkdir(parents=True, exist_ok=True)
        for ending, text in ((".json", self.as_json()), (".html", self.as_html())):
            target = folder / (self.name.replace(" ", "_") + ending)
            beside = target.with_name(target.name + ".new")
            beside.write_text(text)
            beside.replace(target)


def coverage(regions: list[Watched], notes: Notes) -> list[Coverage]:
    """What was reached of the regions of a type."""
    found = []
    for watched in regions:
        reached = [(o, s, w) for label, o, s, w in notes.reached if label == watched.label]
        one = Coverage(watched.label, watched.region.size)
        one.offsets = len({at for o, s, _ in reached for at in range(o, o + s)})
        table = watched.region.registers
        for register in table.registers.values() if table is not None else ():
            first, last = register.offset, register.offset + register.size
            sides: list[bool | None] = []
            for way, letter in ((False, "r"), (True, "w")):
                hit = any(w is way and o < last and o + s > first for o, s, w in reached)
                sides.append(hit if letter in register.access else None)
            one.registers[register.name] = (sides[0], sides[1])
            if "w" in register.access:
                written = notes.written.get((watched.label, first), set())
                one.values[register.name] = len(written)
                for value, name in register.values.items():
                    one.commands[f"{register.name}: {name}"] = value in written
        found.append(one)
    return found


def _line(one: Coverage) -> str:
    missed = [
        f"{name} ({'read' if index == 0 else 'written'})"
        for name, sides in one.registers.items()
        for index, side in enumerate(sides)
        if side is False
    ]
    text = f"{one.region}: {one.offsets} of {one.size} offsets reached"
    if one.registers:
        text += f", {len(one.registers)} registers"
        text += f", never {', never '.join(missed)}" if missed else ", each read and written"
    if one.commands:
        text += f", {sum(one.commands.values())} of {len(one.commands)} commands"
    return text


def _table(one: Coverage) -> str:
    rows = "".join(
        f"<tr><td>{html.escape(name)}<td>{_mark(read)}<td>{_mark(written)}<td>{one.values.get(name, '')}"
        for name, (read, written) in one.registers.items()
    )
    head = f"<h2>{html.escape(one.region)}</h2><p>{one.offsets} of {one.size} offsets reached</p>"
    if not rows:
        return head
    table = f"{head}<table><tr><th>register<th>read<th>written<th>different values{rows}</table>"
    left = [name for name, written in one.commands.items() if not written]
    if one.commands:
        table += f"<p>{len(one.commands) - len(left)} of {len(one.commands)} commands were given"
        table += f"; not {html.escape(', '.join(left))}" if left else ""
    return table


def _mark(side: Any) -> str:
    return {True: "yes", False: "<b>never</b>", None: ""}[side]


_PAGE = """<!doctype html><meta charset=utf-8><title>Conformance of {title}</title>
<style>body{{font:16px sans-serif;max-width:60em;margin:2em auto;padding:0 1em}}
table{{border-collapse:collapse}}td,th{{text-align:left;padding:.2em 1em;border-bottom:1px solid #ccc}}
pre{{background:#f4f4f4;padding:1em;overflow:auto}}.bad{{border-left:4px solid #c00}}
.passed{{color:#070}}.failed{{color:#c00}}</style>
<h1>{title}: <span class={verdict}>{verdict}</span></h1><p>{head}</p>
{failures}{coverage}<h2>Properties</h2><table><tr><th>name<th>meaning<th>broken{properties}</table>
"""
