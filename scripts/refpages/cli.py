"""The page about the command line: every verb with its arguments, options and exit codes."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence

import click

from refpages.author import Author
from refpages.markdown import Page, code
from vbox_vmm.frontends.cli import main
from vbox_vmm.frontends.exitcodes import EXIT_CODES
from vbox_vmm.frontends.options import GROUPS, GroupedCommand

OPTION = ("Option", "What it does")


def command_line(author: Author) -> None:
    """`vbox` and its verbs."""
    page = author.page("cli.md", "Command line", "Every verb of `vbox`, with all of its options.")
    context = click.Context(main, info_name="vbox")
    verbs = [(name, _verb(context, name)) for name in main.list_commands(context)]
    page.table(
        ("Verb", "What it does"),
        [
            (f"[vbox {name}](#vbox-{name})", author.must(verb.get_short_help_str(200), f"vbox {name}"))
            for name, verb in verbs
        ],
    )
    page.heading(2, "vbox")
    _options(author, page, main, "vbox", {})
    page.heading(2, "Exit codes")
    page.table(("Code", "Meaning"), EXIT_CODES)
    shown: dict[str, click.Command] = {}
    for name, verb in verbs:
        title = f"vbox {name}"
        page.heading(2, title, title)
        page.code("text", " ".join([title, *verb.collect_usage_pieces(click.Context(verb, info_name=name))]))
        page.text(author.must(inspect.cleandoc(verb.help or ""), title))
        _options(author, page, verb, title, shown)
        _epilog(page, verb)
        shown[title] = verb


def _verb(context: click.Context, name: str) -> click.Command:
    found = main.get_command(context, name)
    assert found is not None
    return found


def _options(
    author: Author, page: Page, command: click.Command, title: str, known: Mapping[str, click.Command]
) -> None:
    """The options of a command, in the sections that its --help has; those that it shares with one
    that was shown before (`known`) are only named."""
    groups = GROUPS if isinstance(command, GroupedCommand) else ()
    tables: dict[str, list[click.Option]] = {}
    for option in command.params:
        if isinstance(option, click.Option) and not option.hidden:
            author.must(option.help or "", f"{title} {option.opts[0]}")
            group = getattr(option, "group", "")
            tables.setdefault(group if group in groups else "", []).append(option)
    for group in (*groups, ""):
        options = tables.get(group, [])
        before = next((name for name, other in known.items() if group and _has(other, options)), "")
        if options and before:
            page.text(f"{group}, as of {code(before)}: {', '.join(code(each.opts[0]) for each in options)}.")
        elif options:
            page.text(f"{group}:" if group else "")
            page.table(OPTION, [(code(_shown(each)), one_text(each.help or "")) for each in options])


def _has(command: click.Command, options: Sequence[click.Option]) -> bool:
    """Whether a command has the same options, too."""
    there = {(*each.opts, each.help) for each in command.params if isinstance(each, click.Option)}
    return all((*each.opts, each.help) in there for each in options)


def one_text(text: str) -> str:
    """The help of an option without click's marks."""
    return " ".join(text.replace("\b", "").split())


def _shown(option: click.Option) -> str:
    """`--memory SIZE`, as a user writes it; a choice shows what may be chosen."""
    flags = ", ".join([*option.opts, *option.secondary_opts])
    if option.is_flag or option.count:
        return flags
    if option.metavar:
        return f"{flags} {option.metavar}"
    if isinstance(option.type, click.Choice):
        return f"{flags} {'|'.join(str(choice) for choice in option.type.choices)}"
    return f"{flags} {(option.name or '').upper()}"


def _epilog(page: Page, command: click.Command) -> None:
    """What --help says behind the options: sections, and examples as they are typed."""
    formatter = click.HelpFormatter(width=10_000)
    context = click.Context(command, info_name=command.name)
    command.format_epilog(context, formatter)
    section = ""
    lines: list[str] = []
    for line in [*formatter.getvalue().splitlines(), "end:"]:
        if line.endswith(":") and not line.startswith(" "):
            _epilog_section(page, section, lines)
            section, lines = line.rstrip(":"), []
        elif line.strip():
            lines.append(line.strip())


def _epilog_section(page: Page, section: str, lines: list[str]) -> None:
    if section == "Examples":
        page.text("Examples:")
        page.code("console", "\n".join(f"$ {line}" if not line.startswith("#") else line for line in lines))
    elif section and section != "Exit codes":
        page.heading(3, section)
        page.text(" ".join(lines))
