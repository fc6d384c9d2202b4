"""Parallel."""

import warnings
from contextlib import nullcontext

from torch.nn.parallel import DistributedDataParallel

from elucid.torch_utils import distributed


def wrap(objective, device):
    if distributed.world_size() == 1:
        return objective
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    warnings.filterwarnings("ignore", message="find_unused_parameters=True was specified")
    return DistributedDataParallel(objective, gradient_as_bucket_view=True, find_unused_parameters=True)


def sync_gradients(module, last):
    return nullcontext() if last or not isinstance(module, DistributedDataParallel) else module.no_sync()


def full_state(module):
    return module.state_dict()
