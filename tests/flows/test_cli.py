"""The command: bad input ends with one sentence and a code, before anything is started."""

import socket
from pathlib import Path

import pytest

from flows.cli import main
from infra.local.site.server import small_site


def fails_with(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The sentence with which a command fails."""
    code = main(arguments)
    error = capsys.readouterr().err.strip()
    assert code == 1
    assert "Traceback" not in error
    assert error.startswith("anime-genre: ") and len(error.splitlines()) == 1
    return error


def test_an_unknown_season_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["retrain", "--seasons", "2015-monsoon", "--workspace", str(tmp_path / "w")]
    assert "'2015-monsoon'" in fails_with(arguments, capsys)
    assert not (tmp_path / "w").exists()


def test_a_site_that_cannot_be_reached_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["retrain", "--site-url", "http://127.0.0.1:9", "--workspace", str(tmp_path / "w")]
    assert "http://127.0.0.1:9" in fails_with(arguments, capsys)
    assert not (tmp_path / "w").exists()


def test_an_address_that_is_none_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["retrain", "--site-url", "myanimelist.net", "--workspace", str(tmp_path / "w")]
    assert "--site-url" in fails_with(arguments, capsys)


def test_weights_that_cannot_be_read_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "weights.pth").write_bytes(b"no weights")
    arguments = ["retrain", "--weights", str(tmp_path / "weights.pth"), "--workspace", str(tmp_path / "w")]
    assert "weights.pth" in fails_with(arguments, capsys)


def test_an_unknown_backbone_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["retrain", "--backbone", "resnet19", "--workspace", str(tmp_path / "w")]
    assert "resnet19" in fails_with(arguments, capsys)


def test_a_taken_port_is_named_with_its_option(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        arguments = ["up", "--prefect-port", str(port), "--workspace", str(tmp_path)]
        assert f"Port {port}" in (error := fails_with(arguments, capsys))
        assert "--prefect-port" in error


def test_a_port_that_is_none_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "Port 99999" in fails_with(["up", "--mlflow-port", "99999", "--workspace", str(tmp_path)], capsys)


def test_an_address_for_the_stack_that_is_none_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--site-url" in fails_with(["up", "--site-url", "myanimelist.net", "--workspace", str(tmp_path)], capsys)


def test_a_variable_that_cannot_be_used_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANIME_GENRE_SERVICE_TIMEOUT_SECONDS", "soon")
    assert "ANIME_GENRE_SERVICE_TIMEOUT_SECONDS" in fails_with(["demo", "--workspace", str(tmp_path)], capsys)
    monkeypatch.setenv("ANIME_GENRE_RETRY_DELAY_SECONDS", "10,60")
    assert "retry_delay_seconds" in fails_with(["demo", "--workspace", str(tmp_path)], capsys)


def test_a_prefect_server_that_does_not_answer_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    with small_site(titles=20) as site_url:
        arguments = ["retrain", "--site-url", site_url, "--weights", "none", "--workspace", str(tmp_path)]
        assert "PREFECT_API_URL=http://127.0.0.1:9/api" in fails_with(arguments, capsys)


def test_a_workspace_that_cannot_be_written_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("no folder")
    assert f"{tmp_path}/file/w" in fails_with(["demo", "--workspace", f"{tmp_path}/file/w"], capsys)


@pytest.mark.parametrize("command", ["demo", "up", "retrain", "train", "predict"])
def test_every_command_has_a_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    assert len(capsys.readouterr().out.splitlines()) > 5
