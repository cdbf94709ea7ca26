"""The harness of `make bench`: that it measures, keeps and writes down.  No test says how fast it is."""

from __future__ import annotations

import json
import shutil
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import budgets
import marks
import page
import peers
import plot
import pytest
import results
import system
from machines import ROOT, run
from results import Figure


def machine(name: str) -> peers.Machine:
    return peers.Machine(name, name.upper(), "1", lambda guest, folder: [], ours=name == "rem")


@pytest.mark.skipif(not (shutil.which("cc") and shutil.which("objcopy")), reason="cc and objcopy are needed")
def test_performance_one_kernel_without_peers_keeps_and_writes_it(tmp_path: Path) -> None:
    options = ["--runs", "1", "--only", "cpu/flat32/chase", "--machines", "rem", "--into", tmp_path]

    run(sys.executable, ROOT / "benchmarks" / "performance.py", *options)

    kept = json.loads((tmp_path / "cpu.json").read_text())
    assert list(kept) == ["cpu/flat32/chase"]
    (seconds,) = kept["cpu/flat32/chase"]["values"]["rem"]
    assert seconds > 0
    text = (tmp_path / "performance.md").read_text()
    assert f"| chase | {seconds:.3f} |" in text
    assert "QEMU: not" in text
    assert not (tmp_path / "images").exists()


def test_performance_unknown_machine_is_refused_with_the_names_there_are(tmp_path: Path) -> None:
    output = run(
        *(sys.executable, ROOT / "benchmarks" / "performance.py", "--machines", "eniac", "--into", tmp_path),
        status=2,
    )

    assert "no eniac; there are rem" in output


def test_measure_machines_take_turns_and_one_that_fails_takes_no_further_part() -> None:
    turns: list[str] = []
    failures: list[str] = []

    def measure(which: peers.Machine, chosen: object) -> dict[str, float]:
        turns.append(which.name)
        if which.name == "b":
            raise marks.Failed("it fell over")
        return {"x": float(len(turns))}

    unit = results.Unit("u", ("x",), measure, lambda _: True)
    figures = results.measure(
        unit,
        ["x"],
        [machine("a"), machine("b"), machine("c")],
        2,
        lambda which, _: failures.append(which.name),
    )

    assert turns == ["a", "b", "c", "a", "c"]
    assert failures == ["b"]
    assert figures["u/x"].values == {"a": [1, 4], "c": [3, 5]}


def test_marks_that_come_together_are_not_timed(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["printf", r"B one\nE one 0 1 10000\nEND\n"]

    done = marks.run(
        peers.Machine("m", "M", "1", lambda guest, folder: words), peers.Multiboot(Path("kernel"))
    )

    assert done == []
    assert "m one: read too late" in capsys.readouterr().err


def test_keep_partial_run_replaces_only_what_it_measured(tmp_path: Path) -> None:
    results.keep({"g/a": Figure({"m": [1.0]}), "g/b": Figure({"m": [2.0]})}, tmp_path)

    results.keep({"g/b": Figure({"m": [5.0, 7.0]})}, tmp_path)

    kept = results.load(tmp_path)
    assert {name: figure.median("m") for name, figure in kept.items()} == {"g/a": 1.0, "g/b": 6.0}


def test_verdicts_over_budget_say_no_and_unmeasured_say_nothing() -> None:
    figures = {
        "cpu/flat32/a": Figure({"rem": [2.0], "qemu": [1.0]}),
        "cpu/flat32/b": Figure({"rem": [2.0], "qemu": [4.0]}),
        "system/long64/uart": Figure({"rem": [201.0]}),
    }

    found = {verdict.title: verdict for verdict in budgets.verdicts(figures, "rem")}

    assert found["CPU kernels, flat32: mean"].value == pytest.approx(1.0)
    assert found["CPU kernels, flat32: slowest"].kept is True
    assert found["exit: UART: line status"].kept is False
    assert found["CPU kernels, long64: mean"].kept is None


def test_guest_has_the_works_that_the_harness_names() -> None:
    assert set(marks.works("system.c")) == {*system.TITLES, system.WITHOUT_TICKS}


def test_page_with_a_peer_shows_a_picture_that_is_xml(tmp_path: Path) -> None:
    figures = {"cpu/flat32/calls": Figure({"rem": [1.0], "qemu": [2.0]}, {"rem": "1"}, "host", "2000-01-01")}

    page.write(figures, [machine("rem"), machine("qemu")], tmp_path)

    assert "](images/performance.svg)" in (tmp_path / page.PAGE).read_text()
    root = ElementTree.parse(tmp_path / page.PICTURE).getroot()
    assert "0.50" in [element.text for element in root.iter()]


def test_svg_without_ratios_is_refused() -> None:
    with pytest.raises(ValueError, match="no ratios"):
        plot.svg("title", ["a"], [])
