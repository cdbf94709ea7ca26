"""A Python snippet that repeats the steps of a failure on a bench."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vbox_pdm.driver import DriverType
from vbox_pdm.layers import CharStream
from vbox_pdm.testing.conformance.rig import Subject


def snippet(subject: Subject, config: Mapping[str, object], log: Sequence[tuple[str, str]]) -> str:
    """What an author pastes into a test."""
    code = [line for _, part in log for line in part.splitlines() if line]
    text = "\n".join(code)
    lines = ["from vbox_pdm.testing import Bench"]
    names = [name for name in ("calm", "set_mood") if f"{name}(" in text]
    neighbours = bool(subject.luns) or isinstance(subject.type, DriverType)
    if neighbours:
        lines.append("from vbox_pdm.testing.conformance import neighbours")
        if names:
            lines.append(f"from vbox_pdm.testing.conformance.neighbours import {', '.join(names)}")
    if "stand.drive" in text:
        lines.append("from vbox_pdm.testing.conformance.stand import STAND")
    if "DriveReset." in text:
        lines.append("from vbox_pdm.drive import DriveReset")
    if "media.submit" in text or "drive.submit" in text:
        lines.append("from vbox_pdm.media import MediaOp")
        lines.append("from vbox_pdm.testing.conformance.oracles import DriveOracle, MediaOracle")
        lines.append("from vbox_pdm.testing.conformance.traffic import DriveAsk, MediaAsk")
    lines += ["", f"bench = Bench(ram={subject.setup.ram:#x}, seed=7)"]
    if "stand.drive" in text:
        lines.append("stand = bench.add(STAND)")
    if subject.file is not None:
        lines.append(f"bench.plugin({str(subject.file)!r})")
    for companion in subject.setup.companions:
        name, values = (companion, {}) if isinstance(companion, str) else companion
        lines.append(f"bench.add({name!r}, config={dict(values)!r})")
    given = f", config={dict(config)!r}" if config else ""
    for number, layer in subject.luns.items():
        lines.append(f"from {_module(layer.name)} import {layer.name}")
        lines.append(f"lun{number} = neighbours.below({layer.name}, [])")
        if layer is CharStream and not isinstance(subject.type, DriverType):
            lines.append(f"lun{number}.relents = True")
    if isinstance(subject.type, DriverType):
        serves = subject.type.serves.name
        lines.append(f"from {_module(serves)} import {serves}")
        lines.append(f"above = neighbours.above({serves}, [])")
        below = ", below=lun0" if subject.luns else ""
        lines.append(f"device = bench.add_driver({subject.name!r}, above=above{below}{given})")
        if "media.submit" in text:
            lines.append("media = MediaOracle()")
        if "drive.submit" in text:
            lines.append("drive = DriveOracle()")
    else:
        luns = "".join(f", lun{number}=lun{number}" for number in subject.luns)
        lines.append(f"device = bench.add({subject.name!r}{given}{luns})")
    return "\n".join(lines + code) + "\n"


def _module(layer: str) -> str:
    return {"Media": "vbox_pdm.media", "Drive": "vbox_pdm.drive", "Display": "vbox_pdm.display"}.get(
        layer, "vbox_pdm.layers"
    )
