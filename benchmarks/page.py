"""docs/performance.md and its picture, from what is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import boots
import budgets
import disks
import host
import marks
import plot
import system
from peers import ROOT, Machine
from results import Figures, mean

DOCS = ROOT / "docs"
PAGE, PICTURE = "performance.md", "images/performance.svg"
PEER = budgets.PEER
CAPTION = "Times QEMU's TCG, on a logarithmic scale: to the left of 1 is faster"

_HEAD = """\
# How fast it is

Written by `make bench`, which measures ours and its peers by turns in one run; figures are medians of
{runs}. A ratio under 1 means that ours is faster than QEMU's TCG.

{hosts}

{machines}

QEMU has no more devices than ours: `-M pc,acpi=off -cpu qemu64,-apic -smp 1 -nic none`, the same firmware,
disks and console; "its defaults" is `-M pc`. To measure again: `apt-get install qemu-system-x86 gcc
binutils`, where wanted `bochs` and `nodejs` with `npm install --prefix .cache/v86 v86`, and `make bench`;
parts of it with `benchmarks/performance.py --only cpu` and the like.
"""
_BUDGETS = """\

## Budgets of {title}
{remark}
| what | budget | measured | kept |
|---|--:|--:|---|"""
_FALLBACK = """
What runs where there was no compiler; the budgets are those of `rem`.
"""
_CPU = """\

## CPU-bound code

Seconds of [kernels](../benchmarks/guest/kernels.c), the same code on all machines: 32 bits without paging,
32 bits with pages of 4 KiB, 64 bits.
"""
_CPU_NOTE = """\
What 1.0 in flat32 would need: nothing more of the translator for loops of plain instructions. For
`arithmetic` both generate the same host code, instruction by instruction, the check at the start of a block
included (seen in the translation buffers of both), so that what is not 1 there is the host's noise.
`dispatch`, `wide` and `copies` go through functions of libunicorn (a jump to a computed address looks its
block up, ADC asks for the carry); the wheel is built without link-time optimisation and each of its calls
goes through the global offset table. A libunicorn built as QEMU is would be the next step; which part that
has was not measured.
"""
_SYSTEM = """\

## Exceptions, interrupts and devices

Nanoseconds an operation, [the same code](../benchmarks/guest/system.c) on all machines; exits are the whole
instruction with its loop. Ticks are what a computation takes longer, in per cent, and below 0 where the
host ran faster meanwhile. Bochs' time goes with its instructions, so its ticks say nothing.
"""
_HOST = """\

## Interrupts from outside, and exits under load

A device that a plugin brings raises a line after a request from another thread, as a disk's completion does.
Posted: from the request to the device's callback; raised: from the line to the first instruction of the
guest's handler. An exit is a read of a UART's line status. There is no network device yet, so no network
worker.
"""
_BOOTS = """\

## Boots

Seconds from the start of the process to the prompt of a shell on Debian's kernel. QEMU has no way around its
firmware: `direct` is compared with its `-kernel`.
"""
_DISKS = """\

## Disk reads

