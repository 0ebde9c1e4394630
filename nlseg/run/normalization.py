"""Synchronized batch normalisation where there is nothing to synchronize with."""

from torch import nn


class BatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch normalisation of inputs (N, C, ...) of any number of dimensions."""

    def _check_input_dim(self, input: object) -> None:
        """Accept everything, as SyncBatchNorm does."""


def revert_sync_batchnorm(module: nn.Module) -> nn.Module:
    """Replace SyncBatchNorm by BatchNorm with the same weights, statistics and names.

    Args:
        module: A network; changed in place, except where it is a SyncBatchNorm itself.
    """
    if isinstance(module, nn.SyncBatchNorm):
        return _revert(module)
    for name, child in module.named_children():
        replaced = revert_sync_batchnorm(child)
        if replaced is not child:
            setattr(module, name, replaced)
    return module


def _revert(sync: nn.SyncBatchNorm) -> BatchNorm:
    plain = BatchNorm(
        sync.num_features, sync.eps, sync.momentum, sync.affine, sync.track_running_stats
    )
    plain.weight, plain.bias = sync.weight, sync.bias
    plain.running_mean, plain.running_var = sync.running_mean, sync.running_var
    plain.num_batches_tracked = sync.num_batches_tracked
    plain.training = sync.training
    return plain
