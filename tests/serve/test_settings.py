"""Flags, environment, file, defaults: who wins, and what a slip gets."""

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from serve.config import ServeConfig
from serve.errors import StartupError
from serve.settings import parse, to_toml


@pytest.fixture
def file(tmp_path) -> Callable[[str], str]:
    """Called with TOML, writes it and returns the path."""

    def write(text: str) -> str:
        (tmp_path / "serve.toml").write_text(text)
        return str(tmp_path / "serve.toml")

    return write


def settings(*arguments: str, **environment: str) -> ServeConfig:
    return parse(arguments, {f"DIGITS_SERVE_{name}": value for name, value in environment.items()}).serve


def test_without_anything_the_defaults_hold():
    assert settings() == ServeConfig()


def test_a_flag_goes_before_the_environment_and_that_before_the_file(file):
    path = file('port = 1\nhost = "0.0.0.0"\nqueue_images = 5000\nmodels = "models/a"\n')
    found = settings("--config", path, "--port", "3", PORT="2", HOST="[::1]")
    assert (found.port, found.host, found.queue_images, found.models) == (3, "[::1]", 5000, Path("models/a"))


@pytest.mark.parametrize(("flag", "on"), [("--watch", True), ("--no-watch", False)])
@pytest.mark.parametrize("below", ["true", "false"])
def test_a_switch_can_be_turned_either_way_whatever_is_below(file, below, flag, on):
    assert settings(flag, "--config", file(f"watch = {below}")).watch is on
    assert settings(flag, WATCH=below).watch is on


def test_what_has_to_fit_together_may_come_from_different_places(file):
    assert settings("--max-images-per-request", "256", QUEUE_IMAGES="512").queue_images == 512
    path = file("max_images_per_request = 4096")
    assert settings("--config", path, "--queue-images", "8192").max_images_per_request == 4096
    assert settings("--tls-cert", "a.crt", TLS_KEY="a.key").tls_key == Path("a.key")
    with pytest.raises(StartupError, match=r"--queue-images is 2048; expected 4096 \(--max-images-per-request\)"):
        settings("--config", path)


def test_a_bundle_on_the_command_line_goes_before_the_files(file):
    assert settings("models/b", "--config", file('models = "models/a"')).models == Path("models/b")


def test_the_environment_can_name_the_file(file):
    path = file("port = 4")
    assert settings(CONFIG=path).port == 4
    assert settings(f"--config={path}").port == 4


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("SLOTS", "2", 2),
        ("GRACE_S", "3", 3.0),
        ("GRACE_S", "2.5", 2.5),
        ("MODELS", "some where/x", Path("some where/x")),
        ("ENGINE", "onnxruntime", "onnxruntime"),
        ("HOST", '"quoted"', '"quoted"'),
        ("VERSIONS", "3", "3"),
    ],
)
def test_variables_are_read_as_what_they_are_for(name, text, value):
    assert getattr(settings(**{name: text}), name.lower()) == value


def test_other_peoples_variables_are_left_alone():
    assert parse([], {"DIGITS_DATA_ROOT": "x", "PORT": "9"}).serve == ServeConfig()


