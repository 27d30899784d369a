"""A bundle is published as a whole or not at all, and read back only when every byte is the one that was published."""

import dataclasses
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bundle import FORMAT, MANIFEST_NAME, Bundle, BundleError, Manifest, ManifestError, PublishError, publish, store

ROOT = Path(__file__).resolve().parents[2]

FILES = {"model.onnx": bytes(range(256)) * 4, "parity.json": b'{"flips": 0}\n', "empty": b""}


@pytest.fixture(scope="session")
def manifest(manifest) -> Manifest:
    """Of a bundle without plans."""
    return dataclasses.replace(manifest, plans={})


@pytest.fixture
def published(tmp_path, manifest) -> Path:
    """A bundle that holds FILES."""
    return publish(tmp_path / "models" / "bundle", manifest, FILES).path


def content_of(folder: Path) -> dict[str, bytes]:
    """Everything below a folder, hidden entries included; folders are listed without content."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b""
        for path in sorted(folder.rglob("*"))
    }


def test_what_was_published_is_read_back(published, manifest):
    bundle = Bundle.open(published)
    assert {name: bundle.read(name) for name in bundle.manifest.files} == FILES
    assert dataclasses.replace(bundle.manifest, files=manifest.files) == manifest


def test_the_manifest_lists_size_and_digest_of_every_file(published):
    listed = Bundle.open(published).manifest.files
    assert {name: (entry.bytes, entry.sha256) for name, entry in listed.items()} == {
        name: (len(content), hashlib.sha256(content).hexdigest()) for name, content in FILES.items()
    }


def test_publishing_twice_gives_the_same_bytes(tmp_path, manifest):
    first = publish(tmp_path / "first", manifest, FILES)
    second = publish(tmp_path / "second", manifest, dict(reversed(FILES.items())))
    assert content_of(first.path) == content_of(second.path)


def test_publishing_leaves_the_bundle_and_nothing_else(published):
    assert [path.name for path in published.parent.iterdir()] == ["bundle"]
    assert sorted(path.name for path in published.iterdir()) == sorted([*FILES, MANIFEST_NAME])


def test_others_may_read_a_bundle(published):
    # The server may run as another user than the export; a temporary folder is its owner's only.
    assert published.stat().st_mode & 0o777 == 0o755


def test_a_relative_path_is_published_where_it_points(tmp_path, manifest, monkeypatch):
    monkeypatch.chdir(tmp_path)
    publish(Path("bundle"), manifest, FILES)
    assert Bundle.open(tmp_path / "bundle").read("model.onnx") == FILES["model.onnx"]
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_an_empty_folder_may_become_a_bundle(tmp_path, manifest):
    (tmp_path / "bundle").mkdir()
    publish(tmp_path / "bundle", manifest, FILES)
    assert content_of(tmp_path).keys() == {"bundle", *(f"bundle/{name}" for name in [*FILES, MANIFEST_NAME])}


def test_an_older_bundle_is_replaced_as_a_whole(published, manifest):
    publish(published, manifest, {"model.onnx": b"new"})
    assert sorted(path.name for path in published.iterdir()) == [MANIFEST_NAME, "model.onnx"]
    assert Bundle.open(published).read("model.onnx") == b"new"
    assert [path.name for path in published.parent.iterdir()] == ["bundle"]


# Reading


@pytest.fixture(scope="module")
def damaged(tmp_path_factory, manifest) -> Path:
    """A bundle for one test that damages and mends it many times."""
    return publish(tmp_path_factory.mktemp("damaged") / "bundle", manifest, FILES).path


@settings(deadline=None, max_examples=80)
@given(name=st.sampled_from(["model.onnx", "parity.json"]), where=st.integers(min_value=0), flip=st.integers(1, 255))
def test_a_single_changed_byte_is_found(damaged, name, where, flip):
    content = bytearray(FILES[name])
    content[where % len(content)] ^= flip
    (damaged / name).write_bytes(content)
    try:
        with pytest.raises(BundleError) as caught:
            Bundle.open(damaged)
    finally:
        (damaged / name).write_bytes(FILES[name])
    received, expected = (hashlib.sha256(each).hexdigest() for each in (content, FILES[name]))
    for part in (str(damaged / name), f"received {len(content)} bytes", received, expected, "export the model again"):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("content", "received"),
    [
        (b"", "received 0 bytes"),
        (FILES["model.onnx"][:-1], "received 1023 bytes"),
        (FILES["model.onnx"] + b"\0", "received 1025 bytes"),
    ],
    ids=["emptied", "truncated", "lengthened"],
)
def test_a_file_of_another_size_is_refused(published, content, received):
    (published / "model.onnx").write_bytes(content)
    with pytest.raises(BundleError, match=rf"model\.onnx: {received}, expected 1024 bytes"):
        Bundle.open(published)


def test_a_missing_file_is_named_with_its_size(published):
    (published / "model.onnx").unlink()
    with pytest.raises(BundleError, match=r"model\.onnx: No such file .* 1024 bytes; restore it, or export"):
        Bundle.open(published)


def test_a_folder_in_place_of_a_file_is_refused(published):
    (published / "model.onnx").unlink()
    (published / "model.onnx").mkdir()
    with pytest.raises(BundleError, match=r"model\.onnx: Is a directory"):
        Bundle.open(published)


def test_a_change_after_opening_is_found_when_the_file_is_read(published):
    bundle = Bundle.open(published)
    (published / "model.onnx").write_bytes(FILES["model.onnx"][::-1])
    with pytest.raises(BundleError, match="changed after it was published"):
        bundle.read("model.onnx")


def test_a_file_that_is_not_listed_is_not_read(published):
    (published / "secret").write_text("x")
    with pytest.raises(BundleError, match=r"lists no secret; it lists \['empty', 'model.onnx', 'parity.json'\]"):
        Bundle.open(published).read("secret")


def test_files_that_are_not_listed_do_no_harm(published):
    (published / "notes.txt").write_text("x")
    assert Bundle.open(published).read("model.onnx") == FILES["model.onnx"]


def test_a_missing_bundle_says_how_to_make_one(tmp_path):
    with pytest.raises(BundleError, match=r"nope: found nothing.*python -m export\.to_onnx best\.pt"):
        Bundle.open(tmp_path / "nope")


def test_a_file_in_place_of_a_bundle_is_refused(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"x")
    with pytest.raises(BundleError, match=r"model\.onnx: found a file, a bundle directory was expected"):
        Bundle.open(tmp_path / "model.onnx")


def test_a_folder_without_manifest_says_how_to_make_a_bundle(tmp_path):
    with pytest.raises(ManifestError, match=rf"{MANIFEST_NAME}: No such file.*python -m export\.to_onnx best\.pt"):
        Bundle.open(tmp_path)


def test_a_newer_manifest_is_refused_with_its_path_and_what_to_do(published):
    path = published / MANIFEST_NAME
    path.write_text(path.read_text().replace(f'"format": {FORMAT}', f'"format": {FORMAT + 1}'))
    with pytest.raises(ManifestError, match=rf"{MANIFEST_NAME}: manifest format is {FORMAT + 1}.*upgrade the server"):
        Bundle.open(published)


def test_a_huge_manifest_is_refused_before_it_fills_the_memory(published):
    with (published / MANIFEST_NAME).open("r+b") as file:
        file.truncate(1 << 40)  # a sparse terabyte: nothing is written
    with pytest.raises(ManifestError, match=r"over 1048576 bytes; a manifest has a few thousand"):
        Bundle.open(published)


@pytest.mark.parametrize("size", [10**15, 10**30])
def test_a_size_that_no_file_has_is_refused_before_it_fills_the_memory(published, size):
    path = published / MANIFEST_NAME
    path.write_text(path.read_text().replace('"bytes": 1024', f'"bytes": {size}'))
    with pytest.raises(BundleError, match=rf"model\.onnx.*expected {size} bytes"):
        Bundle.open(published)


def test_a_path_that_cannot_exist_is_refused(tmp_path, manifest):
    with pytest.raises(BundleError, match="too long"):
        Bundle.open(tmp_path / ("x" * 300))
    with pytest.raises(PublishError, match="too long"):
        publish(tmp_path / ("x" * 300), manifest, FILES)


# Refusing to publish


def test_a_folder_that_is_no_bundle_is_left_alone(tmp_path, manifest):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").write_text("years of work")
    before = content_of(tmp_path)
    with pytest.raises(PublishError, match=r"thesis: holds files that are no bundle.*choose another --output"):
        publish(tmp_path / "thesis", manifest, FILES)
    assert content_of(tmp_path) == before


def test_a_folder_with_somebody_elses_manifest_is_left_alone(tmp_path, manifest):
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "manifest.json").write_text('{"short_name": "a web page", "start_url": "/"}')
    (tmp_path / "site" / "index.html").write_text("years of work")
    before = content_of(tmp_path)
    with pytest.raises(PublishError, match="no bundle"):
        publish(tmp_path / "site", manifest, FILES)
    assert content_of(tmp_path) == before


def test_a_file_is_left_alone(tmp_path, manifest):
    (tmp_path / "bundle").write_text("x")
    with pytest.raises(PublishError, match="is a file; a directory was expected"):
        publish(tmp_path / "bundle", manifest, FILES)
    assert content_of(tmp_path) == {"bundle": b"x"}


def test_a_file_in_place_of_the_parent_is_left_alone(tmp_path, manifest):
    (tmp_path / "models").write_text("x")
    with pytest.raises(PublishError, match=r"models cannot be written; choose another --output"):
        publish(tmp_path / "models" / "bundle", manifest, FILES)
    assert content_of(tmp_path) == {"models": b"x"}


@pytest.mark.parametrize("name", ["../model.onnx", "a/b", ""])
def test_a_file_name_that_leads_elsewhere_is_refused_before_anything_is_written(tmp_path, manifest, name):
    with pytest.raises(ManifestError, match="a plain file name was expected"):
        publish(tmp_path / "bundle", manifest, {name: b"x"})
    assert not content_of(tmp_path)


def test_a_file_may_not_take_the_manifests_name(tmp_path, manifest):
    with pytest.raises(BundleError, match=MANIFEST_NAME):
        publish(tmp_path / "bundle", manifest, {MANIFEST_NAME: b"x"})
    assert not content_of(tmp_path)


def test_a_link_to_an_older_bundle_leaves_no_temporary_files(published, manifest, tmp_path):
    (tmp_path / "current").symlink_to(published)
    publish(tmp_path / "current", manifest, {"model.onnx": b"new"})
    assert Bundle.open(tmp_path / "current").read("model.onnx") == b"new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["current", "models"]


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="there is no /proc, where nobody can make a folder")
def test_a_place_where_nothing_can_be_made_is_refused(manifest):
    with pytest.raises(PublishError, match=r"bundle: /proc cannot be written; choose another --output"):
        publish(Path("/proc/nowhere/bundle"), manifest, FILES)


@pytest.mark.skipif(os.geteuid() == 0, reason="permissions do not stop root")
def test_a_folder_without_permission_is_refused(tmp_path, manifest):
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o555)
    with pytest.raises(PublishError, match=r"locked cannot be written; choose another --output or mend"):
        publish(locked / "bundle", manifest, FILES)
    assert not content_of(locked)


# Real failures in the middle, each in a process of its own

PUBLISH_ONE_MIB = """
import json, resource, sys
from pathlib import Path
from bundle import Bundle, BundleError, publish

