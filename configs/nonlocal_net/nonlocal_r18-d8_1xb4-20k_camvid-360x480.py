_base_ = './nonlocal_r50-d8_1xb4-20k_camvid-360x480.py'
# From random weights: --cfg-options model.pretrained=None
model = dict(
    pretrained='open-mmlab://resnet18_v1c',
    backbone=dict(depth=18),
    decode_head=dict(in_channels=512, channels=128),
    auxiliary_head=dict(in_channels=256, channels=64))
