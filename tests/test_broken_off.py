"""A tool that is told to stop says so in words, and in its exit code: it cleans up, whoever stops it."""

import signal
import socket
import subprocess
import sys

import pytest


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_tool_that_is_stopped_says_so(number: signal.Signals) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(60)
        port = silent.getsockname()[1]
        argv = [sys.executable, "-m", "availability", "audit"]
        known = {
            "AVAILABILITY_POSTGRES_URL": f"postgresql://nobody@127.0.0.1:{port}/nothing",
            "AVAILABILITY_REDIS_URL": f"redis://127.0.0.1:{port}",
        }
        tool = subprocess.Popen(argv, env=known, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        with silent.accept()[0]:  # so it waits for an answer now
            tool.send_signal(number)
            _, said = tool.communicate(timeout=60)
    assert (tool.returncode, said.startswith("broken off: ")) == (2, True), said
