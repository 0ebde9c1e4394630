# NonLocal on a Vision Transformer of timm, whose tokens become a map of 1/16 of the image's size:
# pip install 'nlseg[timm]'. Not trained here. Positions are made for the crop and interpolated for
# images of other sizes; a norm, a bias and the positions do not decay.
_base_ = './nonlocal_r50-d8_4xb4-80k_ade20k-512x512.py'
model = dict(
    pretrained=None,
    backbone=dict(
        _delete_=True,
        type='TIMMBackbone',
        model_name='vit_small_patch16_224.augreg_in21k_ft_in1k',
        out_indices=(2, 5, 8, 11),
        img_size=(512, 512),
        dynamic_img_size=True,
        dynamic_img_pad=True,
        drop_path_rate=0.1),
    decode_head=dict(in_channels=384),
    auxiliary_head=dict(in_channels=384))
optim_wrapper = dict(
    _delete_=True,
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=6e-5, betas=(0.9, 0.999), weight_decay=0.01),
    paramwise_cfg=dict(
        norm_decay_mult=0., bias_decay_mult=0.,
        custom_keys=dict(pos_embed=dict(decay_mult=0.), cls_token=dict(decay_mult=0.))),
    clip_grad=None)
param_scheduler = [
    dict(type='PolyLR', eta_min=0., power=0.9, begin=0, end=80000, by_epoch=False)
]
