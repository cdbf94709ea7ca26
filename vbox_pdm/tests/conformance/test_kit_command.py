"""`python -m vbox_pdm.testing.conformance`: what it exits with, what it says, and that a type which takes
the process with it costs its own check alone."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import attrs
import bells
import pytest
from faulty import SHORT, counted

from vbox_pdm.catalogue import Catalogue
from vbox_pdm.testing.conformance import PROFILES, Profile, check, command
from vbox_pdm.testing.conformance.report import Report

BELLS = str(Path(bells.__file__))
QUICK = Profile("quick", seconds=0.5, steps=25, shrink=10)


class Ended(NamedTuple):
    """How a run of the command ended, and the reports that it wrote."""

    status: int
    out: str
    err: str
    reports: dict[str, dict[str, object]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Ended:
    """A run with a good type among those that hang and end the process."""
    folder = tmp_path_factory.mktemp("reports")
    names = ["gone", "gone-in-peace", "bell", "stuck"]
    arguments = ["--file", BELLS, *names, "--budget", "0.5", "--jobs", "2", "--report", str(folder)]

    done = subprocess.run(
        [sys.executable, "-m", "vbox_pdm.testing.conformance", *arguments],
        capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip

    reports = {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}
    return Ended(done.returncode, done.stdout, done.stderr, reports)


# --- types that take the process with them


def test_command_with_a_type_that_fails_exits_with_1(run: Ended) -> None:
    assert run.status == 1, run


def test_command_good_type_among_bad_ones_passes(run: Ended) -> None:
    assert "\nbell: passed, " in run.out
    assert run.reports["bell"]["passed"] is True


def test_command_type_that_ends_the_process_is_reported(run: Ended) -> None:
    assert "gone: FAILED" in run.out
    assert "its process ended with status 3" in run.out
    assert run.reports["gone"]["passed"] is False


def test_command_type_that_ends_the_process_with_0_is_reported(run: Ended) -> None:
    assert "gone-in-peace: FAILED" in run.out
    assert "its process ended with status 0" in run.out
    assert run.reports["gone-in-peace"]["passed"] is False


def test_command_type_that_hangs_is_reported(run: Ended) -> None:
    assert "stuck: FAILED" in run.out
    assert "power on: not over after" in run.out
    assert run.reports["stuck"]["passed"] is False


def test_command_reports_of_all_types_are_written(run: Ended) -> None:
    assert run.reports.keys() == {"gone", "gone-in-peace", "bell", "stuck"}


def test_command_type_that_cannot_be_interrupted_is_killed(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(PROFILES, "quick", attrs.evolve(QUICK, shrink=1))
    monkeypatch.setattr(command, "ACCESS_WALL", 0.2)

    status = command.main(["--file", BELLS, "stubborn", "--budget", "0.5"])

    assert status == command.FAILED
    assert "stubborn: FAILED" in (said := capfd.readouterr().out)
    assert "did not come to an end within" in said
    assert "[no-hang]" in said


# --- in this process


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A profile that is over soon."""
    monkeypatch.setitem(PROFILES, "quick", QUICK)


@pytest.mark.usefixtures("quick")
def test_command_good_type_exits_with_0(capsys: pytest.CaptureFixture[str]) -> None:
    status = command.main(["--file", BELLS, "bell", "--in-process", "--seed", "5"])

    said = capsys.readouterr()
    assert status == 0
    assert said.out.startswith("bell: passed, ")
    assert "(profile quick, seed 5)" in said.out
    assert said.err == ""


@pytest.mark.usefixtures("quick")
def test_command_failing_type_exits_with_1_and_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    status = command.main(["--file", BELLS, "cracked", "--in-process", "--budget", "60"])

    said = capsys.readouterr().out
    assert status == 1
    assert said.startswith("cracked: FAILED, ")
    assert "[no-raise]" in said
    assert "bench.plugin(" in said


