"""Which device a process takes, and what it says where there is none for it."""

import pytest
import torch

from elucid.dnnlib.errors import UserError
from elucid.torch_utils.distributed import choose_device


@pytest.fixture
def gpus(monkeypatch):
    """Make torch see so many GPUs, as the process of a local rank."""
    taken = []
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)

    def see(count: int, local_rank: int = 0) -> list:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setenv("LOCAL_RANK", str(local_rank))
        return taken

    return see


def test_a_process_takes_the_gpu_of_its_rank_unless_another_is_named(gpus):
    taken = gpus(4, local_rank=2)
    assert [str(choose_device(name)) for name in (None, "cuda", "cuda:1", "cpu")] == [
        "cuda:2",
        "cuda:2",
        "cuda:1",
        "cpu",
    ]
    assert [str(device) for device in taken] == ["cuda:2", "cuda:2", "cuda:1"]
    gpus(0)
    assert choose_device() == torch.device("cpu")


@pytest.mark.parametrize(
    ("count", "local_rank", "name", "words"),
    [
        (1, 1, None, "no GPU is left for process 1 .*nproc_per_node.*`device`=cpu"),
        (1, 1, "cuda", "no GPU is left for process 1 .*nproc_per_node.*`device`=cpu"),
        (2, 0, "cuda:2", "`device`=cuda:2: .*use cuda:1"),
        (0, 0, "cuda", "`device`=cuda: .*use `device`=cpu"),
    ],
)
def test_what_is_said_where_there_is_none(gpus, count, local_rank, name, words):
    taken = gpus(count, local_rank)
    with pytest.raises(UserError, match=words):
        choose_device(name)
    assert not taken
