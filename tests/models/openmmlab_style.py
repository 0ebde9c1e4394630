"""Heads, losses and segmentors as people write them for OpenMMLab's toolkits.

Written for the tests. Nothing here knows of streamed losses or predictions. ``slow_...`` functions
compute what a part has to give, from its parameters, in plain PyTorch.
"""

import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule
from mmengine.model import BaseModule
from torch import nn

from nlseg.models import BaseDecodeHead, EncoderDecoder, NLHead, NonLocal2d
from nlseg.registry import MODELS


def resize(x, size, align_corners=False):
    return F.interpolate(x, size, mode="bilinear", align_corners=align_corners)


def slow_conv(x, module):
    """Run a ConvModule of convolution, batch norm and ReLU in evaluation."""
    conv, norm = module.conv, module.bn
    x = F.conv2d(x, conv.weight, conv.bias, padding=conv.padding)
    x = F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias)
    return F.relu(x)


class PPM(nn.ModuleList):
    """Pools to several sizes, reduces channels, resizes back."""

    def __init__(self, pool_scales, in_channels, channels, norm_cfg, act_cfg, align_corners):
        super().__init__()
        self.align_corners = align_corners
        for scale in pool_scales:
            self.append(
                nn.Sequential(
                    nn.AdaptiveAvgPool2d(scale),
                    ConvModule(in_channels, channels, 1, norm_cfg=norm_cfg, act_cfg=act_cfg),
                )
            )

    def forward(self, x):
        size = x.shape[2:]
        return [resize(ppm(x), size, self.align_corners) for ppm in self]


@MODELS.register_module()
class PyramidHead(BaseDecodeHead):
    """After PSPNet."""

    def __init__(self, pool_scales=(1, 2, 3), **kwargs):
        super().__init__(**kwargs)
        self.pool_scales = pool_scales
        self.psp_modules = PPM(
            self.pool_scales, self.in_channels, self.channels,
            norm_cfg=self.norm_cfg, act_cfg=self.act_cfg, align_corners=self.align_corners,
        )  # fmt: skip
        self.bottleneck = ConvModule(
            self.in_channels + len(pool_scales) * self.channels, self.channels, 3, padding=1,
            conv_cfg=self.conv_cfg, norm_cfg=self.norm_cfg, act_cfg=self.act_cfg,
        )  # fmt: skip

    def _forward_feature(self, inputs):
        x = self._transform_inputs(inputs)
        psp_outs = [x]
        psp_outs.extend(self.psp_modules(x))
        return self.bottleneck(torch.cat(psp_outs, dim=1))

    def forward(self, inputs):
        output = self._forward_feature(inputs)
        return self.cls_seg(output)


def slow_pyramid(head, features):
    x = features[-1]
    parts = [x]
    for scale, branch in zip(head.pool_scales, head.psp_modules, strict=True):
        pooled = F.adaptive_avg_pool2d(x, scale)
        parts.append(resize(slow_conv(pooled, branch[1]), x.shape[2:], head.align_corners))
    return head.conv_seg(slow_conv(torch.cat(parts, 1), head.bottleneck))


