"""The model card says what the manifest says, in words."""

import dataclasses
from pathlib import Path

from bundle import Bundle
from export import card


def test_a_bundle_carries_its_card(bundle: Path) -> None:
    opened = Bundle.open(bundle)
    assert opened.read("README.md").decode() == card.write(opened.manifest)


def test_the_card_has_the_figures_and_the_limits(bundle: Path) -> None:
    manifest = Bundle.open(bundle).manifest
    text = card.write(manifest)
    metrics = manifest.checkpoint.trained["metrics"]
    assert f"| accuracy on the test images | {metrics['test_accuracy']:.2%} |" in text
    assert f"twelve corruptions | {metrics['corruption_accuracy']:.2%} |" in text
    for graph in manifest.graphs.values():
        assert f"{graph.parity.flips} of {graph.parity.images:,} test images" in text
    assert manifest.checkpoint.trained["data"]["sha256"] in text
    for title in ("**Data.**", "**Limits.**", "**Recipe.**", "**Licence.**"):
        assert title in text


def test_the_recipe_names_what_is_set_and_nothing_that_is_off(bundle: Path) -> None:
    text = card.write(Bundle.open(bundle).manifest)
    assert "batch_size 64" in text
    assert "augmentation.rotation_degrees 8" in text
    assert "cutout" not in text
    for idle in ("teacher", "step_", "momentum"):
        assert idle not in text


def test_figures_that_an_older_checkpoint_lacks_are_left_out(bundle: Path) -> None:
    manifest = Bundle.open(bundle).manifest
    trained = manifest.checkpoint.trained | {"metrics": {"test_accuracy": 0.5}}
    older = dataclasses.replace(manifest, checkpoint=dataclasses.replace(manifest.checkpoint, trained=trained))
    assert "50.00%" in card.write(older)
    assert "corruptions" not in card.write(older)
