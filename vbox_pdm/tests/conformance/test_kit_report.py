"""What the kit says of a failure: few steps in register names, code that repeats them, JSON and HTML."""

from __future__ import annotations

import ast
import json
import os
from pathlib import Path
from typing import Any

import bells
import faulty_drivers  # noqa: F401  # fills CASES
import faulty_pci  # noqa: F401
import faulty_ports  # noqa: F401
import pytest
from faulty import CASES, counted, report_on

import vbox_pdm.testing
from vbox_pdm.catalogue import Catalogue
from vbox_pdm.testing import Bench
from vbox_pdm.testing.conformance import Profile, check
from vbox_pdm.testing.conformance.report import Coverage, Failure, Report
from vbox_pdm.testing.conformance.violations import Violation

PATIENT = Profile("test", seconds=60, steps=25, shrink=10)


def bell(name: str, profile: Profile, **more: Any) -> Report:
    """The report on a type of bells.py, loaded as a single file."""
    catalogue = Catalogue([])
    plugin = catalogue.add_file(Path(bells.__file__))
    return check(catalogue.device(name)[0], profile, plugin=plugin, **more)


@pytest.fixture(scope="module")
def report() -> Report:
    """On a bell that divides by a TONE of 0 when it is MUTED."""
    return bell("cracked", PATIENT)


@pytest.fixture(scope="module")
def good() -> Report:
    """On a bell without a fault."""
    with counted():
        return bell("bell", Profile("test", seconds=14, steps=25, shrink=1))


@pytest.fixture
def bench_with_faulty_types(monkeypatch: pytest.MonkeyPatch) -> None:
    """Snippets name types; a Bench of theirs knows those that no plugin registers."""

    class Knowing(Bench):
        def __init__(self, *args: Any, **more: Any) -> None:
            super().__init__(*args, **more)
            for case in CASES:
                self.register(case.type)

    monkeypatch.setattr(vbox_pdm.testing, "Bench", Knowing)


def run_snippet(text: str) -> Any:
    """Run it; the value of its last line, when that is an expression."""
    tree = ast.parse(text)
    names: dict[str, Any] = {}
    last = tree.body.pop()
    exec(compile(tree, "snippet", "exec"), names)
    if isinstance(last, ast.Expr):
        return eval(compile(ast.Expression(last.value), "snippet", "eval"), names)
    exec(compile(ast.Module([last], []), "snippet", "exec"), names)
    return None


def failure_of(name: str) -> Failure:
    """The failure of a faulty type."""
    case = next(case for case in CASES if case.type.name == name)
    return report_on(case.type).failures[0]


# --- steps


def test_report_of_known_fault_has_few_steps_in_register_names(report: Report) -> None:
    (failure,) = report.failures

    assert failure.property == "no-raise"
    assert "ZeroDivisionError" in failure.text
    assert len(failure.steps) <= 3
    assert any("bell.VOLUME" in step and "MUTED" in step for step in failure.steps)
    assert any("bell.TONE" in step for step in failure.steps)
    assert "bell.BEATS" in failure.steps[-1]


def test_report_of_known_fault_names_the_line_that_raised(report: Report) -> None:
    assert "in beats" in report.failures[0].traceback
    assert "ZeroDivisionError" in report.failures[0].traceback


def test_report_as_text_begins_with_the_verdict(report: Report, good: Report) -> None:
    first, *others = str(report).splitlines()

    assert first.startswith("cracked: FAILED, ")
    assert "profile test, seed 0" in first
    assert any(line.startswith("No handler, timer, queue or notification raises") for line in others)
    assert str(good).startswith("bell: passed, ")
    assert "3 registers, each read and written" in str(good)


# --- snippets


def test_snippet_of_no_raise_run_on_a_bench_raises_the_same(report: Report) -> None:
    text = report.failures[0].snippet

    with pytest.raises(ZeroDivisionError):
        run_snippet(text)


def test_snippet_with_configuration_gives_it() -> None:
    failure = bell("cracked", PATIENT, config={"io_base": "0x328"}).failures[0]

    assert "'io_base': '0x328'" in failure.snippet
    assert "0x329" in failure.snippet
    with pytest.raises(ZeroDivisionError):
        run_snippet(failure.snippet)


@pytest.mark.usefixtures("bench_with_faulty_types")
def test_snippet_of_bits_shows_the_bit() -> None:
    failure = failure_of("keeps-a-bit-that-it-has-not")

    assert run_snippet(failure.snippet) & 0x80


@pytest.mark.usefixtures("bench_with_faulty_types")
def test_snippet_of_pci_function_places_its_bars() -> None:
    failure = failure_of("stores-past-its-function")

    run_snippet(failure.snippet)

    assert "bench.pci_enable(" in failure.snippet
    assert "bench.mmio_write(" in failure.snippet


