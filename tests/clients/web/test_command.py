"""`python -m clients.web` as a user starts and ends it."""

import signal
import socket
import subprocess
import sys

import httpx

from tests.clients.test_commands import run
from tests.clients.web.conftest import ROOT


def test_ctrl_c_ends_it_quietly_while_a_browser_is_connected(page_process, free_address):
    """SIGTERM ends the page of every other test."""
    with httpx.Client() as browser, page_process(free_address, "--host", "localhost") as page:
        assert page.address.startswith("http://localhost:")
        assert browser.get(page.address).status_code == 200
        page.process.send_signal(signal.SIGINT)
        assert page.process.wait(10) == 0


def test_a_port_that_is_taken_is_named():
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = run("web", "--port", port)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"error: port {port} of 127.0.0.1 is taken; name another with --port, or 0 for a free one\n"


def test_a_host_that_is_not_this_machine_s_is_named():
    done = run("web", "--host", "192.0.2.1", "--port", 0)
    assert done.returncode == 1
    assert done.stderr.startswith("error: 192.0.2.1:0 cannot be listened at: ")


def test_certificates_that_are_not_there_are_named(tmp_path):
    done = run("web", "--port", 0, "--tls-root", tmp_path / "nope.crt")
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert "nope.crt: cannot be read" in done.stderr


def test_without_its_libraries_it_names_the_extra():
    code = "import sys; sys.modules['uvicorn'] = None; from clients.web.__main__ import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "error: uvicorn is not installed; `pip install '.[web]'` brings it\n"
