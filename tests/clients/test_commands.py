"""What every command line of `clients` has in common, seen at `python -m clients.classify`."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(module: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run `python -m clients.MODULE` from the repository as a user does."""
    return subprocess.run(
        [sys.executable, "-m", f"clients.{module}", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("module", ["classify", "web", "benchmark"])
def test_the_help_is_for_those_who_call_not_for_those_who_read_the_code(module):
    done = run(module, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "--tls-root" in done.stdout
    assert "docstring" not in done.stdout


def test_a_wrong_option_is_refused_with_a_message_and_no_traceback():
    done = run("classify", "a.png", "--top-k", 11)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "error: --top-k is 11; 1 to 10 was expected\n"