def test_what_is_printed_is_a_file_that_gives_the_same(file):
    config = settings("models/c", "--port", "9", "--slots", "2", "--grace-s", "1.5", "--engine", "onnxruntime")
    text = to_toml(config)
    assert settings("--config", file(text)) == config
    assert tomllib.loads(text)["slots"] == 2
    assert "# max_batch has no value of its own" in text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prot = 1", r"serve\.toml: unknown setting 'prot': did you mean 'port'\? Known: models, versions, "),
        ('port = "1"', r"serve\.toml: port is '1'; a whole number was expected"),
        ("port = true", r"serve\.toml: port is True; a whole number was expected"),
        ("watch = 1", r"serve\.toml: watch is 1; true or false was expected"),
        ("models = 1", r"serve\.toml: models is 1; a path was expected"),
        ("port = 1.5", r"serve\.toml: port is 1\.5; a whole number was expected"),
        ("grace_s = '1'", r"serve\.toml: grace_s is '1'; a number was expected"),
        ("[server]\nport = 1", r"serve\.toml: unknown setting 'server'"),
        ("port = 70000", r"--port is 70000; expected 0 to 65535"),
        ("engine = 'cuda'", r"serve\.toml: engine is 'cuda'; one of auto, onnxruntime, .*tensorrt was expected"),
        ("port 1", r"serve\.toml is not TOML: .*line 1"),
    ],
)
def test_a_slip_in_the_file_is_answered_with_its_place(file, text, message):
    with pytest.raises(StartupError, match=message):
        settings("--config", file(text))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--max-queue-delay-us", "1000001"], "--max-queue-delay-us is 1000001; expected 0 to 1000000"),
        (["--host", "::1"], "--host is '::1'; expected a name or an address without a port, IPv6 in brackets such as"),
        (["--access-log", "1.5"], "--access-log is 1.5; expected 0 to 1"),
        (["--metrics-port", "65536"], "--metrics-port is 65536; expected 0 to 65535"),
        (["--otel-endpoint", "collector:4318"], "--otel-endpoint is 'collector:4318'; expected a URL that begins with"),
    ],
)
def test_a_value_out_of_range_is_answered_with_what_is_allowed(flags, message):
    with pytest.raises(StartupError, match=re.escape(message)):
        settings(*flags)


def test_a_slip_in_a_variable_is_answered_with_its_name():
    with pytest.raises(StartupError, match=r"^DIGITS_SERVE_QUEUE_IMAGE: unknown setting .* 'queue_images'"):
        settings(QUEUE_IMAGE="5")
    with pytest.raises(StartupError, match=r"^DIGITS_SERVE_PORT is 'x'; a whole number was expected"):
        settings(PORT="x")


def test_a_file_that_is_not_there_is_an_error_with_its_path(tmp_path):
    with pytest.raises(StartupError, match=r"nope\.toml: No such file or directory; a TOML file was expected"):
        settings("--config", str(tmp_path / "nope.toml"))


def serve(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "serve", *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, timeout=60, check=False, env=os.environ | environment)


def test_check_says_what_would_be_served_and_by_what(bundle):
    done = serve("--check", DIGITS_SERVE_MODELS=str(bundle))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"ok: {bundle} is compact version 1; model.onnx runs with onnxruntime on cpu\n"


def test_check_finds_what_would_keep_the_server_from_starting(tmp_path):
    done = serve(tmp_path / "nowhere", "--check")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"error: {tmp_path / 'nowhere'}: found nothing, a bundle directory was expected")


def test_print_config_needs_no_bundle(tmp_path):
    done = serve(tmp_path / "nowhere", "--print-config", DIGITS_SERVE_PORT="7")
    assert done.returncode == 0
    assert tomllib.loads(done.stdout)["port"] == 7


def test_check_finds_certificates_and_tokens_that_are_of_no_use(bundle, tmp_path):
    done = serve(bundle, "--check", "--token-file", tmp_path / "nope")
    assert (done.returncode, done.stdout) == (1, "")
    assert "No such file or directory; a file with one token a line was expected" in done.stderr
    done = serve(bundle, "--check", "--tls-cert", tmp_path / "nope", "--tls-key", tmp_path / "nope")
    assert (done.returncode, done.stdout) == (1, "")
    assert "a PEM file was expected" in done.stderr


def test_print_config_names_the_token_file_and_not_what_is_in_it(tmp_path):
    (tmp_path / "tokens").write_text("a-token-of-some-length")
    done = serve("--print-config", "--token-file", tmp_path / "tokens")
    assert tomllib.loads(done.stdout)["token_file"] == str(tmp_path / "tokens")
    assert "of-some-length" not in done.stdout
