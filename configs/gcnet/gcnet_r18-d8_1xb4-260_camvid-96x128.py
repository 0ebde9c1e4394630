_base_ = '../fcn/fcn_r18-d8_1xb4-260_camvid-96x128.py'
model = dict(decode_head=dict(type='GCHead'))
