_base_ = [
    '../_base_/models/nonlocal_r50-d8_sssegmentation.py',
    '../_base_/datasets/pascal_voc12_aug_unpadded.py', '../_base_/default_runtime.py',
    '../_base_/schedules/schedule_60e.py'
]
crop_size = (512, 512)
data_preprocessor = dict(size=crop_size)
model = dict(
    data_preprocessor=data_preprocessor,
    decode_head=dict(num_classes=21),
    auxiliary_head=dict(num_classes=21))
log_processor = dict(by_epoch=True)
train_dataloader = dict(
    batch_size=16,
    num_workers=8,
    drop_last=True,
    sampler=dict(_delete_=True, type='DefaultSampler', shuffle=True))
