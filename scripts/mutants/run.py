"""Runs the kit, or a plugin's own tests, on a mutant: a process of its own with limits of its own.

Traps
- A mutant that hangs is killed by the kit, which says so: that is a fault found.  When our limit
  has to end the kit itself, that is a hole in the kit, and counted as such.
- Status 1 without a report is no verdict: the kit fell over.
"""

from __future__ import annotations

import enum
import json
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from attrs import evolve, frozen

from mutants.mutant import ROOT, Mutant
from mutants.sources import CONTRACT, Distribution, make_overlay

KIT = (sys.executable, "-m", "vbox_pdm.testing.conformance")
PASSED, FAILED, USAGE = 0, 1, 2
SECONDS = {"quick": 10.0, "thorough": 300.0, "long": 3600.0}
"""What the kit's profiles take for a type, of CPU time."""
TEST_SECONDS = 300.0
NOT_USABLE = "not usable"
"""In place of a property: the plugin did not load, or its type was refused."""


class Outcome(enum.Enum):
    """What became of a mutant."""

    KILLED = "killed"
    LIVED = "lived"
    HUNG = "kit hung"
    BROKE = "kit broke"
    DOUBTFUL = "doubtful"  # the kit says the same of the type as it is, with another seed


@frozen
class Options:
    """How the kit is run.  `limit` is for one type, in seconds; `memory` in MiB."""

    command: tuple[str, ...] = KIT
    profile: str = "quick"
    seed: int = 0
    budget: float | None = None
    limit: float | None = None
    memory: int = 4096

    @property
    def patience(self) -> float:
        """Seconds after which a check of one type is ended."""
        return self.limit or 5 * (self.budget or SECONDS[self.profile]) + 200

    def arguments(self) -> list[str]:
        """What a verdict depends on."""
        found = ["--profile", self.profile, "--seed", str(self.seed), "--cpu-time"]
        return found if self.budget is None else [*found, "--budget", f"{self.budget:g}"]


@frozen
class Verdict:
    """`properties` are those that do not hold, as TYPE: PROPERTY; `said` is the first one's text, or the end
    of what the kit printed."""

    outcome: Outcome
    properties: tuple[str, ...]
    said: str
    seconds: float


class Stopped(Exception):
    """The run was ended."""


