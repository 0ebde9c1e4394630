"""The published data sets, one row each: classes, colours, suffixes, and what is ignored.

A row is a class and its decorator. Its text lists "colour name" in the order of the labels, the
colour as red, green and blue in hexadecimal digits. Class names are spelt as published, with their
spaces and capitals, because saved models and lists of classes name them so.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from nlseg.datasets.base import BaseSegDataset
from nlseg.errors import ConfigError
from nlseg.registry import DATASETS
from nlseg.structures import IGNORE_INDEX

DatasetClass = TypeVar("DatasetClass", bound=type[BaseSegDataset])

ALIASES: dict[str, type[BaseSegDataset]] = {}
"""Short names of the data sets."""


def voc_colour(index: int) -> list[int]:
    """Return the colour that VOC's palette files give an index.

    The bits of the index, three at a time, are the next lower bits of red, green and blue.

    Source: the colour map of the VOC development kit.
    """
    colour = [0, 0, 0]
    for bit in range(8):
        for channel in range(3):
            colour[channel] |= (index >> (3 * bit + channel) & 1) << (7 - bit)
    return colour


def published(
    classes: str,
    *aliases: str,
    images: str = ".jpg",
    labels: str = ".png",
    reduce_zero_label: bool = False,
    label_map: Mapping[int, int] | None = None,
) -> Callable[[DatasetClass], DatasetClass]:
    """Register a class of data sets and set what is published about it.

    Args:
        classes: "colour name" of every class, with bars between.
        aliases: Short names.
        images: End of the image files' names.
        labels: End of the label files' names.
        reduce_zero_label: Label 0 is ignored and k is class k - 1.
        label_map: Class index for raw values of the label files.
    """
    rows = [row.partition(" ") for row in classes.split("|")]

    def put(kind: DatasetClass) -> DatasetClass:
        kind.METAINFO = {
            "classes": tuple(name for _, _, name in rows),
            "palette": [list(bytes.fromhex(colour)) for colour, _, _ in rows],
        }
        kind.IMG_SUFFIX, kind.SEG_MAP_SUFFIX = images, labels
        kind.REDUCE_ZERO_LABEL = reduce_zero_label
        kind.LABEL_MAP = None if label_map is None else dict(label_map)
        ALIASES.update(dict.fromkeys(aliases, kind))
        return DATASETS.register_module()(kind)  # type: ignore[no-any-return]

    return put


def _known(name: str) -> dict[str, Any]:
    if name not in ALIASES:
        raise ConfigError(f"data set {name!r} is not one of {', '.join(ALIASES)}")
    return ALIASES[name].METAINFO


def get_classes(name: str) -> list[str]:
    """Return the class names of a data set by its short name.

    Raises:
        ConfigError: The name is unknown.
    """
    return list(_known(name)["classes"])


def get_palette(name: str) -> list[list[int]]:
    """Return the RGB colours of a data set's classes by its short name.

    Raises:
        ConfigError: The name is unknown.
    """
    return [list(colour) for colour in _known(name)["palette"]]


_CITYSCAPES = (
    "804080 road|f423e8 sidewalk|464646 building|66669c wall|be9999 fence|999999 pole|"
    "faaa1e traffic light|dcdc00 traffic sign|6b8e23 vegetation|98fb98 terrain|4682b4 sky|"
    "dc143c person|ff0000 rider|00008e car|000046 truck|003c64 bus|005064 train|0000e6 motorcycle|"
    "770b20 bicycle"
)


@published(
    _CITYSCAPES,
    "cityscapes",
    images="_leftImg8bit.png",
    labels="_gtFine_labelTrainIds.png",
)
class CityscapesDataset(BaseSegDataset):
    """Streets of German cities: ``leftImg8bit/<split>/<city>``, ``gtFine/<split>/<city>``.

    Labels are train ids.
    """


@published(_CITYSCAPES, "dark_zurich", images="_rgb_anon.png", labels="_gt_labelTrainIds.png")
class DarkZurichDataset(CityscapesDataset):
    """Zurich by night: ``rgb_anon/val/night/*``, ``gt/val/night/*``; classes of Cityscapes."""


@published(
    _CITYSCAPES, "night_driving", images="_leftImg8bit.png", labels="_gtCoarse_labelTrainIds.png"
)
class NightDrivingDataset(CityscapesDataset):
    """Streets by night: ``leftImg8bit/test/night``, ``gtCoarse_daytime_trainvaltest/test/night``.

    Classes of Cityscapes.
    """


@published(_CITYSCAPES, "bdd100k")
class BDD100KDataset(BaseSegDataset):
    """Drives in the United States: ``images/10k/<split>``, ``labels/sem_seg/masks/<split>``.

    Classes of Cityscapes as train ids.
    """


_CAMVID = (
    "808080 sky|800000 building|c0c080 pole|804080 road|3c28de pavement|808000 tree|c08080 sign|"
    "404080 fence|400080 car|404000 pedestrian|0080c0 bicyclist"
)


@published(_CAMVID, "camvid", label_map={11: IGNORE_INDEX})
class CamVidDataset(BaseSegDataset):
    """Streets of Cambridge in the folders of the SegNet tutorial: ``images/<split>/*.jpg``.

    ``annotations/<split>/*.png`` are read as they are; index 11, "unlabelled", is ignored.
    """


_MAPILLARY_1 = (
    "a52a2a Bird|00c000 Ground Animal|c4c4c4 Curb|be9999 Fence|b4a5b4 Guard Rail|5a7896 Barrier|"
    "66669c Wall|8040ff Bike Lane|8c8cc8 Crosswalk - Plain|aaaaaa Curb Cut|faaaa0 Parking|"
    "606060 Pedestrian Area|e6968c Rail Track|804080 Road|6e6e6e Service Lane|f423e8 Sidewalk|"
    "966464 Bridge|464646 Building|96785a Tunnel|dc143c Person|ff0000 Bicyclist|"
    "ff0064 Motorcyclist|ff00c8 Other Rider|c88080 Lane Marking - Crosswalk|"
    "ffffff Lane Marking - General|40aa40 Mountain|e6a032 Sand|4682b4 Sky|beffff Snow|"
    "98fb98 Terrain|6b8e23 Vegetation|00aa1e Water|ffff80 Banner|fa001e Bench|648cb4 Bike Rack|"
    "dcdcdc Billboard|dc8080 Catch Basin|de2828 CCTV Camera|64aa1e Fire Hydrant|"
    "282828 Junction Box|212121 Mailbox|6480a0 Manhole|8e0000 Phone Booth|466496 Pothole|"
    "d2aa64 Street Light|999999 Pole|808080 Traffic Sign Frame|000050 Utility Pole|"
    "faaa1e Traffic Light|c0c0c0 Traffic Sign (Back)|dcdc00 Traffic Sign (Front)|8c8c14 Trash Can|"
    "770b20 Bicycle|9600ff Boat|003c64 Bus|00008e Car|00005a Caravan|0000e6 Motorcycle|"
    "005064 On Rails|804040 Other Vehicle|00006e Trailer|000046 Truck|0000c0 Wheeled Slow|"
    "202020 Car Mount|780a0a Ego Vehicle|000000 Unlabeled"
)
_MAPILLARY_2 = (
    "a52a2a Bird|00c000 Ground Animal|faaa1f Ambiguous Barrier|faaa20 Concrete Block|c4c4c4 Curb|"
    "be9999 Fence|b4a5b4 Guard Rail|5a7896 Barrier|faaa21 Road Median|faaa22 Road Side|"
    "808080 Lane Separator|faaa23 Temporary Barrier|66669c Wall|8040ff Bike Lane|"
    "8c8cc8 Crosswalk - Plain|aaaaaa Curb Cut|faaa24 Driveway|faaaa0 Parking|faaa25 Parking Aisle|"
    "606060 Pedestrian Area|e6968c Rail Track|804080 Road|6e6e6e Road Shoulder|"
    "6e6e6e Service Lane|f423e8 Sidewalk|80c480 Traffic Island|966464 Bridge|464646 Building|"
    "969696 Garage|96785a Tunnel|dc143c Person|dc143c Person Group|ff0000 Bicyclist|"
    "ff0064 Motorcyclist|ff00c8 Other Rider|ffffff Lane Marking - Dashed Line|"
    "ffffff Lane Marking - Straight Line|faaa1d Lane Marking - Zigzag Line|"
    "faaa1c Lane Marking - Ambiguous|faaa1a Lane Marking - Arrow (Left)|"
    "faaa19 Lane Marking - Arrow (Other)|faaa18 Lane Marking - Arrow (Right)|"
    "faaa16 Lane Marking - Arrow (Split Left or Straight)|"
    "faaa15 Lane Marking - Arrow (Split Right or Straight)|faaa14 Lane Marking - Arrow (Straight)|"
    "ffffff Lane Marking - Crosswalk|faaa13 Lane Marking - Give Way (Row)|"
    "faaa12 Lane Marking - Give Way (Single)|faaa0c Lane Marking - Hatched (Chevron)|"
    "faaa0b Lane Marking - Hatched (Diagonal)|ffffff Lane Marking - Other|"
    "ffffff Lane Marking - Stop Line|faaa10 Lane Marking - Symbol (Bicycle)|"
    "faaa0f Lane Marking - Symbol (Other)|faaa0f Lane Marking - Text|"
    "ffffff Lane Marking (only) - Dashed Line|ffffff Lane Marking (only) - Crosswalk|"
    "ffffff Lane Marking (only) - Other|ffffff Lane Marking (only) - Test|40aa40 Mountain|"
    "e6a032 Sand|4682b4 Sky|beffff Snow|98fb98 Terrain|6b8e23 Vegetation|00aa1e Water|"
    "ffff80 Banner|fa001e Bench|648cb4 Bike Rack|dc8080 Catch Basin|de2828 CCTV Camera|"
    "64aa1e Fire Hydrant|282828 Junction Box|212121 Mailbox|6480a0 Manhole|1414ff Parking Meter|"
    "8e0000 Phone Booth|466496 Pothole|faab1e Signage - Advertisement|faac1e Signage - Ambiguous|"
    "faad1e Signage - Back|faae1e Signage - Information|faaf1e Signage - Other|"
    "fab01e Signage - Store|d2aa64 Street Light|999999 Pole|999999 Pole Group|"
    "808080 Traffic Sign Frame|000050 Utility Pole|d23c3c Traffic Cone|"
    "faaa1e Traffic Light - General (Single)|faaa1e Traffic Light - Pedestrians|"
    "faaa1e Traffic Light - General (Upright)|faaa1e Traffic Light - General (Horizontal)|"
    "faaa1e Traffic Light - Cyclists|faaa1e Traffic Light - Other|c0c0c0 Traffic Sign - Ambiguous|"
    "c0c0c0 Traffic Sign (Back)|c0c0c0 Traffic Sign - Direction (Back)|"
    "dcdc00 Traffic Sign - Direction (Front)|dcdc00 Traffic Sign (Front)|"
    "0000c4 Traffic Sign - Parking|c0c0c0 Traffic Sign - Temporary (Back)|"
    "dcdc00 Traffic Sign - Temporary (Front)|8c8c14 Trash Can|770b20 Bicycle|9600ff Boat|"
    "003c64 Bus|00008e Car|00005a Caravan|0000e6 Motorcycle|005064 On Rails|804040 Other Vehicle|"
    "00006e Trailer|000046 Truck|00008e Vehicle Group|0000c0 Wheeled Slow|aaaaaa Water Valve|"
    "202020 Car Mount|6f4a00 Dynamic|780a0a Ego Vehicle|510051 Ground|6f6f00 Static|"
    "000000 Unlabeled"
)


@published(_MAPILLARY_1, "mapillary_v1")
class MapillaryDataset_v1(BaseSegDataset):  # noqa: N801 - the registered name
    """Mapillary Vistas 1.2, 66 classes: ``<split>/images/*.jpg``, ``<split>/v1.2/labels/*.png``.

    The label files are palette files; their indices are the labels.
    """


@published(_MAPILLARY_2, "mapillary_v2")
class MapillaryDataset_v2(BaseSegDataset):  # noqa: N801 - the registered name
    """Mapillary Vistas 2.0, 124 classes: ``<split>/images/*.jpg``, ``<split>/v2.0/labels/*.png``.

    The label files are palette files; their indices are the labels.
    """


_ADE20K = (
    "787878 wall|b47878 building|06e6e6 sky|503232 floor|04c803 tree|787850 ceiling|8c8c8c road|"
    "cc05ff bed |e6e6e6 windowpane|04fa07 grass|e005ff cabinet|ebff07 sidewalk|96053d person|"
    "787846 earth|08ff33 door|ff0652 table|8fff8c mountain|ccff04 plant|ff3307 curtain|"
    "cc4603 chair|0066c8 car|3de6fa water|ff0633 painting|0b66ff sofa|ff0747 shelf|ff09e0 house|"
    "0907e6 sea|dcdcdc mirror|ff095c rug|7009ff field|08ffd6 armchair|07ffe0 seat|ffb806 fence|"
    "0aff47 desk|ff290a rock|07ffff wardrobe|e0ff08 lamp|6608ff bathtub|ff3d06 railing|"
    "ffc207 cushion|ff7a08 base|00ff14 box|ff0829 column|ff0599 signboard|0633ff chest of drawers|"
    "eb0cff counter|a09614 sand|00a3ff sink|8c8c8c skyscraper|fa0a0f fireplace|"
    "14ff00 refrigerator|1fff00 grandstand|ff1f00 path|ffe000 stairs|99ff00 runway|0000ff case|"
    "ff4700 pool table|00ebff pillow|00adff screen door|1f00ff stairway|0bc8c8 river|"
    "ff5200 bridge|00fff5 bookcase|003dff blind|00ff70 coffee table|00ff85 toilet|ff0000 flower|"
    "ffa300 book|ff6600 hill|c2ff00 bench|008fff countertop|33ff00 stove|0052ff palm|"
    "00ff29 kitchen island|00ffad computer|0a00ff swivel chair|adff00 boat|00ff99 bar|"
    "ff5c00 arcade machine|ff00ff hovel|ff00f5 bus|ff0066 towel|ffad00 light|ff0014 truck|"
    "ffb8b8 tower|001fff chandelier|00ff3d awning|0047ff streetlight|ff00cc booth|"
    "00ffc2 television receiver|00ff52 airplane|000aff dirt track|0070ff apparel|3300ff pole|"
    "00c2ff land|007aff bannister|00ffa3 escalator|ff9900 ottoman|00ff0a bottle|ff7000 buffet|"
    "8fff00 poster|5200ff stage|a3ff00 van|ffeb00 ship|08b8aa fountain|8500ff conveyer belt|"
    "00ff5c canopy|b800ff washer|ff001f plaything|00b8ff swimming pool|00d6ff stool|ff0070 barrel|"
    "5cff00 basket|00e0ff waterfall|70e0ff tent|46b8a0 bag|a300ff minibike|9900ff cradle|"
    "47ff00 oven|ff00a3 ball|ffcc00 food|ff008f step|00ffeb tank|85ff00 trade name|"
    "ff00eb microwave|f500ff pot|ff007a animal|fff500 bicycle|0abed4 lake|d6ff00 dishwasher|"
    "00ccff screen|1400ff blanket|ffff00 sculpture|0099ff hood|0029ff sconce|00ffcc vase|"
    "2900ff traffic light|29ff00 tray|ad00ff ashcan|00f5ff fan|4700ff pier|7a00ff crt screen|"
    "00ffb8 plate|005cff monitor|b8ff00 bulletin board|0085ff shower|ffd600 radiator|19c2c2 glass|"
    "66ff00 clock|5c00ff flag"
)


@published(_ADE20K, "ade", "ade20k", reduce_zero_label=True)
class ADE20KDataset(BaseSegDataset):
    """ADE20K, 150 classes indoors and outdoors, as released: label 0 is "other" and ignored."""


_VOC = (
    "background|aeroplane|bicycle|bird|boat|bottle|bus|car|cat|chair|cow|diningtable|dog|horse|"
    "motorbike|person|pottedplant|sheep|sofa|train|tvmonitor"
)


@published(
    "|".join(
        f"{bytes(voc_colour(index)).hex()} {name}" for index, name in enumerate(_VOC.split("|"))
    ),
    "voc",
    "pascal_voc",
    "voc12",
    "voc12aug",
)
class PascalVOCDataset(BaseSegDataset):
    """Pascal VOC 2012, and with ``SegmentationClassAug`` and ``aug.txt`` the augmented set."""

    def load_data_list(self) -> list[dict[str, Any]]:
        """List the samples named in ``ann_file``.

        Raises:
            ConfigError: There is no ``ann_file``; most of VOC's images have no labels.
        """
        if not self.ann_file:
            raise ConfigError(
                f"{type(self).__name__}.ann_file: not given; give the list of the split, such as "
                "'ImageSets/Segmentation/train.txt'"
            )
        return super().load_data_list()


_CONTEXT = (
    "787878 background|b47878 aeroplane|06e6e6 bicycle|503232 bird|04c803 boat|787850 bottle|"
    "8c8c8c bus|cc05ff car|e6e6e6 cat|04fa07 chair|e005ff cow|ebff07 table|96053d dog|"
    "787846 horse|08ff33 motorbike|ff0652 person|8fff8c pottedplant|ccff04 sheep|ff3307 sofa|"
    "cc4603 train|0066c8 tvmonitor|3de6fa bag|ff0633 bed|0b66ff bench|ff0747 book|ff09e0 building|"
    "0907e6 cabinet|dcdcdc ceiling|ff095c cloth|7009ff computer|08ffd6 cup|07ffe0 door|"
    "ffb806 fence|0aff47 floor|ff290a flower|07ffff food|e0ff08 grass|6608ff ground|"
    "ff3d06 keyboard|ffc207 light|ff7a08 mountain|00ff14 mouse|ff0829 curtain|ff0599 platform|"
    "0633ff sign|eb0cff plate|a09614 road|00a3ff rock|8c8c8c shelves|fa0a0f sidewalk|14ff00 sky|"
    "1fff00 snow|ff1f00 bedclothes|ffe000 track|99ff00 tree|0000ff truck|ff4700 wall|00ebff water|"
    "00adff window|1f00ff wood"
)
_CONTEXT_59 = (
    "b47878 aeroplane|06e6e6 bag|503232 bed|04c803 bedclothes|787850 bench|8c8c8c bicycle|"
    "cc05ff bird|e6e6e6 boat|04fa07 book|e005ff bottle|ebff07 building|96053d bus|787846 cabinet|"
    "08ff33 car|ff0652 cat|8fff8c ceiling|ccff04 chair|ff3307 cloth|cc4603 computer|0066c8 cow|"
    "3de6fa cup|ff0633 curtain|0b66ff dog|ff0747 door|ff09e0 fence|0907e6 floor|dcdcdc flower|"
    "ff095c food|7009ff grass|08ffd6 ground|07ffe0 horse|ffb806 keyboard|0aff47 light|"
    "ff290a motorbike|07ffff mountain|e0ff08 mouse|6608ff person|ff3d06 plate|ffc207 platform|"
    "ff7a08 pottedplant|00ff14 road|ff0829 rock|ff0599 sheep|0633ff shelves|eb0cff sidewalk|"
    "a09614 sign|00a3ff sky|8c8c8c snow|fa0a0f sofa|14ff00 table|1fff00 track|ff1f00 train|"
    "ffe000 tree|99ff00 truck|0000ff tvmonitor|ff4700 wall|00ebff water|00adff window|1f00ff wood"
)


@published(_CONTEXT, "pcontext", "pascal_context", "voc2010")
class PascalContextDataset(BaseSegDataset):
    """Pascal Context, 59 classes and background: ``JPEGImages``, ``SegmentationClassContext``.

    ``ann_file`` is ``ImageSets/SegmentationContext/<split>.txt``.
    """


@published(_CONTEXT_59, "pascal_context_59", reduce_zero_label=True)
class PascalContextDataset59(BaseSegDataset):
    """Pascal Context without background: label 0 is ignored, the classes are in another order."""


_COCO_STUFF = (
    "00c040 person|00c040 bicycle|004060 car|80c0c0 motorcycle|004040 airplane|00c0e0 bus|"
    "00c0c0 train|80c040 truck|00c060 boat|80c040 traffic light|8020c0 fire hydrant|"
    "0000e0 stop sign|000040 parking meter|00a0c0 bench|800060 bird|8000c0 cat|0020c0 dog|"
    "8080e0 horse|0000c0 sheep|80a0c0 cow|808000 elephant|800020 bear|802000 zebra|800080 giraffe|"
    "408020 backpack|00a000 umbrella|000000 handbag|c080a0 tie|002000 suitcase|008080 frisbee|"
    "4080a0 skis|80a000 snowboard|008000 sports ball|c08020 kite|806080 baseball bat|"
    "000080 baseball glove|400020 skateboard|00e080 surfboard|800000 tennis racket|c000a0 bottle|"
    "006080 wine glass|808080 cup|4000a0 fork|80e080 knife|808040 spoon|c00020 bowl|806000 banana|"
    "8000c0 apple|008020 sandwich|40e000 orange|000040 broccoli|8080a0 carrot|406000 hot dog|"
    "0080c0 pizza|0080a0 donut|c0e000 cake|008040 chair|808020 couch|c02080 potted plant|"
    "0040c0 bed|000020 dining table|40a080 toilet|804040 tv|8000a0 laptop|402080 mouse|"
    "80c0c0 remote|0000a0 keyboard|c0a080 cell phone|80c000 microwave|800060 oven|c02000 toaster|"
    "804080 sink|408060 refrigerator|40a000 book|004000 clock|c080e0 vase|402000 scissors|"
    "00c080 teddy bear|4080e0 hair drier|c0a000 toothbrush|00c000 banner|c08060 blanket|"
    "c06080 branch|004080 bridge|400060 building-other|40e080 bush|804000 cabinet|c000e0 cage|"
    "406080 cardboard|80c080 carpet|4000e0 ceiling-other|c0e080 ceiling-tile|80c040 cloth|"
    "c00060 clothes|c06000 clouds|8040c0 counter|008060 cupboard|00e000 curtain|404040 desk-stuff|"
    "8080e0 dirt|006000 door-stuff|40c0c0 fence|0080e0 floor-marble|80e000 floor-other|"
    "40c040 floor-stone|808060 floor-tile|802080 floor-wood|4000c0 flower|004060 fog|"
    "00a080 food-other|c00040 fruit|8040e0 furniture-other|002080 grass|c080c0 gravel|"
    "0040e0 ground-other|80a080 hill|c08000 house|804020 leaves|802040 light|c00080 mat|"
    "40c020 metal|00a040 mirror-stuff|400000 moss|c0c0a0 mountain|002040 mud|408080 napkin|"
    "40c0a0 net|80a040 paper|408000 pavement|c0c020 pillow|8060c0 plant-other|400080 plastic|"
    "404020 platform|00e0c0 playingfield|c00000 railing|c040a0 railroad|0060c0 river|c08080 road|"
    "4040a0 rock|80e0c0 roof|c08040 rug|c04020 salad|806040 sand|c000c0 sea|00c020 shelf|"
    "40e040 sky-other|400040 skyscraper|80c0a0 snow|406040 solid-other|4080c0 stairs|00c0a0 stone|"
    "c0e040 straw|408040 structural-other|80c020 table|c020c0 tent|4040c0 textile-other|"
    "004020 towel|40a0c0 tree|c04040 vegetable|8040a0 wall-brick|4020c0 wall-concrete|"
    "c0c0c0 wall-other|0040a0 wall-panel|c0a0c0 wall-stone|c0c000 wall-tile|804060 wall-wood|"
    "c02040 water-other|c04080 waterdrops|40c060 window-blind|40a040 window-other|404000 wood"
)


@published(
    _COCO_STUFF,
    "cocostuff",
    "cocostuff10k",
    "cocostuff164k",
    "coco-stuff",
    "coco-stuff10k",
    "coco-stuff164k",
    "coco_stuff",
    "coco_stuff10k",
    "coco_stuff164k",
    labels="_labelTrainIds.png",
)
class COCOStuffDataset(BaseSegDataset):
    """COCO-Stuff, 171 classes of things and stuff: ``images/<split>``, ``annotations/<split>``.

    The 164k set has labels 0..170 and 255 is ignored. The 10k set has labels 1..171 and takes
    ``reduce_zero_label=True``.
    """


_VESSELS = "787878 background|06e6e6 vessel"


@published(_VESSELS, "drive", images=".png", labels="_manual1.png")
class DRIVEDataset(BaseSegDataset):
    """DRIVE, vessels of the retina: ``21.png``, ``21_manual1.png``.

    Masks as released hold 0 and 255: they take ``label_map={255: 1}``.
    """


@published(_VESSELS, "chase_db1", images=".png", labels="_1stHO.png")
class ChaseDB1Dataset(BaseSegDataset):
    """CHASE-DB1, vessels of the retina: ``Image_01L.png``, ``Image_01L_1stHO.png``.

    Masks as released hold 0 and 255: they take ``label_map={255: 1}``.
    """


@published(_VESSELS, "stare", "STARE", images=".png", labels=".ah.png")
class STAREDataset(BaseSegDataset):
    """STARE, vessels of the retina: ``im0001.png``, ``im0001.ah.png``.

    Masks as released hold 0 and 255: they take ``label_map={255: 1}``.
    """


@published(_VESSELS, "hrf", images=".png")
class HRFDataset(BaseSegDataset):
    """HRF, vessels of the retina: ``01_dr.png`` in both folders.

    Masks as released hold 0 and 255: they take ``label_map={255: 1}``.
    """


_LOVEDA = (
    "ffffff background|ff0000 building|ffff00 road|0000ff water|9f81b7 barren|00ff00 forest|"
    "ffc380 agricultural"
)
_ISPRS = (
    "ffffff impervious_surface|0000ff building|00ffff low_vegetation|00ff00 tree|ffff00 car|"
    "ff0000 clutter"
)
_ISAID = (
    "000000 background|00003f ship|003f3f store_tank|003f00 baseball_diamond|003f7f tennis_court|"
    "003fbf basketball_court|003fff Ground_Track_Field|007f3f Bridge|007f7f Large_Vehicle|"
    "00007f Small_Vehicle|0000bf Helicopter|0000ff Swimming_pool|00bf7f Roundabout|"
    "007fbf Soccer_ball_field|007fff plane|00649b Harbor"
)


@published(_LOVEDA, "loveda", images=".png", reduce_zero_label=True)
class LoveDADataset(BaseSegDataset):
    """LoveDA, land cover from above: labels 1..7 as released, 0 is "no data" and ignored."""


@published(_ISPRS, "potsdam", images=".png", reduce_zero_label=True)
class PotsdamDataset(BaseSegDataset):
    """ISPRS Potsdam, cut into tiles: ``img_dir/<split>``, ``ann_dir/<split>``; 0 is ignored."""


@published(_ISPRS, "vaihingen", images=".png", reduce_zero_label=True)
class ISPRSDataset(BaseSegDataset):
    """ISPRS Vaihingen, cut into tiles: ``img_dir/<split>``, ``ann_dir/<split>``; 0 is ignored."""


@published(_ISAID, "isaid", "iSAID", images=".png", labels="_instance_color_RGB.png")
class iSAIDDataset(BaseSegDataset):  # noqa: N801 - the registered name
    """iSAID, objects from above, cut into tiles: ``img_dir/<split>``, ``ann_dir/<split>``.

    Masks as released are painted: they take ``palette_to_index=True``.
    """
