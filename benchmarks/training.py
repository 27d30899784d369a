"""`python -m benchmarks.training`: how fast networks train and are evaluated, against the plain way to do it.

The plain way is that of PyTorch's own MNIST example: a DataLoader that turns each image into a PIL image, distorts it
with torchvision's transforms and makes a tensor of it, and a network in float32 with PyTorch's default memory layout.
Both ways get the same network, batches, kinds of distortion and number of threads. Each repeat measures both, one after
the other, and ours in float32 as well; the figures are medians over the repeats.
"""

import dataclasses
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2
from torchvision.transforms.functional import to_pil_image

from train import data
from train.conditions import conditions
from train.data import Split
from train.errors import RunError, TrainError, unknown_name
from train.hardware import DeviceName, PrecisionName, choose_device, choose_precision, device_label
from train.inference import predict
from train.loop import fit
from train.models import MEAN, STD, build
from train.recipes import RECIPES, Recipe
from train.state import TrainingState
from train.storage import make_folder, save_json
from train.transforms.augment import Augmentation


@dataclass(frozen=True, kw_only=True)
class Options:
    """The fields' docstrings are the command line's help."""

    recipes: tuple[str, ...] = (
        "dropout_cnn",
        "four_conv",
        "lenet_bn",
        "compact",
        "one_by_one",
        "compact_best",
        "champion",
    )
    """Recipes to measure: those of the publications, and two with elastic distortion."""

    images: Annotated[int, tyro.conf.arg(metavar="N")] = 2_560
    """Images of each measurement, cut to whole batches."""

    repeats: Annotated[int, tyro.conf.arg(metavar="N")] = 3
    """How often everything is measured."""

    device: DeviceName = "auto"
    """Where to compute."""

    precision: PrecisionName = "auto"
    """Number format of our training; the plain way is float32."""

    output: Path = Path("benchmarks/results/training.json")
    """Where the result is written."""

    def __post_init__(self) -> None:
        for name in self.recipes:
            if name not in RECIPES:
                raise RunError(unknown_name("recipe", name, RECIPES))


class _Images(Dataset[tuple[Tensor, int]]):
    """Images one at a time, as torchvision's MNIST gives them."""

    def __init__(self, split: Split, transform: Callable[[Any], Tensor]) -> None:
        self.split = split
        self.transform = transform

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(to_pil_image(self.split.pixels[index])), int(self.split.labels[index])


def _transforms(a: Augmentation) -> v2.Compose:
    """The torchvision transforms that come nearest to an augmentation; what it has no transform for is left out."""
    steps: list[nn.Module] = []
    if a.rotation_degrees or a.shift_pixels or a.scale or a.shear_degrees:
        shift = a.shift_pixels / 28
        steps.append(
            v2.RandomAffine(
                a.rotation_degrees,
                translate=(shift, shift),
                scale=(1 - a.scale, 1 + a.scale),
                shear=a.shear_degrees,
                interpolation=v2.InterpolationMode.BILINEAR,
            )
        )
    if a.elastic_pixels:
        steps.append(v2.ElasticTransform(alpha=30.0 * a.elastic_pixels))
    if a.blur:
        steps.append(v2.GaussianBlur(3))
    if a.fade or a.shade:
        steps.append(v2.ColorJitter(brightness=a.fade, contrast=a.fade))
    return v2.Compose([*steps, v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize([MEAN], [STD])])


def _train_plainly(recipe: Recipe, split: Split, device: torch.device) -> Callable[[], None]:
    network = build(recipe.architecture, **recipe.arguments).to(device)
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3)  # its cost is that of all others here
    # As in the example: one worker process that prepares images where a GPU leaves the processor free to.
    workers: dict[str, Any] = (
        {"num_workers": 1, "pin_memory": True, "persistent_workers": True} if device.type == "cuda" else {}
    )
    loader: DataLoader[Any] = DataLoader(
        _Images(split, _transforms(recipe.augmentation)), recipe.batch_size, shuffle=True, drop_last=True, **workers
    )

    def epoch() -> None:
        network.train()
        for images, labels in loader:
            optimiser.zero_grad()
            loss = functional.cross_entropy(network(images.to(device)), labels.to(device))
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        _finish(device)

    return epoch


def _train_ours(recipe: Recipe, split: Split, device: torch.device, precision: torch.dtype) -> Callable[[], None]:
    state = TrainingState(recipe, seed=0, device=device, precision=precision)
    on_device = split.to(device)

    def epoch() -> None:
        fit(state, on_device)
        _finish(device)

    return epoch


def _evaluate_plainly(recipe: Recipe, split: Split, device: torch.device) -> Callable[[], None]:
    network = build(recipe.architecture, **recipe.arguments).to(device).eval()
    loader: DataLoader[Any] = DataLoader(_Images(split, _transforms(Augmentation())), batch_size=1000)

    def epoch() -> None:
        with torch.no_grad():
            for images, _ in loader:
                network(images.to(device)).argmax(dim=1)
        _finish(device)

    return epoch


def _evaluate_ours(recipe: Recipe, split: Split, device: torch.device) -> Callable[[], None]:
    recogniser = TrainingState(recipe, seed=0, device=device).recogniser
    on_device = split.to(device)

    def epoch() -> None:
        predict(recogniser, on_device)

    return epoch


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _rate(epoch: Callable[[], None], images: int) -> float:
    started = time.perf_counter()
    epoch()
    return images / (time.perf_counter() - started)


def measure(options: Options) -> dict[str, Any]:
    """Measures every recipe; images a second, and how many times the plain way's rate ours is."""
    device = choose_device(options.device)
    precision = choose_precision(options.precision, device)
    images = data.load("mnist").train
    results: dict[str, Any] = {}
    for name in options.recipes:
        # Without a teacher, whose answers the plain way would have to ask for as well.
        recipe = dataclasses.replace(RECIPES[name](), teacher=None)
        split = images[: max(1, options.images // recipe.batch_size) * recipe.batch_size]
        ways = {
            "training, plain": _train_plainly(recipe, split, device),
            "training, ours": _train_ours(recipe, split, device, precision),
            "training, ours in float32": _train_ours(recipe, split, device, torch.float32),
            "evaluation, plain": _evaluate_plainly(recipe, split, device),
            "evaluation, ours": _evaluate_ours(recipe, split, device),
        }
        rates: dict[str, list[float]] = {way: [] for way in ways}
        for epoch in ways.values():
            epoch()  # memory, kernels and caches settle
        for _ in range(options.repeats):
            for way, epoch in ways.items():
                rates[way].append(_rate(epoch, len(split)))
        results[name] = {
            **{f"{way}, images/s": round(statistics.median(each)) for way, each in rates.items()},
            "training, times the plain way": _ratio(rates, "training"),
            "evaluation, times the plain way": _ratio(rates, "evaluation"),
        }
        print(f"{name:<18} {results[name]}", flush=True)
    where = {
        "device": device_label(device),
        "precision": str(precision).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "repeats": options.repeats,
    }
    return {"recipes": results, "conditions": conditions(("torch", "torchvision")) | where}


def _ratio(rates: dict[str, list[float]], what: str) -> float:
    pairs = zip(rates[f"{what}, ours"], rates[f"{what}, plain"], strict=True)
    return round(statistics.median(ours / plain for ours, plain in pairs), 2)


def main() -> int:
    """Exit status: 0, or 1 after a message."""
    try:
        options = tyro.cli(Options, prog="python -m benchmarks.training", description=__doc__)
        make_folder(options.output.parent, "choose another file with --output")
        save_json(options.output, measure(options))
    except TrainError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
