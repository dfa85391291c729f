"""Batch norm over the batch of two processes: equal to one process with the whole batch, as torch.nn.SyncBatchNorm."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import convatlas
from convatlas.nets.layers import Conv2d

SHARES = (3, 2)  # images of each process
RANKS = range(len(SHARES))


class Block(nn.Module):
    """A convolution, its batch norm, a residual and a relu."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.bn = Conv2d(4, 4, 3, padding=1, bias=False).double(), nn.BatchNorm2d(4).double()
        nn.init.normal_(self.bn.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x, self.bn, "relu", x)


def step(block: Block, x: Tensor) -> dict[str, Tensor]:
    """What a step makes: the output, gradients and statistics."""
    x = x.clone().requires_grad_()
    y = block(x)
    (y * torch.linspace(0, 1, y[0].numel(), dtype=torch.float64).view_as(y[0])).sum().backward()
    given = {name: p.grad for name, p in block.named_parameters()}
    return {"y": y.detach(), "x": x.grad, **given, "mean": block.bn.running_mean, "var": block.bn.running_var}


def batch() -> Tensor:
    return torch.randn(sum(SHARES), 4, 5, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64) + 2


def main(rank: int, folder: Path) -> None:
    """One of the processes: its part of the batch."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=len(SHARES)
    )
    block = nn.SyncBatchNorm.convert_sync_batchnorm(Block())
    x = batch().split(SHARES)[rank]
    found = step(block, x)
    with pytest.raises(convatlas.BackendError, match='group= on backend "cudnn"'):
        convatlas.batch_norm(x, None, None, training=True, group=torch.distributed.group.WORLD, backend="cudnn")
    torch.save(found, folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_are_one_with_the_whole_batch(tmp_path: Path) -> None:
    ran = [
        subprocess.Popen([sys.executable, __file__, str(rank), str(tmp_path)], stderr=subprocess.PIPE) for rank in RANKS
    ]
    for process in ran:
        assert process.wait(120) == 0, process.stderr.read().decode()[-2000:]
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in RANKS)
    expected = step(Block(), batch())
    for name, whole in expected.items():
        if name in ("y", "x"):
            found = torch.cat([first[name], second[name]])
        elif name in ("mean", "var"):
            assert torch.equal(first[name], second[name])
            found = first[name]
        else:  # each process has its part of a parameter's gradient
            found = first[name] + second[name]
        torch.testing.assert_close(found, whole, rtol=1e-9, atol=1e-11)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
