# The NonLocal network as SSSegmentation trains it. What differs from nonlocal_r50-d8.py:
# - padding is centred instead of at the right and bottom           (data_preprocessor.pad_mode)
# - layers of the heads start as PyTorch leaves them, no N(0, 0.01)   (init_cfg=None)
# - the block's last norm starts at 1, so it is no identity at first  (zeros_init=False)
# - the auxiliary head is 512 channels wide                           (channels)
# - losses are averaged over the pixels that are not ignored          (avg_non_ignore)
# - logits are upsampled once, straight to the original size          (test_cfg.resize_once)
_base_ = './nonlocal_r50-d8.py'
data_preprocessor = dict(pad_mode='center')
model = dict(
    data_preprocessor=data_preprocessor,
    decode_head=dict(
        zeros_init=False, init_cfg=None, loss_decode=dict(avg_non_ignore=True)),
    auxiliary_head=dict(
        channels=512, init_cfg=None, loss_decode=dict(avg_non_ignore=True)),
    test_cfg=dict(mode='whole', resize_once=True))
