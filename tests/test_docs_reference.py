"""The reference for authors of plugins is what the code says now, leaves nothing out, and its links lead
somewhere; so do all links in docs/ and in the README."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import click
import pytest
import reference
from refpages import bench, devices
from refpages.author import Author
from refpages.markdown import slug_of

import vbox_pdm
import vbox_pdm.testing
from vbox_pdm import display, drive, helpers, hookspecs, layers, media
from vbox_pdm.testing.conformance import Setup
from vbox_pdm.testing.conformance.command import OPTIONS
from vbox_pdm.testing.conformance.violations import PROPERTIES
from vbox_vmm.frontends.cli import main

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
_LINK = re.compile(r"(?<!\\)\]\(([^)\s]+)\)")


@functools.cache
def made() -> tuple[dict[str, str], Author]:
    return reference.pages()


def explained(page: str, names: list[str]) -> list[str]:
    """Which of the names no row of a table of that page begins with."""
    text = made()[0][page]
    return [name for name in names if not re.search(rf"(?m)^\| `{re.escape(name)}\b", text)]


def public(owner: type[Any]) -> list[str]:
    return [name for name in vars(owner) if not name.startswith("_")]


def protocols(module: Any) -> Iterator[type[Any]]:
    for value in vars(module).values():
        if inspect.isclass(value) and value.__module__ == module.__name__ and "_is_protocol" in vars(value):
            yield value


def test_reference_in_the_repository_is_what_the_code_says_now() -> None:
    pages, _ = made()

    assert reference.outdated(pages) == [], "run scripts/reference.py"


def test_reference_has_nothing_without_a_docstring_or_a_help_text() -> None:
    _, author = made()

    assert author.undocumented == []


def test_reference_explains_every_public_name_of_the_contract_and_the_bench() -> None:
    _, author = made()

    names = [*vbox_pdm.__all__, *vbox_pdm.testing.__all__]

    assert [name for name in names if name not in author.names.places] == []


def test_hooks_page_has_every_hook() -> None:
    specs = (hookspecs.CatalogueSpecs, hookspecs.VmSpecs, hookspecs.InstanceSpecs)

    hooks = [name for each in specs for name in public(each)]

    assert explained("hooks.md", hooks) == []


def test_helpers_page_has_every_helper_and_every_method_of_handles_and_roles() -> None:
    elsewhere = {"Queue": "queues.md", "Worker": "queues.md"}

    missing = {
        each.__name__: explained(elsewhere.get(each.__name__, "helpers.md"), public(each))
        for each in protocols(helpers)
    }

    assert len(missing) > 10
    assert {name: names for name, names in missing.items() if names} == {}


@pytest.mark.parametrize("module", [layers, media, drive, display], ids=lambda module: module.__name__)
def test_layers_page_has_every_method_of_every_layer(module: Any) -> None:
    methods = [name for each in protocols(module) for name in public(each)]

    assert methods
    assert explained("layers.md", methods) == []


def test_devices_page_has_every_key_of_every_type_of_ours() -> None:
    text = made()[0]["devices.md"]
    sections = dict(re.findall(r"(?ms)^### ([^\n]+)\n(.*?)(?=^##)", text + "\n## end"))

    types = devices.own_types()

    missing = [
        (kind["name"], info["name"])
        for kind in types
        for info in kind["keys"]
        if f"\n| `{info['name']}` |" not in sections.get(kind["name"], "")
    ]
    assert {kind["name"] for kind in types} == set(sections)
    assert missing == []


def test_cli_page_has_every_verb_and_every_option() -> None:
    text = made()[0]["cli.md"]
    sections = dict(re.findall(r"(?ms)^## (vbox[^\n]*)\n(.*?)(?=^## )", text + "\n## end"))
    context = click.Context(main, info_name="vbox")
    verbs = {f"vbox {name}": main.get_command(context, name) for name in main.list_commands(context)}

    missing = [
        (name, flag)
        for name, verb in {"vbox": main, **verbs}.items()
        for option in (verb.params if verb is not None else ())
        if isinstance(option, click.Option)
        for flag in option.opts
        if not re.search(rf"`(?:[^`]*, )?{re.escape(flag)}\b", sections.get(name, ""))
    ]

    assert missing == []


def test_bench_page_has_every_option_of_the_pytest_plugin() -> None:
    flags = [flag for flags, _ in bench.pytest_options() for flag in flags]

    assert "--vbox-bench" in flags
    assert explained("bench.md", flags) == []


def test_conformance_page_has_every_property_every_option_and_every_field_of_setup() -> None:
    text = (ROOT / "docs" / "plugins" / "reference" / "conformance.md").read_text()

    missing = [name for name, meaning in PROPERTIES.items() if f"| `{name}` | {meaning} |" not in text]
    missing += [name for name in OPTIONS if f"--{name}" not in text]
    missing += [field.name for field in attrs.fields(Setup) if f"| `{field.name}` |" not in text]

    assert missing == []


def test_names_without_a_docstring_are_noticed() -> None:
    class Silent:
        def method(self) -> None: ...

    author = Author()
    page = author.page("silent.md", "Silent", "A page.")

    author.class_section(page, 2, Silent)

    assert author.undocumented == ["Silent", "Silent.method"]


def test_plugin_of_ours_that_is_unusable_is_an_error_and_no_page_without_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    row = {"name": "serial", "distribution": "vbox-plugin-pc", "state": "unusable", "reason": "no reason"}
    monkeypatch.setattr(devices, "ask", lambda *words: [row])

    with pytest.raises(devices.Unusable, match="serial is unusable: no reason"):
        devices.own_types()


def anchors(path: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"(?ms)^```.*?^```", "", path.read_text())
    found: dict[str, int] = {}
    slugs = set()
    for heading in re.findall(r"(?m)^#+ +(.+?)\s*$", text):
        slug = slug_of(re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading))
        count = found.get(slug, 0)
        found[slug] = count + 1
        slugs.add(f"{slug}-{count}" if count else slug)
    return slugs


def links(path: Path) -> list[str]:
    """Where the links of a page lead, code and other sites left out."""
    text = re.sub(r"(?ms)^```.*?^```", "", path.read_text())
    text = re.sub(r"`[^`\n]*`", "", text)
    return [target for target in _LINK.findall(text) if not re.match(r"[a-z]+:", target)]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_files_and_sections_that_are_there(page: Path) -> None:
    broken = []
    for target in links(page):
        file, _, anchor = target.partition("#")
        found = (page.parent / file).resolve() if file else page
        if not found.exists() or (anchor and anchor not in anchors(found)):
            broken.append(target)

    assert broken == []
