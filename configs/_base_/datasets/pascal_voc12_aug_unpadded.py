_base_ = './pascal_voc12_aug.py'
# The same images without the step that pads: the preprocessor pads after normalisation.
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='RandomResize', scale=(2048, 512), ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type='RandomCrop', crop_size=(512, 512), cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs')
]
dataset_train = dict(pipeline=train_pipeline)
dataset_aug = dict(pipeline=train_pipeline)
train_dataloader = dict(
    dataset=dict(
        datasets=[
            dict(
                type='PascalVOCDataset',
                data_root='data/VOCdevkit/VOC2012',
                ann_file='ImageSets/Segmentation/train.txt',
                data_prefix=dict(img_path='JPEGImages', seg_map_path='SegmentationClass'),
                pipeline=train_pipeline),
            dict(
                type='PascalVOCDataset',
                data_root='data/VOCdevkit/VOC2012',
                ann_file='ImageSets/Segmentation/aug.txt',
                data_prefix=dict(img_path='JPEGImages', seg_map_path='SegmentationClassAug'),
                pipeline=train_pipeline)
        ]))
