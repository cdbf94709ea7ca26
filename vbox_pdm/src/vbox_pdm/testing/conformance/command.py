"""The command line of the kit: each type is checked in a process of its own.

So a device that never returns, kills the process or changes it for good costs its own check alone.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import attrs
from attrs import field, frozen

from vbox_pdm.catalogue import Catalogue, Plugin
from vbox_pdm.device import DeviceType
from vbox_pdm.driver import DriverType
from vbox_pdm.errors import PdmError
from vbox_pdm.testing.conformance.report import Failure, Report
from vbox_pdm.testing.conformance.setup import ACCESS_WALL, PROFILES, SLOWEST, Profile

PASSED, FAILED, USAGE = 0, 1, 2
OPTIONS = {
    "file": "a plugin that is a single file; without NAME all its types are checked",
    "profile": "how long: quick (10 seconds), thorough (5 minutes), long (an hour)",
    "budget": "another time than the profile's, in seconds",
    "seed": "what is tried first; the same seed, the same steps",
    "report": "write NAME.json and NAME.html into this folder",
    "config": "a configuration key of all instances, as key=value; may be repeated",
    "cpu-time": "the time is CPU time of the check, so that it tries as much on a busy machine",
    "jobs": "how many types are checked at the same time",
    "corpus": "a folder that keeps what was interesting, to begin with it next time",
}
"""Name and help of each option."""


@frozen
class Request:
    """What is asked for."""

    names: Sequence[str]
    file: Path | None = None
    profile: str = "quick"
    budget: float | None = None
    seed: int = 0
    report: Path | None = None
    config: Sequence[str] = field(factory=list)
    corpus: Path | None = None
    jobs: int = 1
    cpu_time: bool = False


def main(arguments: Sequence[str] | None = None) -> int:
    """For `python -m vbox_pdm.testing.conformance`."""
    parser = argparse.ArgumentParser(
        prog="python -m vbox_pdm.testing.conformance",
        description="Check whether devices and drivers keep the contract.",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="device or driver types; `all` for all")
    parser.add_argument("--file", type=Path, metavar="PATH", help=OPTIONS["file"])
    parser.add_argument("--profile", choices=sorted(PROFILES), default="quick", help=OPTIONS["profile"])
    parser.add_argument("--budget", type=float, metavar="SECONDS", help=OPTIONS["budget"])
    parser.add_argument("--seed", type=int, default=0, help=OPTIONS["seed"])
    parser.add_argument("--report", type=Path, metavar="DIR", help=OPTIONS["report"])
    parser.add_argument("--config", action="append", default=[], metavar="KEY=VALUE", help=OPTIONS["config"])
    parser.add_argument("--corpus", type=Path, metavar="DIR", help=OPTIONS["corpus"])
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help=OPTIONS["jobs"])
    parser.add_argument("--cpu-time", action="store_true", help=OPTIONS["cpu-time"])
    parser.add_argument("--in-process", action="store_true", help="not in a process of its own")
    parser.add_argument("--verdict", type=Path, help=argparse.SUPPRESS)  # for who waits for this process
    options = vars(parser.parse_args(arguments))
    in_process, verdict = options.pop("in_process"), options.pop("verdict")
    try:
        status = run(Request(**options), in_process=in_process)
        if verdict is not None:
            verdict.write_text(str(status))
        return status
    except PdmError as error:
        print(error, file=sys.stderr)
        return USAGE


def run(request: Request, *, in_process: bool = False) -> int:
    """Check what was asked for; 0 when all passed, 1 when something did not.  PdmError for a wrong
    request."""
    profile = profile_of(request.profile, request.budget, cpu=request.cpu_time)
    parse_config(request.config)
    if request.jobs < 1:
        raise PdmError("VERR_OUT_OF_RANGE", f"{request.jobs} jobs at a time check nothing", "Give 1 or more")
    catalogue = Catalogue()
    names = _names(catalogue, request.names, request.file)
    if in_process:
        passed = [_here(catalogue, name, profile, request) for name in names]
    else:
        with ThreadPoolExecutor(request.jobs) as pool:
            passed = list(pool.map(lambda name: _child(name, profile, request), names))
    return PASSED if all(passed) else FAILED


def profile_of(name: str, budget: float | None, *, cpu: bool = False) -> Profile:
    """A profile, perhaps with another time."""
    profile = PROFILES[name]
    if budget is None:
        return attrs.evolve(profile, cpu=cpu)
    if budget <= 0:
        raise PdmError("VERR_OUT_OF_RANGE", f"A budget of {budget} seconds is no time", "Give more than 0")
    return attrs.evolve(profile, seconds=budget, cpu=cpu)


def parse_config(items: Sequence[str]) -> dict[str, object]:
    """KEY=VALUE."""
    found: dict[str, object] = {}
    for item in items:
        key, equals, value = item.partition("=")
        if not equals:
            raise PdmError("VERR_INVALID_PARAMETER", f"'{item}' is no KEY=VALUE", "Write key=value")
        found[key] = value
    return found


def types_of(plugin: Plugin) -> list[str]:
    """The names of the types of a plugin."""
    return [kind.name for kind in plugin.devices] + [kind.name for kind in plugin.drivers]


def find(catalogue: Catalogue, name: str) -> tuple[DeviceType | DriverType, Plugin]:
    """A device or driver type and its plugin.  PdmError when there is none."""
    try:
        return catalogue.device(name)
    except PdmError as error:
        try:
            return catalogue.driver(name)
        except PdmError:
            text = f"No device or driver is named '{name}'"
            raise PdmError(error.status, text, error.remedy) from None


def _names(catalogue: Catalogue, names: Sequence[str], file: Path | None) -> list[str]:
    own = types_of(catalogue.add_file(file)) if file is not None else []
    if not names and not own:
        raise PdmError("VERR_INVALID_PARAMETER", "Nothing to check", "Name a type, give --file, or say `all`")
    if "all" in names:
        catalogue.load_all()
        return [name for plugin in catalogue.plugins for name in types_of(plugin)]
    for name in names:
        find(catalogue, name)
    return list(dict.fromkeys(names)) or own


def _here(catalogue: Catalogue, name: str, profile: Profile, request: Request) -> bool:
    from vbox_pdm.testing.conformance.run import check  # brings hypothesis

    kind, plugin = find(catalogue, name)
    with _standard_output_elsewhere():
        report = check(
            kind,
            profile,
            seed=request.seed,
            plugin=plugin,
            config=parse_config(request.config),
            corpus=request.corpus,
        )
    return _tell(report, request)


@contextmanager
def _standard_output_elsewhere() -> Iterator[None]:
    """A driver whose other end is the standard output must not write into what we say."""
    sys.stdout.flush()
    ours = os.dup(1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(ours, 1)
        os.close(ours)


def _tell(report: Report, request: Request) -> bool:
    print(report, flush=True)
    if request.report is not None:
        report.write(request.report)
    return report.passed


def _child(name: str, profile: Profile, request: Request) -> bool:
    command = [sys.executable, "-m", "vbox_pdm.testing.conformance", name, "--in-process"]
    command += ["--profile", profile.name, "--seed", str(request.seed), "--budget", str(profile.seconds)]
    for option in ("file", "report", "corpus"):
        value = getattr(request, option)
        if value is not None:
            command += [f"--{option}", str(value)]
    for item in request.config:
        command += ["--config", item]
    if profile.cpu:
        command.append("--cpu-time")
    patience = profile.seconds * (SLOWEST if profile.cpu else 1) + profile.shrink + 6 * ACCESS_WALL
    with tempfile.TemporaryDirectory(prefix="vbox-conformance-") as folder:
        verdict = Path(folder, "verdict")  # a plugin may end its process with any status, 0 too
        command += ["--verdict", str(verdict)]
        try:
            done = subprocess.run(command, timeout=patience, check=False, stdout=subprocess.PIPE)
        except subprocess.TimeoutExpired:
            text = f"it did not come to an end within {patience:g} s, and was killed"
        else:
            print(done.stdout.decode(errors="replace"), end="", flush=True)
            if verdict.exists():
                return verdict.read_text() == str(PASSED)
            text = f"its process ended with status {done.returncode}"
    report = Report(name, "type", "", profile.name, request.seed, failures=[Failure("no-hang", text)])
    return _tell(report, request)
