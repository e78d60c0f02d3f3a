"""The commands, settings and links in the READMEs are valid and complete."""

import re
import shlex
from pathlib import Path

import pytest

from flows.cli import parser
from infra.settings import Settings, environment_variable

ROOT = Path(__file__).parent.parent
READMES = [path for path in ROOT.glob("**/README.md") if path.relative_to(ROOT).parts[0] not in (".venv", "workspace")]
TEXT = "\n".join(path.read_text(encoding="utf-8") for path in READMES)
SETTINGS = (ROOT / "infra" / "README.md").read_text(encoding="utf-8")
COMMANDS = [
    line.strip().removesuffix("\\")
    for block in re.findall(r"```(?:bash|sh)\n(.*?)```", TEXT, re.DOTALL)
    for line in block.replace("\\\n", " ").splitlines()
    if line.strip()
]


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("anime-genre ")])
def test_readme_command_is_valid(command: str) -> None:
    parser().parse_args(shlex.split(command, comments=True)[1:])


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("make ")])
def test_readme_make_target_exists(command: str) -> None:
    target = shlex.split(command, comments=True)[1]
    assert re.search(rf"^{target}:.*##", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_readme_has_commands_of_both_kinds() -> None:
    assert {command.split()[0] for command in COMMANDS} >= {"make", "anime-genre"}


def test_settings_are_all_documented() -> None:
    for name, field in Settings.model_fields.items():
        variable = environment_variable(name)
        assert f"`{variable}`" in SETTINGS, variable
        assert field.description


def test_command_options_all_have_a_help_text() -> None:
    (commands,) = [action for action in parser()._actions if action.choices]
    for name, command in commands.choices.items():
        assert [a.dest for a in command._actions if not a.help] == [], name


def test_readme_links_are_valid() -> None:
    for path in READMES:
        for target in re.findall(r"\]\(([^)#]+)\)", path.read_text(encoding="utf-8")):
            assert target.startswith("http") or (path.parent / target).exists(), f"{path}: {target}"
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 200
