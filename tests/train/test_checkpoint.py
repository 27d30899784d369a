import dataclasses
import pickle
import zipfile

import pytest
import torch

from train import checkpoint as checkpoints
from train.checkpoint import FORMAT_VERSION, Checkpoint
from train.errors import CheckpointError
from train.models import build


@pytest.fixture
def path(tmp_path, checkpoint):
    path = tmp_path / "best.pt"
    checkpoints.save(path, checkpoint)
    return path


def save_changed(path, checkpoint, **changes):
    """Writes a checkpoint with fields changed, or left out where the change is None."""
    payload = {field.name: getattr(checkpoint, field.name) for field in dataclasses.fields(checkpoint)} | changes
    torch.save({name: value for name, value in payload.items() if value is not None}, path)


class TestRoundTrip:
    def test_every_field_comes_back(self, path, checkpoint):
        loaded = checkpoints.load(path)
        for field in dataclasses.fields(Checkpoint):
            if field.name != "weights":
                assert getattr(loaded, field.name) == getattr(checkpoint, field.name)
        assert loaded.weights.keys() == checkpoint.weights.keys()
        assert all(torch.equal(loaded.weights[name], weight) for name, weight in checkpoint.weights.items())

    def test_pytorch_alone_can_read_it_without_running_code(self, path):
        assert torch.load(path, weights_only=True)["architecture"] == "compact"

    def test_versions_are_recorded(self, path):
        assert checkpoints.load(path).versions["torch"] == str(torch.__version__)


class TestNetwork:
    def test_has_the_weights_and_arguments_and_is_in_evaluation_mode(self, checkpoint):
        network = checkpoint.network()
        reference = build("compact")
        reference.load_state_dict(checkpoint.weights)
        images = torch.rand(3, 1, 28, 28)
        assert torch.equal(network(images), reference.eval()(images))
        assert not network.training
        assert network[6].p == 0.1

    def test_shares_no_memory_with_the_checkpoint(self, checkpoint):
        before = checkpoint.weights["0.bias"].clone()
        with torch.no_grad():
            checkpoint.network()[0].bias.add_(1)
        assert torch.equal(checkpoint.weights["0.bias"], before)

    def test_draws_no_random_numbers(self, checkpoint):
        state = torch.get_rng_state()
        checkpoint.network()
        assert torch.equal(torch.get_rng_state(), state)

    def test_makes_a_recogniser_in_evaluation_mode(self, checkpoint):
        recogniser = checkpoint.recogniser()
        assert not recogniser.training
        assert recogniser(torch.zeros(2, 1, 28, 28, dtype=torch.uint8)).shape == (2, 10)


class TestACommittee:
    @pytest.fixture
    def committee(self, checkpoint):
        members = [
            {"architecture": "compact", "arguments": {"dropout": 0.1}},
            {"architecture": "one_by_one", "arguments": {}},
        ]
        torch.manual_seed(1)
        weights = build("committee", members=members).state_dict()
        return dataclasses.replace(
            checkpoint, architecture="committee", arguments={"members": members}, weights=weights
        )

    def test_comes_back_whole(self, tmp_path, committee):
        checkpoints.save(tmp_path / "best.pt", committee)
        loaded = checkpoints.load(tmp_path / "best.pt")
        assert loaded.arguments == committee.arguments
        images = torch.rand(3, 1, 28, 28)
        assert torch.equal(loaded.network()(images), committee.network()(images))

    def test_is_in_evaluation_mode_with_all_its_members(self, committee):
        assert not any(module.training for module in committee.network().modules())

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({}, r"best\.pt: committee cannot be built with {}"),
            ({"members": ["compact"]}, r"best\.pt: committee cannot be built"),
            ({"members": [{"architecture": "committee", "arguments": {}}]}, r"best\.pt: .*not committees"),
            (
                {"members": [{"architecture": "compact", "arguments": {}}]},
                r"best\.pt: the weights do not fit committee",
            ),
        ],
    )
    def test_that_is_malformed_is_refused(self, path, committee, arguments, message):
        save_changed(path, committee, arguments=arguments)
        with pytest.raises(CheckpointError, match=message):
            checkpoints.load(path)


