"""Processes end with their block, children included."""

import socket
import sys
from pathlib import Path

import psutil
import pytest

from infra.errors import StackError
from infra.local.processes import Processes, claim_port, free_port

SERVER = [sys.executable, "-m", "http.server", "--bind", "127.0.0.1"]


def test_a_process_answers_while_the_block_lasts_and_is_gone_after_it(tmp_path: Path) -> None:
    port = free_port()
    with Processes(tmp_path) as processes:
        processes.start("Server", [*SERVER, str(port)], {}, f"http://127.0.0.1:{port}/")
        processes.wait_ready()
        (pid,) = processes.pids
        assert psutil.pid_exists(pid)
    assert not psutil.pid_exists(pid)
    assert processes.log("Server").exists()


def test_children_that_ignore_the_end_of_their_parent_are_killed(tmp_path: Path) -> None:
    stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
    parent = (
        "import subprocess, sys, time; "
        f"print(subprocess.Popen([sys.executable, '-c', {stubborn!r}]).pid, flush=True); time.sleep(600)"
    )
    with Processes(tmp_path, ending_seconds=1) as processes:
        processes.start("Parent", [sys.executable, "-c", parent], {})
        while not (child := processes.log("Parent").read_text().strip()):
            pass
    assert not psutil.pid_exists(int(child)) or psutil.Process(int(child)).status() == psutil.STATUS_ZOMBIE


def test_a_process_that_ends_before_it_answers_is_named_with_its_log(tmp_path: Path) -> None:
    with (
        Processes(tmp_path) as processes,
        pytest.raises(StackError, match=r"Broken ended with code 3; see .*broken\.log"),
    ):
        processes.start("Broken", [sys.executable, "-c", "raise SystemExit(3)"], {}, "http://127.0.0.1:9/")
        processes.wait_ready()


def test_a_taken_port_is_named_with_the_option_that_gives_another() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(StackError, match=f"Port {port} for the Prefect UI is taken.*--prefect-port"):
            claim_port(port, "the Prefect UI", "--prefect-port")
    assert claim_port(port, "the Prefect UI", "--prefect-port") == port
