"""The model card: what a person should know about a bundle before relying on it, in Markdown."""

from typing import Any

from bundle import Manifest

_DATA = {
    "mnist": "MNIST (LeCun, Cortes and Burges): 60,000 training and 10,000 test images of digits written by employees "
    "of the US Census Bureau and by high-school students, 28 x 28 grey pixels, size-normalised and centred by mass",
    "digits8x8": "scikit-learn's copy of the UCI optical digits: 1,797 images of 8 x 8 pixels, enlarged. Not MNIST",
}

# The images in `probe.bin` are copies, and come under the terms of what they were copied from.
_LICENCES = {
    "mnist": "MNIST, and with it the few of its test images in `probe.bin`, is by Y. LeCun, C. Cortes and C. J. C. "
    "Burges under [CC BY-SA 3.0](https://creativecommons.org/licenses/by-sa/3.0/).",
}
_OWN_TERMS = "The training images, and the few test images in `probe.bin`, come under their own terms."


def write(manifest: Manifest) -> str:
    """Returns the card of a bundle from its manifest."""
    trained = manifest.checkpoint.trained
    recipe = ", ".join(_settings(trained["recipe"]))
    return "\n".join(
        (
            f"# {manifest.name}, version {manifest.version}",
            "",
            f"Recognises one handwritten digit per image. {_origin(manifest)}",
            "",
            "| | |",
            "|---|---|",
            *(f"| {name} | {figure} |" for name, figure in _figures(trained["metrics"])),
            *(
                f"| digits that the graph in {graph.precision.upper()} answers differently from the checkpoint | "
                f"{graph.parity.flips} of {graph.parity.images:,} test images |"
                for _, graph in sorted(manifest.graphs.items(), reverse=True)
            ),
            "",
            f"**Data.** {_DATA.get(trained['data']['name'], trained['data']['name'])}. "
            f"SHA-256 of its contents: `{trained['data']['sha256']}`.",
            "",
            "**Input.** uint8 [batch, 1, 28, 28], white ink (255) on black (0), the digit about 20 pixels high and "
            "centred by mass. **Output.** Ten probabilities, float32 [batch, 10].",
            "",
            "**Limits.** It answers every image with a digit, also one that shows a letter, two digits or nothing: "
            "probabilities say which digit, not whether there is one. Digits in hands and styles that the data lacks, "
            "and pictures that were not brought to the form above, are recognised less well than the figures say. Not "
            "for decisions about people without somebody who checks.",
            "",
            *((f"**Recipe.** {recipe}.",) if recipe else ()),
            "",
            f"**Licence.** MIT, as the code. {_LICENCES.get(trained['data']['name'], _OWN_TERMS)}",
            "",
        )
    )


def _origin(manifest: Manifest) -> str:
    trained = manifest.checkpoint.trained
    if members := trained["recipe"].get("members"):
        names = ", ".join(f"`{member['architecture']}` (seed {member['seed']})" for member in members)
        return f"A committee of {len(members)} networks: {names}."
    return f"Network `{manifest.architecture}`, seed {trained['seed']}, epoch {trained['epoch']}."


def _figures(metrics: dict[str, float]) -> list[tuple[str, str]]:
    figures = [
        ("accuracy on the test images", "test_accuracy", "{:.2%}"),
        ("cross-entropy on the test images", "test_loss", "{:.4f}"),
        ("mean accuracy on the test images under twelve corruptions", "corruption_accuracy", "{:.2%}"),
        ("accuracy on the training images held out", "validation_accuracy", "{:.2%}"),
    ]
    return [(name, text.format(metrics[key])) for name, key, text in figures if key in metrics]


def _settings(recipe: dict[str, Any], prefix: str = "") -> list[str]:
    """The fields that mattered, in alphabetical order, nested ones with their path."""
    idle = {
        "teacher_": not recipe.get("teacher"),
        "step_": recipe.get("schedule") != "step",
        "momentum": recipe.get("optimiser") != "sgd",
        "architecture": True,  # the card begins with them
        "members": True,
    }
    settings: list[str] = []
    for name, value in sorted(recipe.items()):
        if isinstance(value, dict):
            settings += _settings(value, f"{prefix}{name}.")
        elif value not in (0, None, False) and not any(off and name.startswith(start) for start, off in idle.items()):
            settings.append(f"{prefix}{name} {value}")
    return settings