class TestAFileThatIsNoCheckpoint:
    def test_missing(self, tmp_path):
        with pytest.raises(CheckpointError, match=r"absent.pt does not exist; write one with python -m train"):
            checkpoints.load(tmp_path / "absent.pt")

    def test_a_directory(self, tmp_path):
        with pytest.raises(CheckpointError, match="cannot be read: Is a directory"):
            checkpoints.load(tmp_path)

    def test_empty(self, path):
        path.write_bytes(b"")
        with pytest.raises(CheckpointError, match="is empty"):
            checkpoints.load(path)

    @pytest.mark.parametrize("share", [0.01, 0.5, 0.999])
    def test_truncated(self, path, share):
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * share)])
        with pytest.raises(CheckpointError, match=r"is truncated: \d+ bytes"):
            checkpoints.load(path)

    def test_damaged_inside(self, path):
        content = bytearray(path.read_bytes())
        middle = len(content) // 2
        content[middle : middle + 64] = bytes(byte ^ 0xFF for byte in content[middle : middle + 64])
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match="is damaged: the checksum of"):
            checkpoints.load(path)

    @pytest.mark.parametrize("content", [b"just some text\n", b"\x08\x0a\x12\x07pytorch", pickle.dumps({"a": 1})])
    def test_text_onnx_or_a_bare_pickle(self, path, content):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match="is not a checkpoint: it begins with"):
            checkpoints.load(path)

    def test_some_other_zip_file(self, path):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("readme.txt", "hello")
        with pytest.raises(CheckpointError, match="is a zip file but not a readable checkpoint"):
            checkpoints.load(path)

    @pytest.mark.parametrize(
        "pickled", [b"", b"\x80\x02", b"t.", b"N}s.", b"h\x00.", b"(lp0\nI1\na", b"\x80\x02]q\x00b."]
    )
    def test_what_makes_the_library_stumble(self, path, checkpoint, pickled):
        checkpoints.save(path, checkpoint)
        with zipfile.ZipFile(path) as archive:
            content = {name: archive.read(name) for name in archive.namelist()}
        with zipfile.ZipFile(path, "w") as archive:
            for name, stored in content.items():
                archive.writestr(name, pickled if name.endswith("data.pkl") else stored)
        with pytest.raises(CheckpointError, match=r"best\.pt"):
            checkpoints.load(path)

    def test_a_whole_module_is_refused(self, path):
        torch.save(build("compact"), path)
        with pytest.raises(CheckpointError, match="holds Python objects, which could run code"):
            checkpoints.load(path)

    def test_code_is_refused_and_not_run(self, path, tmp_path):
        class Evil:
            def __reduce__(self):
                return (open, (str(tmp_path / "touched"), "w"))

        torch.save({"weights": Evil()}, path)
        with pytest.raises(CheckpointError, match="could run code"):
            checkpoints.load(path)
        assert not (tmp_path / "touched").exists()


class TestAContentThatDoesNotFit:
    def test_missing_fields_are_named(self, path, checkpoint):
        save_changed(path, checkpoint, seed=None, recipe=None)
        with pytest.raises(CheckpointError, match="lacks recipe, seed; expected a checkpoint with architecture"):
            checkpoints.load(path)

    def test_fields_of_another_type_are_named(self, path, checkpoint):
        save_changed(path, checkpoint, seed="seven")
        with pytest.raises(CheckpointError, match="seed is a str, expected int"):
            checkpoints.load(path)

    def test_unknown_fields_are_named(self, path, checkpoint):
        save_changed(path, checkpoint, colour="red")
        with pytest.raises(CheckpointError, match="holds colour"):
            checkpoints.load(path)

    def test_weights_that_are_no_tensors_are_named(self, path, checkpoint):
        save_changed(path, checkpoint, weights=checkpoint.weights | {"0.bias": [1.0]})
        with pytest.raises(CheckpointError, match=r"weight '0\.bias' is a list"):
            checkpoints.load(path)

    def test_a_newer_format_is_named_before_anything_else(self, path, checkpoint):
        save_changed(path, checkpoint, format_version=FORMAT_VERSION + 1, seed=None)
        with pytest.raises(CheckpointError, match=f"has checkpoint format {FORMAT_VERSION + 1}, newer than"):
            checkpoints.load(path)

    def test_an_unknown_architecture_is_answered_with_the_nearest(self, path, checkpoint):
        save_changed(path, checkpoint, architecture="compacter")
        with pytest.raises(CheckpointError, match=r"best.pt: unknown architecture 'compacter': did you mean 'compact'"):
            checkpoints.load(path)

    def test_an_unknown_argument_is_named(self, path, checkpoint):
        save_changed(path, checkpoint, arguments={"width": 3.0})
        with pytest.raises(CheckpointError, match="unknown argument of compact 'width'"):
            checkpoints.load(path)

    def test_an_argument_named_like_the_architecture_is_refused(self, path, checkpoint):
        save_changed(path, checkpoint, arguments={"architecture": "compact"})
        with pytest.raises(CheckpointError, match=r"best.pt: .*architecture"):
            checkpoints.load(path)

    @pytest.mark.parametrize(
        ("name", "weight", "message"),
        [
            (
                "0.weight",
                torch.zeros(32, 1, 3, 3),
                r"0.weight is float32 \[32, 1, 3, 3\], expected float32 \[16, 1, 3, 3\]",
            ),
            ("99.weight", torch.zeros(1), r"99.weight is float32 \[1\], expected absent"),
        ],
    )
    def test_weights_of_another_shape_or_name_are_named(self, path, checkpoint, name, weight, message):
        save_changed(path, checkpoint, weights=checkpoint.weights | {name: weight})
        with pytest.raises(CheckpointError, match="do not fit compact: " + message):
            checkpoints.load(path)

    def test_missing_weights_are_named(self, path, checkpoint):
        save_changed(path, checkpoint, weights={})
        with pytest.raises(CheckpointError, match=r"0.bias is absent, expected float32 \[16\]"):
            checkpoints.load(path)
