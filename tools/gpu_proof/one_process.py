"""One process of NCCL: DistributedDataParallel, and the kernels of synchronized batch norm.

PyTorch takes plain batch norm where there is one process, so those kernels are called by name.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.structures import PixelData
from torch import Tensor, nn
from torch.distributed import HashStore  # type: ignore[attr-defined]

from benchmark.networks import Network
from benchmark.pixels import noise_labels
from gpu_proof.arguments import step_parser, write_result
from nlseg.ops.synchronized_norm import SynchronizedNorm
from nlseg.structures import SegDataSample

Norm = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]


def norm_difference(device: str, norms: Sequence[Norm]) -> float:
    """Return the largest difference of outputs and gradients of two kinds of norm.

    Args:
        device: 'cpu' or 'cuda'.
        norms: Each takes input, weight, bias, running mean and variance.
    """
    results: list[list[Tensor]] = []
    for norm in norms:
        torch.manual_seed(0)
        x = torch.randn(4, 64, 32, 48, device=device, requires_grad=True)
        weight, bias = (torch.rand(64, device=device).requires_grad_() for _ in range(2))
        mean, var = torch.zeros(64, device=device), torch.ones(64, device=device)
        y = norm(x, weight, bias, mean, var)
        # a square's gradient is one that a norm takes out: rounding alone would be compared
        grads = torch.autograd.grad((y * torch.randn_like(y)).sum(), (x, weight, bias))
        results.append([y.detach(), mean, var, *grads])
    return max(
        float((one - other).abs().max() / other.abs().max())
        for one, other in zip(*results, strict=True)
    )


def plain_norm(x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, var: Tensor) -> Tensor:
    """Normalize by PyTorch's batch norm."""
    return F.batch_norm(x, mean, var, weight, bias, True, 0.1, 1e-5)


def synchronized_norm(x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, var: Tensor) -> Tensor:
    """Normalize by the kernels that processes share their statistics with."""
    norm: Any = SynchronizedNorm
    group = torch.distributed.group.WORLD
    result: Tensor = norm.apply(x, weight, bias, mean, var, 1e-5, 0.1, group, 1)
    return result


def written_out_norm(x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, var: Tensor) -> Tensor:
    """Normalize by the formula, on devices that have no synchronized norm."""
    spread, centre = torch.var_mean(x, (0, 2, 3), correction=0)
    count = x.numel() / x.shape[1]
    with torch.no_grad():
        mean.lerp_(centre, 0.1)
        var.lerp_(spread * count / (count - 1), 0.1)
    shape = (1, -1, 1, 1)
    scaled = (x - centre.view(shape)) * torch.rsqrt(spread + 1e-5).view(shape)
    return scaled * weight.view(shape) + bias.view(shape)


def losses(model: Any, inside: Any, device: str, size: int) -> list[float]:
    """Train for three steps and return the losses."""
    torch.manual_seed(0)
    images = torch.randn(2, 3, size, 2 * size, device=device)
    label = noise_labels(19, (2, size, 2 * size), device)
    samples = [_sample(one) for one in label]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    found: list[Tensor] = []
    for _ in range(3):
        total: Any = inside.parse_losses(model(images, samples, mode="loss"))[0]
        total.backward()
        optimizer.step()
        optimizer.zero_grad()
        found.append(total.detach())
    return [loss.item() for loss in found]


def _sample(label: Tensor) -> SegDataSample:
    size = (label.shape[0], label.shape[1])
    sample = SegDataSample(metainfo={"ori_shape": size, "img_shape": size, "pad_shape": size})
    sample.gt_sem_seg = PixelData(data=label.unsqueeze(0))
    return sample


def main() -> None:
    args = step_parser(__doc__).parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    backend = "gloo" if args.dry else "nccl"
    store = HashStore()
    torch.distributed.init_process_group(backend, store=store, rank=0, world_size=1)
    network = Network(18, 16) if args.dry else Network()
    size = 64 if args.dry else 512
    found: dict[str, Any] = {"backend": backend}
    norms = (written_out_norm, plain_norm) if args.dry else (synchronized_norm, plain_norm)
    found["norm_difference"] = norm_difference("cpu" if args.dry else device, norms)
    plain = network.build("nlseg", device).train()
    found["plain"] = losses(plain, plain, device, size)
    model: Any = network.build("nlseg", device).train()
    if device == "cuda":
        kind: Any = nn.SyncBatchNorm
        model = kind.convert_sync_batchnorm(model)
    wrapped = nn.parallel.DistributedDataParallel(
        model, device_ids=[0] if device == "cuda" else None, broadcast_buffers=False
    )
    found["ddp"] = losses(wrapped, model, device, size)
    torch.distributed.destroy_process_group()
    print(found)
    write_result(args, found)


if __name__ == "__main__":
    main()
