_base_ = './nonlocal_r50-d8_1xb8-220e_cityscapes-512x1024.py'
model = dict(backbone=dict(dilations=(1, 1, 1, 2), strides=(1, 2, 2, 1)))
