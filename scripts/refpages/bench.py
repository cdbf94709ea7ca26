"""The page about the Bench, its taps and its fakes."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

from refpages import source
from refpages.author import Author
from refpages.markdown import Page, code
from vbox_pdm import display, drive, layers, media, testing
from vbox_pdm.layers import Layer
from vbox_pdm.testing import backend, fake_drive, fake_media, fakes, pytest_plugin, taps

_LAYER = ("the layer", "machinery")
_FAKES = (
    fakes.FakeStream, fakes.FakeKeyboard, fakes.FakeMouse,
    testing.FakeMedia, testing.FakeDrive, testing.FakeDisplay,
)  # fmt: skip


def the_bench(author: Author) -> None:
    """Bench, taps, fakes, pytest."""
    page = author.page(
        "bench.md",
        "The Bench",
        "The machine without a CPU on which a plugin is tested, and the fakes beside it.",
    )
    page.text(inspect.cleandoc(testing.__doc__ or "").partition("\n\n")[2])
    page.heading(2, "Bench", "Bench")
    page.text(author.must(source.docstring(testing.Bench), "Bench"))
    page.text(code(source.signature(testing.Bench.__init__, "Bench")))
    author.methods(page, testing.Bench, prefix="bench")
    page.heading(3, "Taps", "TapViews")
    page.text("What a bench has recorded:")
    author.methods(page, taps.TapViews, prefix="bench")
    taken: tuple[type[Any], ...] = (
        testing.Edge,
        testing.Message,
        testing.ResetRequest,
        testing.RuntimeErrorReport,
        testing.Failure,
    )
    for record in taken:
        _record(author, page, record)
    page.heading(2, "Fakes")
    page.text(inspect.cleandoc(fakes.__doc__ or ""))
    layer_methods = _layer_methods()
    for fake in (fakes.Fake, *_FAKES, fakes.Recorder):
        _fake(author, page, fake, layer_methods)
        if fake is testing.FakeMedia:
            _record(author, page, fake_media.Seen)
        if fake is testing.FakeDrive:
            author.class_section(page, 4, fake_drive.Answer)
            _record(author, page, fake_drive.Step)
    page.heading(3, "Fakes of any layer")
    author.functions(page, (testing.fake, testing.fake_above))
    page.heading(3, "What fakes record")
    told: tuple[type[Any], ...] = (testing.Parameters, testing.Lines, testing.Leds, testing.Modes)
    for record in told:
        _record(author, page, record)
    _pytest(author, page)
    page.heading(2, "Other backends")
    page.text(inspect.cleandoc(backend.__doc__ or "").partition("\n\n")[2])
    for protocol in (testing.BenchBackend, testing.BenchTaps):
        author.class_section(page, 3, protocol)


def _fake(author: Author, page: Page, fake: type[Any], layer_methods: frozenset[str]) -> None:
    """A fake: how it is made, what it shows, what a test does with it; not what its neighbour calls."""
    page.heading(3, fake.__name__, fake.__name__)
    page.text(author.must(source.docstring(fake), fake.__name__))
    if "__init__" in vars(fake):
        page.text(code(source.signature(fake.__init__, fake.__name__)))
    author.body(page, fake, but={*_LAYER, *layer_methods})


def _layers() -> Iterator[Layer[Any, Any]]:
    for module in (layers, media, drive, display):
        for value in vars(module).values():
            if isinstance(value, Layer):
                yield value


def _methods(protocol: type[Any]) -> set[str]:
    return {member.name for member in source.methods(protocol)}


def _layer_methods() -> frozenset[str]:
    """The methods of all layers: fakes implement them, and tests do not call them."""
    return frozenset().union(*(_methods(each.below) | _methods(each.above) for each in _layers()))


def fake_below(layer: str) -> type[Any] | None:
    """The fake that stands below a LUN of that layer."""
    wanted = next(_methods(each.below) for each in _layers() if each.name == layer)
    return next((fake for fake in _FAKES if wanted & set(vars(fake))), None)


def _record(author: Author, page: Page, record: type[Any]) -> None:
    """A tuple with names, or a small attrs class: its fields are in its signature."""
    page.heading(4, record.__name__, record.__name__)
    page.text(author.must(source.docstring(record), record.__name__))
    shown = ", ".join(member.signature for member in source.fields(record))
    page.text(code(f"{record.__name__}({shown})"))


def _pytest(author: Author, page: Page) -> None:
    """The options and fixtures of the pytest plugin, as it adds them."""
    page.heading(2, "With pytest")
    rows = []
    for flags, more in pytest_options():
        text = author.must(str(more.get("help", "")), f"pytest {flags[0]}")
        value = more.get("metavar") or "|".join(more.get("choices", ()))
        shown = f"{', '.join(flags)} {value}".strip()
        rows.append((code(shown), text))
    page.table(("Option", "What it does"), rows)
    text = author.must(inspect.getdoc(pytest_plugin.bench) or "", "the fixture bench")
    page.table(("Fixture", "What it is"), [(code("bench"), text)])


def pytest_options() -> list[tuple[tuple[str, ...], dict[str, Any]]]:
    """(flags, the rest) of each option that the pytest plugin adds."""
    found: list[tuple[tuple[str, ...], dict[str, Any]]] = []

    class Parser:
        """Stands for pytest's; its groups are itself."""

        def getgroup(self, *names: str, **more: Any) -> Parser:
            return self

        def addini(self, *names: str, **more: Any) -> None:
            """Options of files are not shown."""

        def addoption(self, *flags: str, **more: Any) -> None:
            found.append((flags, more))

    pytest_plugin.pytest_addoption(Parser())  # type: ignore[arg-type]
    return found
