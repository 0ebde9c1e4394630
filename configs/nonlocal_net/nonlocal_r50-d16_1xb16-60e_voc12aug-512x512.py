_base_ = './nonlocal_r50-d8_1xb16-60e_voc12aug-512x512.py'
model = dict(backbone=dict(dilations=(1, 1, 1, 2), strides=(1, 2, 2, 1)))
