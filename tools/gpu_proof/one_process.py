"""One process of NCCL: DistributedDataParallel, and the kernels of synchronized batch norm.

PyTorch takes plain batch norm where there is one process, so those kernels are called by name.
"""

from typing import Any

import torch
import torch.nn.functional as F
from mmengine.structures import PixelData
from torch import Tensor, nn
from torch.distributed import HashStore  # type: ignore[attr-defined]
from torch.nn.modules._functions import SyncBatchNorm

from benchmark.networks import Network
from benchmark.pixels import noise_labels
from gpu_proof.arguments import step_parser, write_result
from nlseg.structures import SegDataSample


def norm_difference(device: str) -> float:
    """Return the largest difference of outputs and gradients of synchronized and plain norm."""
    results: list[list[Tensor]] = []
    norm: Any = SyncBatchNorm
    for synchronized in (True, False):
        torch.manual_seed(0)
        x = torch.randn(4, 64, 32, 48, device=device, requires_grad=True)
        weight, bias = (torch.rand(64, device=device).requires_grad_() for _ in range(2))
        mean, var = torch.zeros(64, device=device), torch.ones(64, device=device)
        if synchronized:
            group = torch.distributed.group.WORLD
            y = norm.apply(x, weight, bias, mean, var, 1e-5, 0.1, group, 1)
        else:
            y = F.batch_norm(x, mean, var, weight, bias, True, 0.1, 1e-5)
        grads = torch.autograd.grad(y.square().sum(), (x, weight, bias))
        results.append([y, mean, var, *grads])
    return max(
        float((one - other).abs().max() / other.abs().max())
        for one, other in zip(*results, strict=True)
    )


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
    if device == "cuda" and not args.dry:
        found["norm_difference"] = norm_difference(device)
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
