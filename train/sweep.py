"""`python -m train.sweep RECIPE --seeds 5`: one recipe with several seeds, and what came of it as a committed result.

Every run is a process of its own, `python -m train`; several go on at a time. An interrupted sweep goes on where it
stopped.
"""

import json
import os
import signal
import statistics
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from train import command, data
from train.conditions import conditions, cores
from train.data import DataName, Dataset
from train.errors import RunError, unknown_name
from train.hardware import DeviceName, PrecisionName, choose_device, choose_precision, device_label
from train.models import build, parameter_count
from train.recipes import RECIPES
from train.run import FORMAT_VERSION, RunFolder
from train.storage import make_folder, save_json

LIBRARIES = ("torch", "torchvision", "numpy")

# Runs that share a GPU: networks this small leave most of it idle, and each run keeps one core busy.
_RUNS_PER_GPU = 5

# glibc would give every large tensor back to the system and fetch it anew at each step: 10 to 20 % of the time.
_KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(1 << 32), "MALLOC_TRIM_THRESHOLD_": str(1 << 33)}


@dataclass(frozen=True, kw_only=True)
class Options:
    """Train one recipe with several seeds and write their accuracy to a file."""

    recipe: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RECIPE")]
    """Name of a recipe, see python -m train --help."""

    seeds: Annotated[int, tyro.conf.arg(metavar="N")] = 3
    """Number of runs; their seeds are 0, 1, 2 and so on."""

    jobs: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Runs at a time; by default one per core, or five on a GPU."""

    runs: Annotated[Path, tyro.conf.arg(metavar="DIR")] = Path("runs")
    """Folder that holds the folders of all runs: RECIPE-0, RECIPE-1 and so on."""

    results: Annotated[Path, tyro.conf.arg(metavar="DIR")] = Path("benchmarks/results")
    """Folder that accuracy-RECIPE.json is written to."""

    data: DataName = "mnist"
    """Data set."""

    data_root: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Folder that holds MNIST/raw; by default $DIGITS_DATA_ROOT, else data."""

    device: DeviceName = "auto"
    """Where to compute; auto takes CUDA where there is any."""

    precision: PrecisionName = "auto"
    """Number format of convolutions and products, as in python -m train."""

    def __post_init__(self) -> None:
        if self.recipe not in RECIPES:
            raise RunError(unknown_name("recipe", self.recipe, RECIPES))
        for name in ("seeds", "jobs"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise RunError(f"--{name} is {value}; it must be at least 1")

    def folder(self, seed: int) -> RunFolder:
        """Where the run of a seed keeps its files."""
        return RunFolder(self.runs / f"{self.recipe}-{seed}")


class _Processes:
    """The runs that were started. Once they are stopped no other starts."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._started: list[subprocess.Popen[str]] = []
        self._stopped = False

    def start(self, command: Sequence[str], threads: int) -> subprocess.Popen[str] | None:
        """Returns the process, whose lines are to be read; None after `stop`."""
        with self._lock:
            if self._stopped:
                return None
            process = subprocess.Popen(
                command,
                env=os.environ | _KEEP_MEMORY | {"OMP_NUM_THREADS": str(threads)},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            self._started.append(process)
            return process

    def stop(self) -> bool:
        """Ends those under way; returns whether nobody had done so before."""
        with self._lock:
            first, self._stopped = not self._stopped, True
            for process in self._started:
                process.terminate()
            return first


def sweep(options: Options) -> Path:
    """Trains, measures and writes.

    Returns:
        The file of results.

    Raises:
        RunError: A run failed; what it printed stands above.
        TrainError: Device, data or folder cannot be used.
    """
    device = choose_device(options.device)
    dataset = data.load(options.data, options.data_root)  # early: a missing data set is one message, not several
    jobs = options.jobs or min(options.seeds, cores() if device.type == "cpu" else _RUNS_PER_GPU)
    threads = max(1, cores() // jobs)
    make_folder(options.results, "choose another folder with --results")  # before the work, not after it
    processes = _Processes()
    with ThreadPoolExecutor(jobs) as pool:
        try:
            runs = [pool.submit(_run, options, seed, threads, processes) for seed in range(options.seeds)]
            for run in as_completed(runs):
                run.result()
        except BaseException:  # a failed run, or Ctrl-C: those under way end their epoch unsaved, the rest never start
            processes.stop()
            raise
    where = {
        "device": device_label(device),
        "precision": str(choose_precision(options.precision, device)).removeprefix("torch."),
        "runs at a time": jobs,
    }
    path = result_path(options.results, options.recipe, options.data)
    results = [run_result(options.folder(seed)) for seed in range(options.seeds)]
    write_result(path, options.recipe, dataset, results, where)
    return path


def _run(options: Options, seed: int, threads: int, processes: _Processes) -> None:
    """Runs one training to its end in a process of its own, or goes on with it; if it fails, stops the others."""
    folder = options.folder(seed)
    command = [
        *(sys.executable, "-m", "train", options.recipe, "--seed", str(seed)),
        *("--name", folder.path.name, "--runs", str(options.runs), "--data", options.data),
        *("--device", options.device, "--precision", options.precision),
        *(("--data-root", str(options.data_root)) if options.data_root else ()),
        *(("--resume",) if folder.last.exists() else ()),
    ]
    process = processes.start(command, threads)
    if process is None:
        return
    with process:
        assert process.stdout is not None
        for line in process.stdout:
            print(f"[{folder.path.name}] {line}", end="", flush=True)
    # Here, not in the main thread: this one takes the next seed at once. A run that was stopped has not failed.
    if process.returncode and processes.stop():
        raise RunError(
            f"the run of seed {seed} ended with status {process.returncode}; see its lines above. Sweep again to go on "
            f"with what there is, or delete {folder.path} to start it anew"
        )


def result_path(folder: Path, name: str, data_name: str) -> Path:
    """The file of results of a recipe, or of a committee, on a data set."""
    return folder / f"accuracy-{name if data_name == 'mnist' else f'{name}-{data_name}'}.json"


def run_result(folder: RunFolder) -> dict[str, Any]:
    """What one finished run gave.

    Raises:
        RunError: Its history is missing, or of a version that did not record all of this.
    """
    try:
        history = json.loads(folder.history.read_text())
    except FileNotFoundError as error:
        raise RunError(f"{folder.history} is missing; restore it, or delete {folder.path} and sweep again") from error
    if history.get("format_version") != FORMAT_VERSION:
        raise RunError(f"{folder.path} is of another version of this program; delete it, and sweep again")
    best = history["epochs"][history["best_epoch"] - 1]
    return {
        "seed": history["seed"],
        "best_epoch": history["best_epoch"],
        "epochs": len(history["epochs"]),
        "seconds": round(sum(epoch["seconds"] for epoch in history["epochs"]), 1),
        "validation_accuracy": best["validation_accuracy"],
        **history["test"],
        "threads": history["threads"],
        "revisions": history["revisions"],
        "recipe": history["recipe"],
    }


def write_result(
    path: Path, recipe: str, dataset: Dataset, runs: Sequence[dict[str, Any]], where: dict[str, Any]
) -> None:
    """Writes the results of runs of one recipe, which must not differ in anything but the seed.

    Raises:
        RunError: They do differ.
        WriteError: The file could not be written.
    """
    recipes = [run.pop("recipe") for run in runs]
    if any(each != recipes[0] for each in recipes):
        raise RunError(f"the runs of {recipe} differ in more than the seed; give --runs another folder to start anew")
    document = {
        "recipe": {"name": recipe, **recipes[0]},
        "parameters": parameter_count(build(recipes[0]["architecture"], **recipes[0]["arguments"])),
        "data": {"name": dataset.name, "sha256": dataset.sha256},
        "mean": {key: statistics.mean(run[key] for run in runs) for key in _SUMMARISED},
        "standard_deviation": {key: statistics.stdev(run[key] for run in runs) for key in _SUMMARISED}
        if len(runs) > 1
        else None,
        "runs": list(runs),
        "conditions": conditions(LIBRARIES) | where,
    }
    save_json(path, document)


_SUMMARISED = ("test_accuracy", "test_loss", "corruption_accuracy", "validation_accuracy", "seconds")


def main() -> int:
    """Exit status: 0, 1 after a message, or 130 when interrupted."""
    # The default would end this process at once and leave its runs to go on by themselves.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    return command.run(_main, interrupted="the same command goes on where it stopped")


def _main() -> None:
    options = tyro.cli(Options, prog="python -m train.sweep", config=(tyro.conf.FlagCreatePairsOff,))
    path = sweep(options)
    result = json.loads(path.read_text())
    accuracies = ", ".join(f"{run['test_accuracy']:.2%}" for run in result["runs"])
    print(f"test accuracy {result['mean']['test_accuracy']:.3%}, the mean of {accuracies}; written to {path}")


if __name__ == "__main__":
    sys.exit(main())
