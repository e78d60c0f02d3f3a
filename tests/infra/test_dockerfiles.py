"""The images of the pipeline and of the page: their user can read what was copied from any checkout."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("file", ["infra/Dockerfile", "serving/web/Dockerfile"])
def test_user_of_the_image_can_read_a_checkout_that_only_its_owner_can(file: str, tmp_path: Path) -> None:
    text = (ROOT / file).read_text()
    (folder,) = re.findall(r"^WORKDIR (/app|/page)$", text, re.MULTILINE)
    copied_last = max(match.end() for match in re.finditer(r"^COPY (?!--from).*$", text, re.MULTILINE))
    (command,) = re.findall(rf"^RUN (chmod .*{folder})$", text[copied_last : text.index("\nUSER ")], re.MULTILINE)

    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "module.py").write_text("")
    (tmp_path / "package" / "script.sh").write_text("")
    for path, mode in (("package/module.py", 0o600), ("package/script.sh", 0o700), ("package", 0o700), ("", 0o700)):
        (tmp_path / path).chmod(mode)
    subprocess.run(shlex.split(command.replace(folder, str(tmp_path))), check=True)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "package").rglob("*")}
    assert modes == {"module.py": 0o644, "script.sh": 0o755}
    assert {path.stat().st_mode & 0o777 for path in (tmp_path, tmp_path / "package")} == {0o755}