@MODELS.register_module()
class UnifiedHead(BaseDecodeHead):
    """After UPerNet: a top-down pyramid over several features."""

    def __init__(self, **kwargs):
        super().__init__(input_transform="multiple_select", **kwargs)
        norm = {"norm_cfg": self.norm_cfg, "act_cfg": self.act_cfg, "inplace": False}
        self.lateral_convs = nn.ModuleList()
        self.fpn_convs = nn.ModuleList()
        for in_channels in self.in_channels[:-1]:
            self.lateral_convs.append(ConvModule(in_channels, self.channels, 1, **norm))
            self.fpn_convs.append(ConvModule(self.channels, self.channels, 3, padding=1, **norm))
        self.top_conv = ConvModule(self.in_channels[-1], self.channels, 3, padding=1, **norm)
        self.fpn_bottleneck = ConvModule(
            len(self.in_channels) * self.channels, self.channels, 3, padding=1, **norm
        )

    def forward(self, inputs):
        inputs = self._transform_inputs(inputs)
        laterals = [conv(inputs[i]) for i, conv in enumerate(self.lateral_convs)]
        laterals.append(self.top_conv(inputs[-1]))
        levels = len(laterals)
        for i in range(levels - 1, 0, -1):
            prev_shape = laterals[i - 1].shape[2:]
            laterals[i - 1] = laterals[i - 1] + resize(laterals[i], prev_shape, self.align_corners)
        outs = [self.fpn_convs[i](laterals[i]) for i in range(levels - 1)]
        outs.append(laterals[-1])
        for i in range(levels - 1, 0, -1):
            outs[i] = resize(outs[i], outs[0].shape[2:], self.align_corners)
        return self.cls_seg(self.fpn_bottleneck(torch.cat(outs, dim=1)))


def slow_unified(head, features):
    low, middle, top = (features[i] for i in head.in_index)
    top = slow_conv(top, head.top_conv)
    middle = slow_conv(middle, head.lateral_convs[1]) + resize(
        top, middle.shape[2:], head.align_corners
    )
    low = slow_conv(low, head.lateral_convs[0]) + resize(middle, low.shape[2:], head.align_corners)
    parts = [slow_conv(low, head.fpn_convs[0]), slow_conv(middle, head.fpn_convs[1]), top]
    parts = [resize(x, low.shape[2:], head.align_corners) for x in parts]
    return head.conv_seg(slow_conv(torch.cat(parts, 1), head.fpn_bottleneck))


class WhitenedNonLocal2d(NonLocal2d):
    """After the disentangled non-local block: queries and keys without their mean, a unary term."""

    def __init__(self, *arg, temperature, **kwargs):
        super().__init__(*arg, **kwargs)
        self.temperature = temperature
        self.conv_mask = nn.Conv2d(self.in_channels, 1, kernel_size=1)

    def embedded_gaussian(self, theta_x, phi_x):
        pairwise_weight = torch.matmul(theta_x, phi_x)
        if self.use_scale:
            pairwise_weight = pairwise_weight / theta_x.shape[-1] ** 0.5
        return (pairwise_weight / self.temperature).softmax(dim=-1)

    def forward(self, x):
        n = x.size(0)
        g_x = self.g(x).reshape(n, self.inter_channels, -1).permute(0, 2, 1)
        theta_x = self.theta(x).reshape(n, self.inter_channels, -1).permute(0, 2, 1)
        phi_x = self.phi(x).reshape(n, self.inter_channels, -1)
        theta_x = theta_x - theta_x.mean(dim=-2, keepdim=True)
        phi_x = phi_x - phi_x.mean(dim=-1, keepdim=True)
        pairwise_func = getattr(self, self.mode)
        y = torch.matmul(pairwise_func(theta_x, phi_x), g_x)
        y = y.permute(0, 2, 1).reshape(n, self.inter_channels, *x.size()[2:])
        unary_mask = self.conv_mask(x).reshape(n, 1, -1).softmax(dim=-1)
        unary_x = torch.matmul(unary_mask, g_x).permute(0, 2, 1)
        unary_x = unary_x.reshape(n, self.inter_channels, 1, 1)
        return x + self.conv_out(y) + self.conv_out(unary_x)


@MODELS.register_module()
class WhitenedHead(NLHead):
    """A child of ``NLHead`` with a block of its own."""

    def __init__(self, temperature=0.5, **kwargs):
        super().__init__(**kwargs)
        self.nl_block = WhitenedNonLocal2d(
            in_channels=self.channels, reduction=2, norm_cfg=self.norm_cfg, temperature=temperature
        )

    def forward(self, inputs):
        x = self._transform_inputs(inputs)
        output = self.convs[0](x)
        output = self.nl_block(output)
        output = self.convs[1](output)
        if self.concat_input:
            output = self.conv_cat(torch.cat([x, output], dim=1))
        return self.cls_seg(output)


