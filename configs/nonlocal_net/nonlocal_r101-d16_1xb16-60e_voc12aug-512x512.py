_base_ = './nonlocal_r50-d16_1xb16-60e_voc12aug-512x512.py'
model = dict(pretrained='open-mmlab://resnet101_v1c', backbone=dict(depth=101))
