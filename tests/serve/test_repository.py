"""Which folders count as bundles, and which of them are to be served."""

import errno
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from serve.errors import StartupError
from serve.repository import VERSIONS, Source, choose, scan


@pytest.fixture
def folders(tmp_path: Path) -> Callable[..., Path]:
    """Called with paths, makes files of them."""

    def make(*files: str) -> Path:
        for file in files:
            (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / file).write_text("{}")
        return tmp_path

    return make


def sources(*versions: int) -> list[Source]:
    return [Source(name="m", version=str(each), path=Path("m", str(each)), stamp=()) for each in versions]


def versions_of(found: list[Source]) -> list[str]:
    return [source.version for source in found]


@pytest.mark.parametrize(
    ("policy", "candidates", "wanted"),
    [
        ("latest", ["10", "9", "2", "1"], 1),
        ("all", ["10", "9", "2", "1"], 4),
        ("9,1", ["9", "1"], 2),
        ("1,3", ["1"], 1),
        ("7", [], 0),
    ],
)
def test_the_policy_names_candidates_newest_first_and_how_many_of_them(policy, candidates, wanted):
    found, count = choose(policy, sources(2, 10, 1, 9))
    assert (versions_of(found), count) == (candidates, wanted)


@pytest.mark.parametrize("text", ["latest", "all", "1", "1,3", "12,7,300"])
def test_a_policy_is_a_word_or_a_list_of_versions(text):
    assert VERSIONS.fullmatch(text)


@pytest.mark.parametrize("text", ["", "newest", "0", "1,", ",1", "1, 3", "-1", "1.5", "01", "latest,1"])
def test_anything_else_is_none(text):
    assert not VERSIONS.fullmatch(text)


def test_a_repository_has_models_by_folder_and_versions_below(folders):
    path = folders("a/1/manifest.json", "a/12/manifest.json", "b.c-d/3/manifest.json")
    found = scan(path)
    assert {name: sorted(versions_of(each)) for name, each in found.items()} == {"a": ["1", "12"], "b.c-d": ["3"]}
    assert found["b.c-d"][0].path == path / "b.c-d/3"


@pytest.mark.parametrize(
    "other",
    [
        "README.md",
        "a/config.pbtxt",
        "a/v2/manifest.json",
        "a/0/manifest.json",
        "a/.2-being-written/manifest.json",
        ".hidden/1/manifest.json",
        "white space/1/manifest.json",
        "empty/notes.txt",
    ],
)
def test_what_is_not_named_like_a_model_and_a_version_is_none(folders, other):
    assert scan(folders("a/1/manifest.json", other)).keys() == {"a"}


def test_a_version_whose_bundle_is_not_whole_yet_counts_so_that_its_absence_is_explained(folders):
    assert versions_of(scan(folders("a/1/model.onnx"))["a"]) == ["1"]


def test_a_bundle_by_itself_is_what_its_manifest_says(bundle: Path):
    [source] = scan(bundle)[""]
    assert (source.name, source.version, source.path) == ("compact", "1", bundle)


def test_a_bundle_whose_manifest_cannot_be_read_is_still_one(folders):
    [source] = scan(folders("manifest.json"))[""]
    assert (source.name, source.version) == ("", "")


@pytest.mark.parametrize("change", ["write", "replace", "add", "remove"])
def test_a_stamp_changes_with_anything_in_the_folder(folders, change):
    path = folders("a/1/manifest.json", "a/1/model.onnx")
    [before] = scan(path)["a"]
    assert scan(path)["a"] == [before]
    file = path / "a/1/model.onnx"
    if change == "write":
        file.write_text("more")
    elif change == "replace":
        (path / "new").write_text("{}")
        (path / "new").rename(file)
    elif change == "add":
        folders("a/1/model.int8.onnx")
    else:
        file.unlink()
    assert scan(path)["a"] != [before]


def test_a_link_that_leads_nowhere_hides_nothing_but_itself(folders):
    path = folders("a/1/manifest.json", "b/1/manifest.json")
    for place in ("nowhere", "a/nowhere", "a/1/nowhere"):
        (path / place).symlink_to("not-there")
    found = scan(path)
    assert found.keys() == {"a", "b"}
    assert [name for name, *_ in found["a"][0].stamp] == ["manifest.json", "nowhere"]
    assert scan(path) == found


@pytest.mark.parametrize(("unreadable", "left"), [("a", {"b"}), ("a/1", {"a", "b"})])
def test_a_folder_that_cannot_be_read_hides_nothing_but_itself(folders, monkeypatch, caplog, unreadable, left):
    path = folders("a/1/manifest.json", "b/1/manifest.json")
    read = Path.iterdir

    def refuse(folder: Path) -> Iterator[Path]:  # permissions do not stop root, as whom tests may run
        if folder == path / unreadable:
            raise PermissionError(errno.EACCES, "Permission denied")
        return read(folder)

    monkeypatch.setattr(Path, "iterdir", refuse)
    assert scan(path).keys() == left
    assert (f"{path / 'a'} cannot be read: Permission denied; it is skipped" in caplog.text) == ("a" not in left)


def test_neither_bundle_nor_repository_is_an_error_that_says_what_is_there(folders):
    with pytest.raises(
        StartupError, match=r"found neither manifest\.json nor bundles in folders NAME/VERSION; name one"
    ):
        scan(folders("file", "folder/file"))
    with pytest.raises(StartupError, match="found a file, a bundle directory was expected"):
        scan(folders("file") / "file")
    with pytest.raises(StartupError, match="found nothing, a bundle directory was expected"):
        scan(folders() / "nowhere")


def test_a_path_that_leads_nowhere_is_told_with_the_folder_in_which_it_was_looked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StartupError, match=f"{tmp_path}/pretrained/champion: found nothing.*`python -m serve BUNDLE`"):
        scan(Path("pretrained/champion"))
