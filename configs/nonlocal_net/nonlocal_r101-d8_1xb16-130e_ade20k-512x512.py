_base_ = './nonlocal_r50-d8_1xb16-130e_ade20k-512x512.py'
model = dict(pretrained='open-mmlab://resnet101_v1c', backbone=dict(depth=101))
