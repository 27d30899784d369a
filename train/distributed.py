"""Several processes that train one network together, each on its share of every batch.

`torchrun --nproc-per-node 4 -m train compact` starts them and tells each, in the environment, who it
is. Without torchrun there is one worker, and all of this does nothing.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from train.errors import RunError

T = TypeVar("T")


@dataclass(frozen=True)
class Workers:
    """The processes of one run, as seen from one of them."""

    rank: int = 0
    count: int = 1

    @property
    def leads(self) -> bool:
        """Whether this is the one that validates, writes and prints."""
        return self.rank == 0

    def share(self, indices: Tensor) -> Tensor:
        """This worker's part of a batch, whose length is a multiple of the number of workers."""
        return indices[self.rank :: self.count]

    def connect(self, network: nn.Module) -> nn.Module:
        """Returns the network with gradients averaged over the workers as backward() makes them.

        Statistics of batch norm stay each worker's own; the leader's are kept.
        """
        return network if self.count == 1 else DistributedDataParallel(network, broadcast_buffers=False)

    def mean(self, values: Tensor) -> Tensor:
        """Averages numbers over the workers."""
        if self.count > 1:
            distributed.all_reduce(values)
            values /= self.count
        return values

    def from_leader(self, values: Tensor) -> Tensor:
        """Returns the leader's numbers to everyone."""
        if self.count > 1:
            distributed.broadcast(values, src=0)
        return values

    def leader_first(self, action: Callable[[], T]) -> T:
        """Runs an action in the leader, then in the others: what the first call downloads, the others find."""
        result = action() if self.leads else None
        if self.count > 1:
            distributed.barrier()
        return action() if result is None else result


ALONE = Workers()


@contextmanager
def join(device: torch.device) -> Iterator[tuple[Workers, torch.device]]:
    """Meets the other workers if torchrun started this process.

    Yields:
        The workers and this one's own device: with several GPUs, one for each worker of a machine.

    Raises:
        RunError: There are more workers on this machine than GPUs.
    """
    if not distributed.is_torchelastic_launched():
        yield ALONE, device
        return
    if device.type == "cuda":
        device = _own_gpu()
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Workers(distributed.get_rank(), distributed.get_world_size()), device
    finally:
        distributed.destroy_process_group()


def _own_gpu() -> torch.device:
    number, available = distributed.get_node_local_rank(), torch.cuda.device_count()
    if number >= available:
        raise RunError(
            f"torchrun started worker {number + 1} on a machine with {available} GPUs; "
            f"give --nproc-per-node {available}, or train with --device cpu"
        )
    return torch.device("cuda", number)