MiB a second of a raw IDE disk, by DMA, in Linux; here more is better.
"""


def write(figures: Figures, machines: Sequence[Machine], folder: Path = DOCS) -> None:
    """Both files, from what is kept; nothing is written when nothing is, and no picture without ratios."""
    if not figures:
        return
    rows = _ratios(figures, machines)
    (folder / PAGE).write_text("\n".join(_lines(figures, machines, with_picture=bool(rows))) + "\n")
    if rows:
        shown = [each.title for each in machines if any(each.title in row.ratios for row in rows)]
        picture = folder / PICTURE
        picture.parent.mkdir(exist_ok=True)
        picture.write_text(plot.svg(CAPTION, shown, rows))


def _lines(figures: Figures, machines: Sequence[Machine], *, with_picture: bool) -> Iterator[str]:
    runs = sorted({len(values) for figure in figures.values() for values in figure.values.values()})
    least, most = runs[0], runs[-1]
    number = f"{least} run{'s' if least > 1 else ''}" if least == most else f"{least} to {most} runs"
    hosts = sorted({figure.host for figure in figures.values()})
    dates = sorted({figure.date for figure in figures.values()})
    where = f"Measured on {'; '.join(hosts)}, {' to '.join(dict.fromkeys((dates[0], dates[-1])))}."
    yield _HEAD.format(runs=number, hosts=where, machines="\n".join(_versions(figures, machines)))
    if with_picture:
        yield f"\n![{CAPTION}]({PICTURE})\n"
    for machine in _measured(figures, machines, ""):
        if machine.ours:
            yield from _budget_lines(figures, machine)
    if least < budgets.LEAST_RUNS:
        yield f"\nVerdicts need {budgets.LEAST_RUNS} runs; some figures have fewer."
    yield _CPU
    for mode in marks.MODES:
        names = {name: name for name in marks.works("kernels.c")}
        yield from _table(figures, machines, f"cpu/{mode}", mode, names, "{:.3f}".format, means=True)
    yield _CPU_NOTE
    yield _SYSTEM
    for mode in system.MODES:
        yield from _table(figures, machines, f"system/{mode}", mode, system.TITLES, "{:,.1f}".format)
    yield _HOST
    yield from _table(figures, machines, "host/latency", "µs", host.LATENCY_TITLES, "{:.1f}".format)
    yield from _table(figures, machines, "host/exit", "ns an exit", host.LOADS, "{:,.0f}".format)
    yield _BOOTS
    titles = {f"{name}/shell": f"{name}: {title}" for name, title in boots.TITLES.items()}
    yield from _table(figures, machines, "boots", "boot", titles, "{:.2f}".format)
    yield _DISKS
    yield from _table(figures, machines, "disks/read", "read", disks.TITLES, "{:,.0f}".format)


def _versions(figures: Figures, machines: Sequence[Machine]) -> Iterator[str]:
    """A line a machine: which version was measured, or why none was."""
    for machine in machines:
        known = {
            figure.versions[machine.name] for figure in figures.values() if machine.name in figure.versions
        }
        what = "; ".join(sorted(known)) or machine.missing or "not measured"
        yield f"- {machine.title}: {what}"


def _budget_lines(figures: Figures, machine: Machine) -> Iterator[str]:
    yield _BUDGETS.format(title=machine.title, remark="" if machine.name == "rem" else _FALLBACK)
    for verdict in budgets.verdicts(figures, machine.name):
        measured = "" if verdict.value is None else f"{verdict.value:,.3g}"
        kept = {True: "yes", False: "**no**", None: "not measured"}[verdict.kept]
        yield f"| {verdict.title} | {verdict.most:g} {verdict.unit} | {measured} | {kept} |"


def _measured(figures: Figures, machines: Sequence[Machine], prefix: str) -> list[Machine]:
    """The machines that have a figure whose name begins so."""
    return [
        machine
        for machine in machines
        if any(machine.name in figure.values for name, figure in figures.items() if name.startswith(prefix))
    ]


def _table(
    figures: Figures,
    machines: Sequence[Machine],
    prefix: str,
    title: str,
    names: Mapping[str, str],
    text: Callable[[float], str],
    *,
    means: bool = False,
) -> Iterator[str]:
    """A row a figure, a column a machine; ratios of ours to the peer, and with `means` all their means."""
    columns = _measured(figures, machines, f"{prefix}/")
    if not columns:
        yield f"{title}: not measured.\n"
        return
    has_peer = any(machine.name == PEER for machine in columns)
    compared = [machine for machine in columns if machine.ours and has_peer]
    heads = [machine.title for machine in columns]
    heads += ["ratio" if len(compared) == 1 else f"ratio, {machine.name}" for machine in compared]
    yield f"| {title} | " + " | ".join(heads) + " |"
    yield "|---|" + "--:|" * len(heads)
    for name, label in names.items():
        figure = figures.get(f"{prefix}/{name}")
        if figure is None:
            continue
        medians = [figure.median(machine.name) for machine in columns]
        cells = ["" if value is None else text(value) for value in medians]
        for machine in compared:
            ratio = None if name in system.TICKS else figure.ratio(machine.name, PEER)
            cells.append("" if ratio is None else f"{ratio:.2f}")
        yield f"| {label} | " + " | ".join(cells) + " |"
    if means:
        cells = [_mean(figures, f"{prefix}/", machine) for machine in columns]
        cells += [_mean(figures, f"{prefix}/", machine) for machine in compared]
        yield "| times QEMU, geometric mean | " + " | ".join(cells) + " |"
    yield ""


def _mean(figures: Figures, prefix: str, machine: Machine) -> str:
    ratios = budgets.ratios_of(figures, prefix, machine.name)
    return f"{mean(ratios):.2f}" if ratios else ""


def _ratios(figures: Figures, machines: Sequence[Machine]) -> list[plot.Row]:
    """The rows of the picture: means of kernels, exceptions, code, boots."""
    groups = {f"CPU kernels, {mode}": f"cpu/{mode}/" for mode in marks.MODES}
    for name in ("int", "fault", "switch", "cold", "rewritten", "irq"):
        groups[_short(name)] = f"system/{system.MODES[0]}/{name}"  # where all take part
    groups.update({f"boot: {name}": f"boots/{name}/" for name in boots.SCENARIOS})
    rows = []
    for label, prefix in groups.items():
        ratios: dict[str, float] = {}
        for machine in machines:
            values = budgets.ratios_of(figures, prefix, machine.name)
            if values and machine.name != PEER:
                ratios[machine.title] = mean(values)
        if ratios:
            rows.append(plot.Row(label, ratios))
    return rows


def _short(name: str) -> str:
    """A title that has room beside the picture."""
    title = system.TITLES[name].partition(" (")[0]
    shorter = {
        "switch": "CR3 switch, 8 loads",
        "cold": "code executed once",
        "rewritten": "code over old code",
        "irq": "interrupt of a UART",
    }
    return shorter.get(name, title)