def slow_whitened(head, features):
    x, block = features[-1], head.nl_block
    first = slow_conv(x, head.convs[0])
    n, _, height, width = first.shape
    values, queries, keys = (
        F.conv2d(first, m.conv.weight, m.conv.bias).flatten(2)
        for m in (block.g, block.theta, block.phi)
    )
    queries, keys = queries - queries.mean(2, keepdim=True), keys - keys.mean(2, keepdim=True)
    unary = F.conv2d(first, block.conv_mask.weight, block.conv_mask.bias).flatten(2).softmax(2)
    out = first
    contexts = [[], []]
    for i in range(n):
        for position in range(height * width):
            scores = queries[i, :, position] @ keys[i] / queries.shape[1] ** 0.5 / block.temperature
            contexts[0].append(values[i] @ scores.softmax(0))
            contexts[1].append(values[i] @ unary[i, 0])
    for context in contexts:
        context = torch.stack(context).view(n, height, width, -1).permute(0, 3, 1, 2)
        conv, norm = block.conv_out.conv, block.conv_out.bn
        context = F.conv2d(context, conv.weight, conv.bias)
        out = out + F.batch_norm(
            context, norm.running_mean, norm.running_var, norm.weight, norm.bias
        )
    out = slow_conv(out, head.convs[1])
    return head.conv_seg(slow_conv(torch.cat([x, out], 1), head.conv_cat))


@MODELS.register_module()
class RefiningHead(BaseDecodeHead):
    """A second stage, which sees the logits of the stage before."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.fuse = ConvModule(
            self.in_channels + self.num_classes, self.channels, 3, padding=1,
            norm_cfg=self.norm_cfg, act_cfg=self.act_cfg,
        )  # fmt: skip

    def forward(self, inputs, prev_output):
        x = self._transform_inputs(inputs)
        prev_output = resize(prev_output, x.shape[2:], self.align_corners)
        return self.cls_seg(self.fuse(torch.cat([x, prev_output.softmax(dim=1)], dim=1)))

    def loss(self, inputs, prev_output, batch_data_samples, train_cfg):
        seg_logits = self.forward(inputs, prev_output)
        losses = self.loss_by_feat(seg_logits, batch_data_samples)
        return {name: value * train_cfg.factor for name, value in losses.items()}

    def predict(self, inputs, prev_output, batch_img_metas, test_cfg):
        assert test_cfg.mode == test_cfg.get("mode", "whole") == test_cfg["mode"]
        seg_logits = self.forward(inputs, prev_output)
        return self.predict_by_feat(seg_logits, batch_img_metas)


@MODELS.register_module()
class TwoStageSegmentor(EncoderDecoder):
    """A cascade: the second head sees the logits of the first."""

    def __init__(self, num_stages, **kwargs):
        self.num_stages = num_stages
        super().__init__(**kwargs)

    def _init_decode_head(self, decode_head):
        assert isinstance(decode_head, list)
        assert len(decode_head) == self.num_stages
        self.decode_head = nn.ModuleList()
        for i in range(self.num_stages):
            self.decode_head.append(MODELS.build(decode_head[i]))
        self.align_corners = self.decode_head[-1].align_corners
        self.num_classes = self.decode_head[-1].num_classes
        self.out_channels = self.decode_head[-1].out_channels

    def encode_decode(self, inputs, batch_img_metas):
        x = self.extract_feat(inputs)
        out = self.decode_head[0].forward(x)
        return self.decode_head[1].predict(x, out, batch_img_metas, self.test_cfg)

    def _decode_head_forward_train(self, inputs, data_samples):
        losses = {}
        first = self.decode_head[0].loss(inputs, data_samples, self.train_cfg)
        losses.update({f"decode_0.{name}": value for name, value in first.items()})
        prev_outputs = self.decode_head[0].forward(inputs)
        second = self.decode_head[1].loss(inputs, prev_outputs, data_samples, self.train_cfg)
        losses.update({f"decode_1.{name}": value for name, value in second.items()})
        return losses

    def _forward(self, inputs, data_samples=None):
        x = self.extract_feat(inputs)
        return self.decode_head[1].forward(x, self.decode_head[0].forward(x))


def slow_two_stages(model, features):
    first, second = model.decode_head
    prev = slow_pyramid(first, features).softmax(1)
    x = features[-1]
    return second.conv_seg(slow_conv(torch.cat([x, prev], 1), second.fuse))


@MODELS.register_module()
class OverlapLoss(nn.Module):
    """A Dice loss in OpenMMLab's signature."""

    def __init__(self, smooth=1, alpha=2.0, loss_weight=1.0, loss_name="loss_overlap", **kwargs):
        super().__init__()
        self.smooth = smooth
        self.alpha = alpha
        self.loss_weight = loss_weight
        self._loss_name = loss_name

    def forward(self, pred, target, weight=None, avg_factor=None, reduction_override=None,
                ignore_index=255, **kwargs):  # fmt: skip
        assert reduction_override in (None, "none", "mean", "sum")
        pred = F.softmax(pred, dim=1)
        num_classes = pred.shape[1]
        one_hot_target = F.one_hot(target.clamp(0, num_classes - 1), num_classes)
        valid_mask = (target != ignore_index).long()
        total_loss = 0
        for i in range(num_classes):
            p, t = pred[:, i].flatten(1), one_hot_target[..., i].flatten(1)
            valid = valid_mask.flatten(1)
            num = torch.sum(p * t * valid, dim=1) * 2 + self.smooth
            den = torch.sum((p**self.alpha + t) * valid, dim=1) + self.smooth
            total_loss = total_loss + (1 - num / den).mean()
        return self.loss_weight * total_loss / num_classes

    @property
    def loss_name(self):
        return self._loss_name


