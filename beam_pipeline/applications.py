"""The table of all `keras.applications`: constructor, preprocessing, sizes. Plain data; Keras is not imported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from beam_pipeline.errors import ConfigurationError, nearest


@dataclass(frozen=True)
class Application:
    """One constructor of `keras.applications`.

    Args:
      name: of the constructor, such as `ResNet50`.
      module: of `keras.applications` that holds its `preprocess_input`.
      preprocessing: `caffe` (RGB to BGR, mean subtracted), `tf` (to -1..1), `torch` (mean and deviation), or `model`
        (inside the model itself).
      default_size: side of its default input in pixels; all are square.
      smallest_size: the smallest side that it takes, in pixels.
      vector_size: number of pooled features, with default arguments.
      parameters: without the classifier on top.
      parameters_with_top: with the classifier for 1,000 classes.
      arguments: further arguments of the constructor that a user may set.
    """

    name: str
    module: str
    preprocessing: str
    default_size: int
    smallest_size: int
    vector_size: int
    parameters: int
    parameters_with_top: int
    arguments: tuple[str, ...]


# What every constructor takes; both concern the classifier on top.
_COMMON_ARGUMENTS = ("classes", "classifier_activation")
_SCALES = ("include_preprocessing",)
_V3 = ("alpha", "minimalistic", "dropout_rate", "include_preprocessing")


def _app(name: str, *row: Any) -> tuple[str, Application]:
    arguments = (*row[-1], *_COMMON_ARGUMENTS)
    return name, Application(*(name, *row[:-1], arguments))


# Read off Keras 3.15.1 by building each model with and without the top; a test builds them all and compares.
# fmt: off
APPLICATIONS: Mapping[str, Application] = dict([
    # name, module, preprocessing, default and smallest size, vector, parameters without and with top, arguments
    _app("ConvNeXtTiny", "convnext", "model", 224, 32, 768, 27_820_128, 28_589_128, _SCALES),
    _app("ConvNeXtSmall", "convnext", "model", 224, 32, 768, 49_454_688, 50_223_688, _SCALES),
    _app("ConvNeXtBase", "convnext", "model", 224, 32, 1024, 87_566_464, 88_591_464, _SCALES),
    _app("ConvNeXtLarge", "convnext", "model", 224, 32, 1536, 196_230_336, 197_767_336, _SCALES),
    _app("ConvNeXtXLarge", "convnext", "model", 224, 32, 2048, 348_147_968, 350_196_968, _SCALES),
    _app("DenseNet121", "densenet", "torch", 224, 32, 1024, 7_037_504, 8_062_504, ()),
    _app("DenseNet169", "densenet", "torch", 224, 32, 1664, 12_642_880, 14_307_880, ()),
    _app("DenseNet201", "densenet", "torch", 224, 32, 1920, 18_321_984, 20_242_984, ()),
    _app("EfficientNetB0", "efficientnet", "model", 224, 32, 1280, 4_049_571, 5_330_571, ()),
    _app("EfficientNetB1", "efficientnet", "model", 240, 32, 1280, 6_575_239, 7_856_239, ()),
    _app("EfficientNetB2", "efficientnet", "model", 260, 32, 1408, 7_768_569, 9_177_569, ()),
    _app("EfficientNetB3", "efficientnet", "model", 300, 32, 1536, 10_783_535, 12_320_535, ()),
    _app("EfficientNetB4", "efficientnet", "model", 380, 32, 1792, 17_673_823, 19_466_823, ()),
    _app("EfficientNetB5", "efficientnet", "model", 456, 32, 2048, 28_513_527, 30_562_527, ()),
    _app("EfficientNetB6", "efficientnet", "model", 528, 32, 2304, 40_960_143, 43_265_143, ()),
    _app("EfficientNetB7", "efficientnet", "model", 600, 32, 2560, 64_097_687, 66_658_687, ()),
    _app("EfficientNetV2B0", "efficientnet_v2", "model", 224, 32, 1280, 5_919_312, 7_200_312, _SCALES),
    _app("EfficientNetV2B1", "efficientnet_v2", "model", 240, 32, 1280, 6_931_124, 8_212_124, _SCALES),
    _app("EfficientNetV2B2", "efficientnet_v2", "model", 260, 32, 1408, 8_769_374, 10_178_374, _SCALES),
    _app("EfficientNetV2B3", "efficientnet_v2", "model", 300, 32, 1536, 12_930_622, 14_467_622, _SCALES),
    _app("EfficientNetV2S", "efficientnet_v2", "model", 384, 32, 1280, 20_331_360, 21_612_360, _SCALES),
    _app("EfficientNetV2M", "efficientnet_v2", "model", 480, 32, 1280, 53_150_388, 54_431_388, _SCALES),
    _app("EfficientNetV2L", "efficientnet_v2", "model", 480, 32, 1280, 117_746_848, 119_027_848, _SCALES),
    _app("InceptionResNetV2", "inception_resnet_v2", "tf", 299, 75, 1536, 54_336_736, 55_873_736, ()),
    _app("InceptionV3", "inception_v3", "tf", 299, 75, 2048, 21_802_784, 23_851_784, ()),
    _app("MobileNet", "mobilenet", "tf", 224, 32, 1024, 3_228_864, 4_253_864, ("alpha", "depth_multiplier", "dropout")),
    _app("MobileNetV2", "mobilenet_v2", "tf", 224, 32, 1280, 2_257_984, 3_538_984, ("alpha",)),
    _app("MobileNetV3Small", "mobilenet_v3", "model", 224, 32, 576, 939_120, 2_554_968, _V3),
    _app("MobileNetV3Large", "mobilenet_v3", "model", 224, 32, 960, 2_996_352, 5_507_432, _V3),
    _app("NASNetMobile", "nasnet", "tf", 224, 32, 1056, 4_269_716, 5_326_716, ()),
    _app("NASNetLarge", "nasnet", "tf", 331, 32, 4032, 84_916_818, 88_949_818, ()),
    _app("ResNet50", "resnet", "caffe", 224, 32, 2048, 23_587_712, 25_636_712, ()),
    _app("ResNet101", "resnet", "caffe", 224, 32, 2048, 42_658_176, 44_707_176, ()),
    _app("ResNet152", "resnet", "caffe", 224, 32, 2048, 58_370_944, 60_419_944, ()),
    _app("ResNet50V2", "resnet_v2", "tf", 224, 32, 2048, 23_564_800, 25_613_800, ()),
    _app("ResNet101V2", "resnet_v2", "tf", 224, 32, 2048, 42_626_560, 44_675_560, ()),
    _app("ResNet152V2", "resnet_v2", "tf", 224, 32, 2048, 58_331_648, 60_380_648, ()),
    _app("VGG16", "vgg16", "caffe", 224, 32, 512, 14_714_688, 138_357_544, ()),
    _app("VGG19", "vgg19", "caffe", 224, 32, 512, 20_024_384, 143_667_240, ()),
    _app("Xception", "xception", "tf", 299, 71, 2048, 20_861_480, 22_910_480, ()),
])
# fmt: on


def application(name: str) -> Application:
    """The entry of one application.

    Raises:
      ConfigurationError: for an unknown name, with the nearest ones.
    """
    if name not in APPLICATIONS:
        close = nearest(name, APPLICATIONS)
        raise ConfigurationError(f"unknown model {name!r}{close} 'beam-embed models' lists all {len(APPLICATIONS)}")
    return APPLICATIONS[name]
