_base_ = [
    '../_base_/models/nonlocal_r50-d8_sssegmentation.py', '../_base_/datasets/cityscapes.py',
    '../_base_/default_runtime.py', '../_base_/schedules/schedule_220e.py'
]
crop_size = (512, 1024)
data_preprocessor = dict(size=crop_size)
model = dict(data_preprocessor=data_preprocessor)
log_processor = dict(by_epoch=True)
train_dataloader = dict(
    batch_size=8,
    num_workers=8,
    drop_last=True,
    sampler=dict(_delete_=True, type='DefaultSampler', shuffle=True))
