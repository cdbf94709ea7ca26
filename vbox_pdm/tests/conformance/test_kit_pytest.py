"""The pytest options of the kit: `--pdm-device`, `--pdm-file` and what goes with them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import bells
import pytest

import vbox_pdm.testing.conformance.run  # noqa: F401  # so that it is the same in pytest runs within this one
from vbox_pdm.testing.conformance import PROFILES, Profile

pytest_plugins = "pytester"

BELLS = "./bells.py"


@pytest.fixture(autouse=True)
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """An author's folder, with a plugin that is a single file.  Runs are made in this process, where the
    profile is over soon."""
    monkeypatch.setitem(PROFILES, "quick", Profile("quick", seconds=0.5, steps=25, shrink=10))
    pytester.makeini("[pytest]")
    shutil.copy(bells.__file__, pytester.path)


def run(pytester: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    """pytest there."""
    return pytester.runpytest_inprocess("-p", "no:cacheprovider", *arguments)


# --- what is added


def test_pytest_without_options_adds_nothing(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_mine(): pass")

    run(pytester).assert_outcomes(passed=1)


def test_pytest_file_and_device_adds_a_test(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_mine(): pass")

    result = run(pytester, "-v", "--pdm-file", BELLS, "--pdm-device", "bell")

    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["*test_mine PASSED*", "*conformance?bell? PASSED*"])


def test_pytest_file_alone_adds_a_test_for_each_type(pytester: pytest.Pytester) -> None:
    result = run(pytester, "--collect-only", "-q", "--pdm-file", BELLS)

    names = ["bell", "cracked", "gone", "gone-in-peace", "stuck", "stubborn"]
    assert [line for line in result.outlines if "conformance[" in line] == [
        f"::conformance[{name}]" for name in names
    ]


def test_pytest_device_may_be_repeated(pytester: pytest.Pytester) -> None:
    arguments = ["--pdm-device", "bell", "--pdm-device", "cracked", "--pdm-file", BELLS]

    result = run(pytester, "--collect-only", "-q", *arguments)

    assert [line for line in result.outlines if "conformance[" in line] == [
        "::conformance[bell]",
        "::conformance[cracked]",
    ]


def test_pytest_absolute_path_of_file_is_the_same(pytester: pytest.Pytester) -> None:
    path = str(pytester.path / "bells.py")

    run(pytester, "--pdm-file", path, "--pdm-device", "bell").assert_outcomes(passed=1)


# --- failures


def test_pytest_failing_type_fails_with_the_report(pytester: pytest.Pytester) -> None:
    result = run(pytester, "--pdm-file", BELLS, "--pdm-device", "cracked", "--pdm-budget", "60")

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "cracked: FAILED, *",
            "No handler, timer, queue or notification raises ?no-raise?",
            "Steps:",
            "*bell.VOLUME*",
            "To repeat it:",
            "*bench = Bench(*",
            "FAILED *conformance*cracked*",
        ]
    )
    assert "runtest" not in result.stdout.str(), "nobody asked for the kit's traceback"


def test_pytest_configuration_reaches_the_type(pytester: pytest.Pytester) -> None:
    arguments = ["--pdm-device", "cracked", "--pdm-budget", "60", "--pdm-config", "io_base=0x328"]

    result = run(pytester, "--pdm-file", BELLS, *arguments)

    result.stdout.fnmatch_lines(["*bench.add('cracked', config={'io_base': '0x328'})", "*0x329, 1, *"])


def test_pytest_configuration_that_is_refused_fails_the_test(pytester: pytest.Pytester) -> None:
    result = run(pytester, "--pdm-file", BELLS, "--pdm-device", "bell", "--pdm-config", "loud=1")

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*Unknown configuration value '/loud'*"])


# --- options


def test_pytest_report_is_written(pytester: pytest.Pytester) -> None:
    run(pytester, "--pdm-file", BELLS, "--pdm-device", "bell", "--pdm-report", "reports", "--pdm-seed", "3")

    found = json.loads(pytester.path.joinpath("reports", "bell.json").read_text())
    assert (found["name"], found["passed"], found["seed"]) == ("bell", True, 3)
    assert "<title>" in pytester.path.joinpath("reports", "bell.html").read_text()


def test_pytest_profile_and_budget_reach_the_kit(pytester: pytest.Pytester) -> None:
    arguments = ["--pdm-profile", "thorough", "--pdm-budget", "0.5", "--pdm-report", "."]

    run(pytester, "--pdm-file", BELLS, "--pdm-device", "bell", *arguments).assert_outcomes(passed=1)

    found = json.loads(pytester.path.joinpath("bell.json").read_text())
    assert found["profile"] == "thorough"
    assert found["seconds"] < PROFILES["thorough"].seconds


def test_pytest_corpus_is_made(pytester: pytest.Pytester) -> None:
    arguments = ["--pdm-budget", "60", "--pdm-corpus", "kept"]

    run(pytester, "--pdm-file", BELLS, "--pdm-device", "cracked", *arguments).assert_outcomes(failed=1)

    assert any(path.is_file() for path in pytester.path.joinpath("kept").rglob("*"))


# --- usage


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--pdm-device", "gong"], "*No device or driver is named 'gong'*"),
        (["--pdm-file", BELLS, "--pdm-device", "gong"], "*No device or driver is named 'gong'*"),
        (["--pdm-file", "no/bells.py"], "*There is no plugin file no/bells.py*"),
        (["--pdm-file", BELLS, "--pdm-budget", "0"], "*budget of 0*Give more than 0*"),
        (["--pdm-file", BELLS, "--pdm-config", "loud"], "*'loud' is no KEY=VALUE*"),
        (["--pdm-file", BELLS, "--pdm-profile", "slow"], "*--pdm-profile*slow*"),
    ],
    ids=["name", "name beside a file", "file", "budget", "config", "profile"],
)
def test_pytest_wrong_option_is_a_usage_error(
    pytester: pytest.Pytester, arguments: list[str], says: str
) -> None:
    result = run(pytester, *arguments)

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([says])


# --- what is imported, and when

_LOOK = "import sys, {module}; print('hypothesis' in sys.modules)"
_RUN = "import sys, pytest; pytest.main(sys.argv[1:]); print('hypothesis' in sys.modules)"


def python(*arguments: str, **environment: str) -> str:
    """The last line that a Python of its own prints."""
    done = subprocess.run(
        [sys.executable, *arguments], env={**os.environ, **environment},
        capture_output=True, text=True, timeout=280, check=True,
    )  # fmt: skip
    return done.stdout.strip().splitlines()[-1]


@pytest.mark.parametrize(
    "module",
    [
        "vbox_pdm",
        "vbox_pdm.testing",
        "vbox_pdm.testing.conformance",
        "vbox_pdm.testing.conformance.command",
        "vbox_pdm.testing.pytest_plugin",
    ],
)
def test_import_brings_no_hypothesis(module: str) -> None:
    assert python("-c", _LOOK.format(module=module)) == "False"


def test_pytest_run_without_options_brings_no_hypothesis(tmp_path: Path) -> None:
    (tmp_path / "test_mine.py").write_text("def test_mine(bench): pass")
    arguments = ["-q", "-p", "no:cacheprovider", "-p", "vbox_pdm.testing.pytest_plugin", str(tmp_path)]

    said = python("-c", _RUN, *arguments, PYTEST_DISABLE_PLUGIN_AUTOLOAD="1")

    assert said == "False"
