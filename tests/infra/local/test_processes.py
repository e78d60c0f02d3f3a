"""Child processes: readiness, exits, shutdown and leftovers; free ports."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

import infra.local.processes
from infra.errors import StackError
from infra.local.processes import Processes, claim_port, free_port, is_reachable

pytestmark = pytest.mark.stack

ROOT = Path(__file__).parents[3]
SERVER = [sys.executable, "-m", "http.server", "--bind", "127.0.0.1"]


def test_process_runs_until_the_end_of_the_block(tmp_path: Path) -> None:
    port = free_port()
    with Processes(tmp_path) as processes:
        processes.start("Server", [*SERVER, str(port)], {}, f"http://127.0.0.1:{port}/")
        processes.wait_ready()
        (pid,) = map(int, json.loads((tmp_path / "running.json").read_text()))
        assert psutil.pid_exists(pid)
    assert not psutil.pid_exists(pid)
    assert processes.log("Server").exists()


def test_process_imports_nothing_from_its_folder_instead_of_a_package(tmp_path: Path) -> None:
    for package in ("flows", "tasks", "ml", "infra", "serving", "requests"):
        (tmp_path / f"{package}.py").write_text("raise SystemExit('not the package')")
    program = "import infra.local, ml, tasks, flows, serving, requests; print('imported')"
    with Processes(tmp_path / "logs") as processes:
        processes.start("Child", [sys.executable, "-c", program], {"PYTHONPATH": str(ROOT)}, folder=tmp_path)
        log, deadline = processes.log("Child"), time.monotonic() + 60
        while not log.read_text().strip() and time.monotonic() < deadline:
            time.sleep(0.05)
    assert log.read_text().strip() == "imported"


def test_children_that_ignore_sigterm_are_killed(tmp_path: Path) -> None:
    stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
    parent = (
        "import subprocess, sys, time; "
        f"print(subprocess.Popen([sys.executable, '-c', {stubborn!r}]).pid, flush=True); time.sleep(600)"
    )
    with Processes(tmp_path, shutdown_timeout_seconds=0.5) as processes:
        processes.start("Parent", [sys.executable, "-c", parent], {})
        while not (child := processes.log("Parent").read_text().strip()):
            pass
    assert not psutil.pid_exists(int(child)) or psutil.Process(int(child)).status() == psutil.STATUS_ZOMBIE


def test_wait_ready_names_a_process_that_exits_and_its_log(tmp_path: Path) -> None:
    with (
        Processes(tmp_path) as processes,
        pytest.raises(StackError, match=r"Broken exited with code 3; see .*broken\.log\.\nno output$"),
    ):
        processes.start("Broken", [sys.executable, "-c", "raise SystemExit(3)"], {}, "http://127.0.0.1:9/")
        processes.wait_ready()


def test_wait_ready_prints_a_long_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(infra.local.processes, "_SILENCE_SECONDS", 0.2)
    began = time.monotonic()
    with Processes(tmp_path) as processes:
        command = [sys.executable, "-c", "import time; time.sleep(60)"]
        processes.start("Slow", command, {}, lambda: time.monotonic() > began + 1)
        processes.wait_ready()
    lines = capsys.readouterr().out.splitlines()
    assert 2 <= len(lines) <= 5 and lines[0] == "Waiting for Slow (0 s) ..."


def test_long_log_is_moved_at_the_start_and_while_the_process_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(infra.local.processes, "_MAX_LOG_BYTES", 10)
    (tmp_path / "child.log").write_text("of the last start\n")
    program = "import time\nfor line in range(100): print('line', line, flush=True); time.sleep(0.05)"
    with Processes(tmp_path) as processes:
        processes.start("Child", [sys.executable, "-c", program], {})
        log, earlier = tmp_path / "child.log", tmp_path / "child.1.log"
        assert earlier.read_text() == "of the last start\n"
        while log.stat().st_size <= 10:
            time.sleep(0.01)
        processes.check()
        assert earlier.read_text().startswith("line 0\n")
        while not log.read_text():
            time.sleep(0.01)
    assert re.match(r"line [1-9]", log.read_text())


def test_claim_port_names_the_option_for_another_port() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(StackError, match=f"Port {port} for the Prefect UI is taken.*--prefect-port"):
            claim_port(port, "the Prefect UI", "--prefect-port")
    assert claim_port(port, "the Prefect UI", "--prefect-port") == port


def test_check_names_a_process_that_exited_and_its_last_line(tmp_path: Path) -> None:
    with Processes(tmp_path) as processes:
        processes.start("Brief", [sys.executable, "-c", "print('the last line')"], {})
        deadline = time.monotonic() + 10
        with pytest.raises(StackError, match=r"Brief exited with code 0; see .*brief\.log\.\nthe last line$"):
            while time.monotonic() < deadline:
                processes.check()


def test_viewer_that_exits_is_restarted_with_longer_pauses_and_ends_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Processes(tmp_path) as processes:
        processes.start("Viewer", [sys.executable, "-c", "print('started')"], {}, "http://127.0.0.1:9/", is_viewer=True)
        processes.start("Service", [sys.executable, "-c", "import time; time.sleep(600)"], {})
        processes.wait_ready()
        deadline = time.monotonic() + 30
        while processes.log("Viewer").read_text().count("started") < 3 and time.monotonic() < deadline:
            processes.check()
            time.sleep(0.01)
    pauses = re.findall(r"Viewer exited with code 0; see .* It restarts in (\d+) s\.", capsys.readouterr().err)
    assert pauses[:2] == ["1", "2"]


def test_leftovers_of_a_killed_program_are_terminated_and_nothing_else(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import time; time.sleep(600)"]
    left, other = subprocess.Popen(command), subprocess.Popen(command)
    started = {left.pid: psutil.Process(left.pid).create_time(), other.pid: 1.0, os.getpid(): 1.0}
    (tmp_path / "running.json").write_text(json.dumps(started))
    try:
        with Processes(tmp_path):
            left.wait(timeout=10)
            assert not psutil.pid_exists(left.pid)
            assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_leftovers_are_terminated_although_the_clock_was_set_since(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "a program) 1 2 (3"
    program.symlink_to("/bin/sleep")
    with Processes(tmp_path / "killed") as killed:
        killed.start("Left", [str(program), "600"], {})
        killed.start("Other", ["/bin/sleep", "600"], {})
        (left, other), logs = (each.process for each in killed._children), tmp_path / "logs"
        started = json.loads((tmp_path / "killed" / "running.json").read_text())
        logs.mkdir()
        (logs / "running.json").write_text(json.dumps(started | {str(other.pid): f"another-boot {10**9}"}))
        real = psutil.Process.create_time
        monkeypatch.setattr(psutil.Process, "create_time", lambda process: real(process) + 3600)
        with Processes(logs):
            left.wait(timeout=10)
            assert other.poll() is None, "its id was another process's"


def test_second_interrupt_leaves_no_process(tmp_path: Path) -> None:
    ignore = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    stubborn = f"{ignore}; print('up', flush=True); time.sleep(600)"
    with Processes(tmp_path, shutdown_timeout_seconds=0.5) as processes:
        processes.start("Stubborn", [sys.executable, "-c", stubborn], {})
        while "up" not in processes.log("Stubborn").read_text():
            time.sleep(0.01)
        (pid,) = map(int, json.loads((tmp_path / "running.json").read_text()))
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
    assert not psutil.pid_exists(pid)
    assert not (tmp_path / "running.json").exists()


def test_free_port_returns_no_port_twice() -> None:
    assert len({free_port() for _ in range(2000)}) == 2000


@pytest.mark.parametrize("url", ["myserver/api/health", "http://my server/api", "http://[::1/api", "http://h:port/api"])
def test_address_that_cannot_be_read_is_not_reachable(url: str) -> None:
    assert not is_reachable(url)


def test_port_that_does_not_speak_http_is_not_reachable() -> None:
    def answer() -> None:
        connection, _ = listening.accept()
        with connection:
            connection.recv(1000)
            connection.sendall(b"SSH-2.0-OpenSSH_9.6\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=answer)
        thread.start()
        assert not is_reachable(f"http://127.0.0.1:{listening.getsockname()[1]}/api/health")
        thread.join()