@pytest.mark.usefixtures("quick")
def test_command_configuration_reaches_all_instances(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["cracked", "--in-process", "--budget", "60", "--config", "io_base=0x328"]

    command.main(["--file", BELLS, *arguments])

    said = capsys.readouterr().out
    assert "bench.add('cracked', config={'io_base': '0x328'})" in said
    assert "0x329, 1, " in said


@pytest.mark.usefixtures("quick")
def test_command_file_without_names_checks_all_its_types(monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[str] = []

    def passed(kind: object, *args: object, **more: object) -> Report:
        checked.append(kind.name)  # type: ignore[attr-defined]
        return Report(checked[-1], "device", "", "quick", 0)

    monkeypatch.setattr("vbox_pdm.testing.conformance.run.check", passed)

    status = command.main(["--file", BELLS, "--in-process"])

    assert status == 0
    assert checked == ["bell", "cracked", "gone", "gone-in-peace", "stuck", "stubborn"]


# --- usage


@pytest.mark.parametrize(
    ("arguments", "thing", "remedy"),
    [
        (["--file", BELLS, "gong"], "'gong'", "`vbox plugins` lists"),
        ([], "Nothing to check", "Name a type"),
        (["--file", BELLS, "bell", "--config", "loud"], "'loud'", "key=value"),
        (["--file", BELLS, "bell", "--budget", "0"], "0", "more than 0"),
        (["--file", BELLS, "bell", "--budget", "-3"], "-3", "more than 0"),
        (["--file", "no/such/bells.py"], "no/such/bells.py", "Check the path"),
    ],
    ids=["unknown name", "no name", "config", "no budget", "negative budget", "no file"],
)
def test_command_wrong_request_exits_with_2_and_says_one_line(
    arguments: list[str], thing: str, remedy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status = command.main(arguments)

    said = capsys.readouterr()
    assert status == 2
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert thing in said.err
    assert remedy in said.err


@pytest.mark.parametrize(
    "arguments", [["bell", "--profile", "slow"], ["bell", "--budget", "much"], ["bell", "--seed", "x"]]
)
def test_command_wrong_value_of_an_option_exits_with_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        command.main(["--file", BELLS, *arguments])

    assert ended.value.code == 2
    assert repr(arguments[-1]) in capsys.readouterr().err


def test_command_wrong_name_among_right_ones_checks_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    status = command.main(["--file", BELLS, "bell", "gong", "--in-process"])

    assert status == 2
    assert capsys.readouterr().out == ""


def test_command_as_a_module_exits_with_2_too() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "vbox_pdm.testing.conformance"],
        capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip

    assert done.returncode == 2
    assert done.stderr.startswith("Nothing to check")


# --- corpus


def check_bell(name: str, profile: Profile, corpus: Path | None = None, seed: int = 0) -> Report:
    catalogue = Catalogue([])
    plugin = catalogue.add_file(Path(BELLS))
    return check(catalogue.device(name)[0], profile, plugin=plugin, corpus=corpus, seed=seed)


def test_corpus_that_is_a_file_is_noted_and_not_used(tmp_path: Path) -> None:
    (tmp_path / "corpus").write_text("I am a file")

    with counted():
        report = check_bell("bell", SHORT, tmp_path / "corpus")

    assert report.passed
    assert report.examples > 0
    (note,) = report.notes
    assert str(tmp_path / "corpus") in note
    assert "going on without" in note
    assert (tmp_path / "corpus").read_text() == "I am a file"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_corpus_that_cannot_be_written_is_noted_and_not_used(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)

    with counted():
        report = check_bell("bell", SHORT, tmp_path)

    assert report.passed
    assert "going on without" in report.notes[0]


def test_corpus_keeps_what_was_interesting(tmp_path: Path) -> None:
    patient = Profile("test", seconds=60, steps=25, shrink=0)

    first = check_bell("cracked", patient, tmp_path)
    files = [path for path in tmp_path.rglob("*") if path.is_file() and path.stat().st_size]
    second = check_bell("cracked", patient, tmp_path, seed=99)

    assert not first.passed
    assert files
    assert [failure.property for failure in second.failures] == ["no-raise"]
    assert second.examples <= 2, "it begins with what failed before"


def test_corpus_with_garbage_is_used_as_far_as_it_can_be(tmp_path: Path) -> None:
    patient = Profile("test", seconds=60, steps=25, shrink=0)
    check_bell("cracked", patient, tmp_path)
    kept = [path for path in tmp_path.rglob("*") if path.is_file()]
    for number, path in enumerate(kept):
        path.write_bytes((b"\xff" * 40, b"", os.urandom(500))[number % 3])
    for folder in [path for path in tmp_path.iterdir() if path.is_dir()]:
        (folder / "garbage").write_bytes(b"\x80\x00garbage")
        (folder / "folder").mkdir()
    (tmp_path / "readme.txt").write_text("not of a corpus")

    report = check_bell("cracked", patient, tmp_path)

    assert [failure.property for failure in report.failures] == ["no-raise"]
    assert all("corpus" in note for note in report.notes)


def test_corpus_whose_folders_are_files_is_used_as_far_as_it_can_be(tmp_path: Path) -> None:
    patient = Profile("test", seconds=60, steps=25, shrink=0)
    check_bell("cracked", patient, tmp_path)
    for folder in [path for path in tmp_path.iterdir() if path.is_dir()]:
        shutil.rmtree(folder)
        folder.write_text("I am a file")

    report = check_bell("cracked", patient, tmp_path)

    assert [failure.property for failure in report.failures] == ["no-raise"]
    assert all("corpus" in note for note in report.notes)


# --- seeds


def test_same_seed_tries_the_same() -> None:
    unshrunk = Profile("test", seconds=60, steps=25, shrink=0)

    first, second, other = (check_bell("cracked", unshrunk, seed=seed) for seed in (7, 7, 8))

    assert (first.examples, first.steps) == (second.examples, second.steps)
    assert first.failures[0].steps == second.failures[0].steps
    assert first.failures[0].steps != other.failures[0].steps
