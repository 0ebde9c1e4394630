# NonLocal on a ConvNeXt of timm, dilated to output stride 8: pip install 'nlseg[timm]'. Not trained
# here. Optimizer and rate follow ConvNeXt's own recipe for segmentation, without its warm-up and
# its rates by layer; a norm or a bias does not decay.
_base_ = './nonlocal_r50-d8_4xb2-40k_cityscapes-512x1024.py'
model = dict(
    pretrained=None,
    backbone=dict(
        _delete_=True,
        type='TIMMBackbone',
        model_name='convnext_tiny.fb_in1k',
        output_stride=8,
        out_indices=(0, 1, 2, 3),
        drop_path_rate=0.1),
    decode_head=dict(in_channels=768),
    auxiliary_head=dict(in_channels=384))
optim_wrapper = dict(
    _delete_=True,
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0., bias_decay_mult=0.),
    clip_grad=None)
param_scheduler = [
    dict(type='PolyLR', eta_min=0., power=0.9, begin=0, end=40000, by_epoch=False)
]