class Runner:
    """Runs processes on the plugins and the contract below `root`."""

    def __init__(self, options: Options, root: Path = ROOT) -> None:
        self.options = options
        self.root = root
        self._live: set[subprocess.Popen[bytes]] = set()
        self._stopped = False

    def stop(self) -> None:
        """End all processes.  Any thread."""
        self._stopped = True
        for process in list(self._live):
            _end(process)

    def check(
        self,
        names: Sequence[str],
        distribution: Distribution,
        mutant: Mutant | None,
        *,
        seed: int | None = None,
    ) -> Verdict:
        """What the kit says to these types of the distribution, with a fault or as it is; `seed` instead
        of the one in the options."""
        options = self.options if seed is None else evolve(self.options, seed=seed)
        with tempfile.TemporaryDirectory(prefix="mutant-") as scratch:
            folder = Path(scratch)
            reports = folder / "reports"
            command = [*options.command, *names, *options.arguments(), "--report", str(reports)]
            start = time.monotonic()
            limit = options.patience * len(names)
            status, said = self._run(command, folder, distribution, mutant, limit)
            seconds = time.monotonic() - start
            if status is None:
                return Verdict(Outcome.HUNG, (), f"ended after {limit:g} s: {said}", seconds)
            properties, text = _failures(reports)
            if status == PASSED:
                return Verdict(Outcome.LIVED, (), "", seconds)
            if status == FAILED and properties:
                return Verdict(Outcome.KILLED, properties, text, seconds)
            if status == USAGE and mutant is not None:
                return Verdict(Outcome.KILLED, (NOT_USABLE,), said, seconds)
            return Verdict(Outcome.BROKE, (), f"status {status}: {said}", seconds)

    def first_failing_test(self, distribution: Distribution, mutant: Mutant) -> str:
        """The first of the plugin's own tests that fails on the mutant; empty when all pass."""
        tests = _in_order(distribution.folder / "tests", mutant)
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-rfE", "--no-header", "--color=no"]
        command += ["-p", "no:cacheprovider", "--timeout", "60"]
        command += ["-c", str(self.root / "pyproject.toml"), "--rootdir", str(self.root), *map(str, tests)]
        with tempfile.TemporaryDirectory(prefix="mutant-") as scratch:
            status, said = self._run(command, Path(scratch), distribution, mutant, TEST_SECONDS)
        if status == PASSED:
            return ""
        if status is None:
            return f"the tests do not end within {TEST_SECONDS:g} s"
        found = re.search(r"^(?:FAILED|ERROR) (\S+)", said, re.MULTILINE)
        if found is not None:
            return re.sub(r"^.*/", "", found[1])
        return "a test that does not return" if "Timeout" in said else f"pytest ends with status {status}"

    def _run(
        self,
        command: Sequence[str],
        folder: Path,
        distribution: Distribution,
        mutant: Mutant | None,
        limit: float,
    ) -> tuple[int | None, str]:
        """Status (None: it had to be ended) and the end of the output."""
        overlay = folder / "overlay"
        overlay.mkdir()
        make_overlay(overlay, distribution, mutant, self.root)
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(map(str, (overlay, self.root / CONTRACT))),
            "PYTHONHASHSEED": "0",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        output = folder / "output"
        if self._stopped:
            raise Stopped
        with output.open("wb") as sink:
            process = subprocess.Popen(
                command,
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            self._live.add(process)
            try:
                _limit_memory(process.pid, self.options.memory << 20)
                status: int | None = process.wait(limit)
            except subprocess.TimeoutExpired:
                status = None
            finally:
                _end(process)
                self._live.discard(process)
        if self._stopped:
            raise Stopped
        return status, output.read_bytes()[-4000:].decode(errors="replace").strip()


def overlay_wins(distribution: Distribution, root: Path = ROOT) -> bool:
    """Whether a process imports the overlay's package and not an installed one."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as scratch:
        make_overlay(Path(scratch), distribution, root=root)
        done = subprocess.run(
            [sys.executable, "-c", f"import {distribution.package} as p; print(p.__file__)"],
            env=os.environ | {"PYTHONPATH": scratch},
            cwd=scratch,
            capture_output=True,
            text=True,
            check=False,
        )
        return Path(done.stdout.strip()).is_relative_to(scratch)


def _end(process: subprocess.Popen[bytes]) -> None:
    """The process and all that it started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def _limit_memory(process: int, size: int) -> None:
    try:
        resource.prlimit(process, resource.RLIMIT_AS, (size, size))
    except ProcessLookupError:
        pass  # it has ended


def _failures(reports: Path) -> tuple[tuple[str, ...], str]:
    """(TYPE: PROPERTY of all that does not hold, the text of the first)."""
    properties: list[str] = []
    text = ""
    for path in sorted(reports.glob("*.json")):
        report = json.loads(path.read_text())
        for failure in report["failures"]:
            properties.append(f"{report.get('name', path.stem)}: {failure['property']}")
            text = text or failure["text"]
    return tuple(dict.fromkeys(properties)), text[:2000]


def _in_order(folder: Path, mutant: Mutant) -> list[Path]:
    """The test files that speak of the mutant's types or module, those that do so most first; all where
    none does."""
    words = re.compile("|".join(re.escape(word) for word in (*mutant.names, Path(mutant.file).stem)))
    files = sorted(folder.glob("test_*.py"))
    mentions = {path: len(words.findall(path.name + path.read_text())) for path in files}
    return sorted(filter(mentions.get, files), key=lambda path: -mentions[path]) or files