target, limit, prepare = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "prepare"
if prepare:
    manifest = Bundle.open(Path(sys.argv[4])).manifest
    publish(target, manifest, {"model.onnx": b"old"})
manifest = Bundle.open(target).manifest
before = sorted(path.name for path in target.parent.iterdir())
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    publish(target, manifest, {"first": b"x", "model.onnx": bytes(1 << 20), "last": b"x"})
except BundleError as error:
    print(f"{type(error).__name__}: {error}")
assert sorted(path.name for path in target.parent.iterdir()) == before, "temporary files are left"
Bundle.open(target)
"""


def run_script(command: list[str], *arguments: object) -> str:
    done = subprocess.run(
        [*command, sys.executable, "-c", PUBLISH_ONE_MIB, *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_write_that_fails_midway_leaves_the_older_bundle_and_no_temporary_files(published):
    before = content_of(published.parent)
    printed = run_script([], published, 100_000, "keep")
    assert printed.startswith(f"PublishError: {published}: File too large; nothing was published; free some space")
    assert content_of(published.parent) == before
    assert Bundle.open(published).read("model.onnx") == FILES["model.onnx"]


def own_mounts(mount: str, folder: Path) -> list[str]:
    """Run what follows with a file system of its own at `folder`, which vanishes with the process."""
    script = f'mount -t tmpfs -o {mount} digits-test "$0" && exec "$@"'
    command = ["unshare", "--map-root-user", "--mount", "sh", "-c", script, str(folder)]
    if (
        shutil.which("unshare") is None
        or subprocess.run([*command, "true"], capture_output=True, check=False).returncode
    ):
        pytest.skip("this machine does not let a test mount a file system of its own")
    return command


def test_a_full_disk_leaves_the_older_bundle_and_no_temporary_files(published, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    printed = run_script(own_mounts("size=256k", disk), disk / "bundle", 0, "prepare", published)
    assert "PublishError" in printed
    assert "No space left on device; nothing was published; free some space" in printed


def test_a_read_only_disk_is_refused_before_anything_is_tried(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    script = "from pathlib import Path; from bundle.store import check_target; check_target(Path('bundle'))"
    done = subprocess.run(
        [*own_mounts("ro", disk), "sh", "-c", 'cd "$0" && exec "$@"', str(disk), sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert f"PublishError: bundle: {disk} cannot be written; choose another --output" in done.stderr


KILLED_WHILE_WRITING = """
import os, signal, sys
from pathlib import Path
from bundle import Bundle, publish, store
write = store._write
def die(path, content):
    write(path, content)
    os.kill(os.getpid(), signal.SIGKILL)
