_base_ = './nonlocal_r50-d8_1xb8-220e_cityscapes-512x1024.py'
model = dict(pretrained='open-mmlab://resnet101_v1c', backbone=dict(depth=101))
