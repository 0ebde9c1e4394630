"""The models that OpenMMLab has published and nlseg has the configs of, by the name of the config.

Source: the metafiles of ``configs/nonlocal_net`` and ``configs/gcnet`` of mmsegmentation 1.2.2. The
eight digits at the end of a file's name begin its SHA-256.
"""

import re

_BASE = "https://download.openmmlab.com/mmsegmentation/v0.5"
_FOLDERS = {"nonlocal": "nonlocal_net", "gcnet": "gcnet"}
# the day and second at which training began, and the hash
_FILES = {
    "nonlocal_r50-d8_4xb2-40k_cityscapes-512x1024": "20200605_210748-c75e81e3",
    "nonlocal_r101-d8_4xb2-40k_cityscapes-512x1024": "20200605_210748-d63729fa",
    "nonlocal_r50-d8_4xb2-40k_cityscapes-769x769": "20200530_045243-82ef6749",
    "nonlocal_r101-d8_4xb2-40k_cityscapes-769x769": "20200530_045348-8fe9a9dc",
    "nonlocal_r50-d8_4xb2-80k_cityscapes-512x1024": "20200607_193518-d6839fae",
    "nonlocal_r101-d8_4xb2-80k_cityscapes-512x1024": "20200607_183411-32700183",
    "nonlocal_r50-d8_4xb2-80k_cityscapes-769x769": "20200607_193506-1f9792f6",
    "nonlocal_r101-d8_4xb2-80k_cityscapes-769x769": "20200607_183428-0e1fa4f9",
    "nonlocal_r50-d8_4xb4-80k_ade20k-512x512": "20200615_015801-5ae0aa33",
    "nonlocal_r101-d8_4xb4-80k_ade20k-512x512": "20200615_015758-24105919",
    "nonlocal_r50-d8_4xb4-160k_ade20k-512x512": "20200616_005410-baef45e3",
    "nonlocal_r101-d8_4xb4-160k_ade20k-512x512": "20210827_221502-7881aa1a",
    "nonlocal_r50-d8_4xb4-20k_voc12aug-512x512": "20200617_222613-07f2a57c",
    "nonlocal_r101-d8_4xb4-20k_voc12aug-512x512": "20200617_222615-948c68ab",
    "nonlocal_r50-d8_4xb4-40k_voc12aug-512x512": "20200614_000028-0139d4a9",
    "nonlocal_r101-d8_4xb4-40k_voc12aug-512x512": "20200614_000028-7e5ff470",
    "gcnet_r50-d8_4xb2-40k_cityscapes-512x1024": "20200618_074436-4b0fd17b",
    "gcnet_r101-d8_4xb2-40k_cityscapes-512x1024": "20200618_074436-5e62567f",
    "gcnet_r50-d8_4xb2-40k_cityscapes-769x769": "20200618_182814-a26f4471",
    "gcnet_r101-d8_4xb2-40k_cityscapes-769x769": "20200619_092550-ca4f0a84",
    "gcnet_r50-d8_4xb2-80k_cityscapes-512x1024": "20200618_074450-ef8f069b",
    "gcnet_r101-d8_4xb2-80k_cityscapes-512x1024": "20200618_074450-778ebf69",
    "gcnet_r50-d8_4xb2-80k_cityscapes-769x769": "20200619_092516-4839565b",
    "gcnet_r101-d8_4xb2-80k_cityscapes-769x769": "20200619_092628-8e043423",
    "gcnet_r50-d8_4xb4-80k_ade20k-512x512": "20200614_185146-91a6da41",
    "gcnet_r101-d8_4xb4-80k_ade20k-512x512": "20200615_020811-c3fcb6dd",
    "gcnet_r50-d8_4xb4-160k_ade20k-512x512": "20200615_224122-d95f3e1f",
    "gcnet_r101-d8_4xb4-160k_ade20k-512x512": "20200615_225406-615528d7",
    "gcnet_r50-d8_4xb4-20k_voc12aug-512x512": "20200617_165701-3cbfdab1",
    "gcnet_r101-d8_4xb4-20k_voc12aug-512x512": "20200617_165713-6c720aa9",
    "gcnet_r50-d8_4xb4-40k_voc12aug-512x512": "20200613_195105-9797336d",
    "gcnet_r101-d8_4xb4-40k_voc12aug-512x512": "20200613_185806-1e38208d",
}
_TAIL = re.compile(r"_\dxb\d-(\d+k)_(\w+)-(\d+x\d+)$")


def name_of_0x(name: str) -> str:
    """Return the name that a published config had in mmsegmentation 0.x, and its file still has."""
    return _TAIL.sub(r"_\3_\1_\2", name)


def _address(name: str, suffix: str) -> str:
    old = name_of_0x(name)
    return f"{_BASE}/{_FOLDERS[name.split('_')[0]]}/{old}/{old}_{suffix}.pth"


ADDRESSES = {name: _address(name, suffix) for name, suffix in _FILES.items()}
"""Addresses by the names of the configs."""

NAMES = {**{name_of_0x(name): name for name in ADDRESSES}, **{name: name for name in ADDRESSES}}
"""Both names of each model, to the name of its config."""