@MODELS.register_module()
class HardPixelLoss(BaseModule):
    """A focal loss in OpenMMLab's signature."""

    def __init__(self, gamma=0, reduction="mean", loss_weight=1.0, loss_name="loss_hard"):
        super().__init__()
        self.gamma = gamma
        self.reduction = reduction
        self.loss_weight = loss_weight
        self._loss_name = loss_name

    def forward(self, pred, target, weight=None, avg_factor=None, reduction_override=None,
                ignore_index=255, **kwargs):  # fmt: skip
        each = F.cross_entropy(pred, target, reduction="none", ignore_index=ignore_index)
        each = each * (1 - torch.exp(-each)) ** self.gamma
        if weight is not None:
            each = each * weight
        return self.loss_weight * each.mean()

    @property
    def loss_name(self):
        return self._loss_name


def slow_losses(logits, label, losses, ignore_index=255):
    """Return the two losses of upsampled logits (N, K, H, W), pixel by pixel."""
    overlap, hard = losses
    n, num_classes, height, width = logits.shape
    probability, log = logits.softmax(1), logits.log_softmax(1)
    hit = torch.zeros(n, num_classes, dtype=logits.dtype)
    mass = torch.zeros(n, num_classes, dtype=logits.dtype)
    total = 0.0
    for i in range(n):
        for y in range(height):
            for x in range(width):
                k = int(label[i, y, x])
                if k == ignore_index:
                    continue
                p = probability[i, :, y, x]
                hit[i, k] += p[k]
                mass[i] += p**overlap.alpha
                mass[i, k] += 1
                total = total - log[i, k, y, x] * (1 - p[k]) ** hard.gamma
    dice = 1 - (2 * hit + overlap.smooth) / (mass + overlap.smooth)
    return overlap.loss_weight * dice.mean(), hard.loss_weight * total / label.numel()
