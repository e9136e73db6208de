"""The documentation agrees with the code: pages, links, Python examples, commands, flags and settings."""

import dataclasses
import re
import shlex
import tomllib
from pathlib import Path

import click
import pytest

from milscope.cli import cli
from milscope.configs import STAGES, configure

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [path for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md"))) if path.exists()]
VERBS = [*STAGES, "synth", "run"]
MAKE_TARGETS = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of that language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def prose(text: str) -> str:
    """The text without its fenced blocks."""
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors(path: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and most renderers make them."""
    titles = re.findall(r"^#+ (.+)$", prose(path.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def invocations(text: str) -> list[list[str]]:
    """The words of every `milscope …` line of the shell examples; a backslash at the end of a line joins it to the next."""
    lines = "\n".join(blocks(text, "bash")).replace("\\\n", " ").splitlines()
    words = [shlex.split(line, comments=True) for line in lines]
    return [line[1:] for line in words if line and line[0].endswith("milscope")]


def commands() -> list[click.Command]:
    """All commands, those of groups too."""
    return [each for command in cli.commands.values()
            for each in (command.commands.values() if isinstance(command, click.Group) else [command])]


def complaint(words: list[str]) -> str:
    """What is wrong with a command line; "" if the command, its flags and its number of arguments are right."""
    if words[0].startswith("-"):
        return ""
    command = cli.commands.get(words[0])
    if isinstance(command, click.Group):
        words = words[1:] or [""]
        command = command.commands.get(words[0])
    if command is None:
        return f"no command {words[0]}"
    options = {name: each for each in command.params if each.param_type_name == "option"
               for name in (*each.opts, *each.secondary_opts)}
    given, rest, place = set(), 0, 1
    while place < len(words):
        name, _, value = words[place].partition("=")
        if not name.startswith("-"):
            rest += 1
        elif name in ("-h", "--help"):
            return ""
        elif name not in options:
            return f"{words[0]} has no {name}"
        else:
            given.add(options[name].name)
            if not options[name].is_flag and not value:
                place += 1
        place += 1
    needed = {each.name for each in command.params if each.param_type_name == "option" and each.required}
    if needed - given:
        return f"{words[0]} needs {sorted(needed - given)}"
    arguments = [each for each in command.params if each.param_type_name == "argument"]
    least, most = sum(each.required for each in arguments), len(arguments)
    if any(each.nargs == -1 for each in arguments):
        most = max(rest, least)
    return "" if least <= rest <= most else f"{words[0]} takes {most} arguments, not {rest}"


@pytest.mark.parametrize(("words", "said"), [
    ("tile s.csv --out t", ""),
    ("tile s.csv --out t --sise 3", "tile has no --sise"),
    ("tile s.csv", "tile needs ['out']"),
    ("tile --out t", "tile takes 1 arguments, not 0"),
    ("synth out --no-crops --help", ""),
    ("fly", "no command fly"),
    ("benchmark fly", "no command fly"),
    ("benchmark witness cells --out o --rats 0.1", "witness has no --rats"),
    ("benchmark witness cells truth.csv --out o", ""),
    ("benchmark page a b --out p.html", ""),
    ("benchmark page --out p.html", "page takes 1 arguments, not 0"),
])
def test_the_judge_of_command_lines(words: str, said: str) -> None:
    assert complaint(words.split()) == said


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_a_page_that_the_index_links(verb: str) -> None:
    page = DOCS / f"{verb}.md"
    assert page.exists()
    assert f"({verb}.md)" in (DOCS / "index.md").read_text()
    assert any(words[0] == verb for words in invocations(page.read_text())), "no example of the command"
    assert blocks(page.read_text(), "python"), "no example in Python"


def test_every_page_is_linked_from_the_index() -> None:
    index = (DOCS / "index.md").read_text()
    assert [path.name for path in DOCS.glob("*.md") if path.name != "index.md" and f"({path.name})" not in index] == []


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)|<img[^>]*src=\"([^\"]+)\"", prose(path.read_text())):
        link = "".join(target)
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        page = (path.parent / name).resolve() if name else path
        assert page.exists(), link
        if anchor and page.suffix == ".md":
            assert anchor in anchors(page), link


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_python_examples_compile(path: Path) -> None:
    for number, block in enumerate(blocks(path.read_text(), "python")):
        compile(block, f"{path.name}, block {number}", "exec")


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_commands_and_flags_exist(path: Path) -> None:
    text = path.read_text()
    assert [said for words in invocations(text) if (said := complaint(words))] == []
    for name in re.findall(r"`milscope ([a-z]\w*)", prose(text)):
        assert name in cli.commands
    for name in re.findall(r"`make ([a-z]+)`", prose(text)):
        assert name in MAKE_TARGETS
    parameters = [each for command in commands() for each in command.params]
    flags = {flag for each in parameters for flag in (*each.opts, *each.secondary_opts)}
    for flag in re.findall(r"`(--[a-z-]+)", re.sub(r"`(?:pytest|ruff|pip|python)[^`]*`", "", prose(text))):
        assert flag in {*flags, "--help", "--version", "--json"}, flag


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_settings_exist(path: Path) -> None:
    text = path.read_text()
    for block in blocks(text, "toml"):
        for stage, values in tomllib.loads(block).items():
            if stage in STAGES:
                configure(STAGES[stage], values, source=stage)
    for stage, key in re.findall(r"--set (\w+)\.(\w+)=", text):
        assert key in {field.name for field in dataclasses.fields(STAGES[stage])}
