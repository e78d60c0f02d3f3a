"""What the README says is so: its commands exist, and its settings are all there."""

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
def test_a_command_of_the_readme_is_understood(command: str) -> None:
    parser().parse_args(shlex.split(command, comments=True)[1:])


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("make ")])
def test_a_target_of_the_readme_is_in_the_makefile(command: str) -> None:
    target = shlex.split(command, comments=True)[1]
    assert re.search(rf"^{target}:.*##", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_the_readme_has_commands_of_both_kinds() -> None:
    assert {command.split()[0] for command in COMMANDS} >= {"make", "anime-genre"}


def test_every_setting_of_the_environment_is_documented() -> None:
    for name, field in Settings.model_fields.items():
        variable = environment_variable(name)
        assert f"`{variable}`" in SETTINGS, variable
        assert field.description


def test_every_option_of_the_command_has_a_help() -> None:
    (commands,) = [action for action in parser()._actions if action.choices]
    for name, command in commands.choices.items():
        assert [a.dest for a in command._actions if not a.help] == [], name


def test_readmes_link_to_files_that_exist() -> None:
    for path in READMES:
        for target in re.findall(r"\]\(([^)#]+)\)", path.read_text(encoding="utf-8")):
            assert target.startswith("http") or (path.parent / target).exists(), f"{path}: {target}"
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 200