store._write = die
target = Path(sys.argv[1])
publish(target, Bundle.open(target).manifest, {"model.onnx": b"new"})
"""


def test_what_a_killed_process_has_left_is_gone_after_the_next_one(published, manifest):
    before = content_of(published)
    done = subprocess.run(
        [sys.executable, "-c", KILLED_WHILE_WRITING, published], cwd=ROOT, capture_output=True, check=False, timeout=60
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert content_of(published) == before
    assert len(list(published.parent.iterdir())) == 2
    publish(published, manifest, FILES)
    assert [path.name for path in published.parent.iterdir()] == ["bundle"]


def test_what_another_process_is_writing_is_left_alone(published, manifest):
    with store._staging(published) as other:
        publish(published, manifest, FILES)
        assert other.is_dir()
    assert [path.name for path in published.parent.iterdir()] == ["bundle"]


def test_a_reader_never_finds_nothing_while_bundles_replace_each_other(published, manifest):
    done = threading.Event()
    missed = []

    def read() -> None:
        while not done.is_set():
            if not (published / MANIFEST_NAME).exists():
                missed.append(1)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for _ in range(50):
            publish(published, manifest, FILES)
    finally:
        done.set()
        reader.join()
    assert missed == []


def test_where_folders_cannot_change_places_the_bundle_is_replaced_nevertheless(published, manifest, monkeypatch):
    monkeypatch.setattr(store, "_exchange", lambda one, other: False)
    publish(published, manifest, {"model.onnx": b"new"})
    assert Bundle.open(published).read("model.onnx") == b"new"
    assert [path.name for path in published.parent.iterdir()] == ["bundle"]
