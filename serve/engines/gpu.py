"""The GPU of this machine, as its driver describes it, without PyTorch."""

from bundle.manifest import Gpu

INSTALL = "pip install cuda-core"


def find_gpu() -> Gpu | str:
    """The first GPU, or why there is none to be had."""
    try:
        from cuda.core import Device, system
    except ImportError:
        return f"cuda-core is not installed ({INSTALL})"
    try:
        device = Device(0)
        device.set_current()
        major, minor = device.compute_capability
        driver = ".".join(map(str, system.get_user_mode_driver_version()))
        return Gpu(name=str(device.name), compute_capability=f"{major}.{minor}", driver=driver)
    except Exception as error:  # a missing driver, one too old, no device: the libraries have a class for each
        return f"no NVIDIA GPU can be used: {error}"