@pytest.mark.usefixtures("bench_with_faulty_types")
@pytest.mark.parametrize(
    "name", ["completes-twice", "loses-writes", "moves-more-than-there-is", "sends-what-it-likes"]
)
def test_snippet_of_driver_repeats_what_was_asked(name: str) -> None:
    failure = failure_of(name)

    with pytest.raises(Violation) as found:
        run_snippet(failure.snippet)

    assert found.value.prop == failure.property


@pytest.mark.usefixtures("bench_with_faulty_types")
@pytest.mark.parametrize("name", ["loses-the-last-byte", "forgets-in-load"])
def test_snippet_of_any_kind_is_python_that_runs(name: str) -> None:
    failure = failure_of(name)

    run_snippet(failure.snippet)  # what it shows is seen by its neighbours alone


# --- coverage


def test_report_of_correct_type_tells_what_was_reached(good: Report) -> None:
    (region,) = good.coverage

    assert (region.region, region.size, region.offsets) == ("bell", 3, 3)
    assert region.registers == {"TONE": (True, True), "VOLUME": (True, True), "BEATS": (True, None)}
    assert region.values["TONE"] > 1


def test_report_tells_what_was_never_reached() -> None:
    never = Coverage("bell", 3, 1, {"TONE": (True, False), "BEATS": (False, None)})
    report = Report("bell", "device", "", "test", 0, coverage=[never])

    assert "never TONE (written), never BEATS (read)" in str(report)
    assert "<b>never</b>" in report.as_html()


# --- JSON and HTML


def test_report_as_json_has_all_of_it(report: Report) -> None:
    found = json.loads(report.as_json())

    assert found["name"] == "cracked"
    assert found["passed"] is False
    assert (found["profile"], found["seed"], found["kind"]) == ("test", 0, "device")
    (failure,) = found["failures"]
    assert failure["property"] == "no-raise"
    assert failure["steps"] == report.failures[0].steps
    assert {"text", "snippet", "traceback"} <= failure.keys()
    (region,) = found["coverage"]
    assert region["registers"].keys() == {"TONE", "VOLUME", "BEATS"}
    assert found["examples"] >= 1


def test_report_as_json_of_correct_type_says_passed(good: Report) -> None:
    found = json.loads(good.as_json())

    assert found["passed"] is True
    assert found["failures"] == []
    assert "construct, power on, destruct" in found["checks"]


def test_report_as_html_names_the_failure(report: Report, good: Report) -> None:
    page = report.as_html()

    assert "<title>Conformance of cracked</title>" in page
    assert "[no-raise]" in page
    assert "ZeroDivisionError" in page
    assert "bell.VOLUME" in page
    assert ">failed<" in page
    assert ">passed<" in good.as_html()


def test_report_as_html_shows_text_of_plugins_as_text() -> None:
    failure = Failure("no-raise", "<script>alert(1)</script>", ["<b>bold</b>"])
    report = Report("<i>", "device", "", "test", 0, failures=[failure], coverage=[Coverage("<u>", 1)])

    page = report.as_html()

    assert not any(tag in page for tag in ("<script>", "<b>bold", "<i>", "<u>"))
    assert "&lt;script&gt;" in page


def test_report_written_is_two_files_named_after_the_type(report: Report, tmp_path: Path) -> None:
    report.write(tmp_path / "new" / "folder")

    files = sorted(path.name for path in (tmp_path / "new" / "folder").iterdir())
    assert files == ["cracked.html", "cracked.json"]
    assert json.loads((tmp_path / "new" / "folder" / "cracked.json").read_text())["name"] == "cracked"


def test_report_written_again_replaces_whole_files(report: Report, tmp_path: Path) -> None:
    for ending in ("json", "html"):
        (tmp_path / f"cracked.{ending}").write_text("old")
        os.link(tmp_path / f"cracked.{ending}", tmp_path / f"old.{ending}")

    report.write(tmp_path)

    assert (tmp_path / "old.json").read_text() == (tmp_path / "old.html").read_text() == "old"
    assert "ZeroDivisionError" in (tmp_path / "cracked.json").read_text()


def test_report_that_cannot_be_written_leaves_what_was_there(
    report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cracked.html").write_text("old")
    write_text = Path.write_text

    def full(path: Path, text: str, *args: Any, **more: Any) -> int:
        if ".html" in path.name:
            write_text(path, text[:10], *args, **more)
            raise OSError(28, "No space left on device")
        return write_text(path, text, *args, **more)

    monkeypatch.setattr(Path, "write_text", full)

    with pytest.raises(OSError, match="No space left"):
        report.write(tmp_path)

    assert (tmp_path / "cracked.html").read_text() == "old"
