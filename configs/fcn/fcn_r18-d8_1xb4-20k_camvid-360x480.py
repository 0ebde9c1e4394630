# The baseline of the context blocks: the convolutions of NLHead and GCHead without their block.
# model.decode_head.type=NLHead or =GCHead puts the block in, with its published settings.
# From random weights: --cfg-options model.pretrained=None
_base_ = '../nonlocal_net/nonlocal_r18-d8_1xb4-20k_camvid-360x480.py'
model = dict(
    decode_head=dict(
        _delete_=True,
        type='FCNHead',
        in_channels=512,
        in_index=3,
        channels=128,
        dropout_ratio=0.1,
        num_classes=11,
        norm_cfg=dict(type='SyncBN', requires_grad=True),
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0)))
