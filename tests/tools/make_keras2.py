"""Make genuine Keras 2 files of classifiers, as users have them: run by the Python of an environment with Keras 2.

    make keras2-files                                                 (environments and files in build/keras2)
    .venv-keras2/2.15.1/bin/python tests/tools/make_keras2.py OUT                                (small stand-ins)
    .venv-keras2/2.15.1/bin/python tests/tools/make_keras2.py OUT --full model.keras         (the real ResNet50V2)
    .venv-keras2/2.15.1/bin/python tests/tools/make_keras2.py tests/keras_files/genuine --tiny   (committed files)

TensorFlow 2.12 to 2.15 bring Keras 2; the folder is named after its version. ``answers.json`` in it holds what that
Keras answers for four drawn images (``images_of``), so that a test can compare with what the author of a file saw. The
tool imports nothing of glomedge, which needs a newer TensorFlow.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import shutil
import tarfile
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
from tensorflow import keras

layers = keras.layers
Arrays = dict[str, list[npt.NDArray[Any]]]
SEED = 7


def _block(x: Any, filters: int, stride: int, name: str, first: bool) -> Any:
    """One residual block of ResNetV2, as in keras.applications (pre-activation)."""
    preact = layers.BatchNormalization(epsilon=1.001e-5, name=f"{name}_preact_bn")(x)
    preact = layers.Activation("relu", name=f"{name}_preact_relu")(preact)
    if first:
        shortcut = layers.Conv2D(4 * filters, 1, strides=stride, name=f"{name}_0_conv")(preact)
    else:
        shortcut = layers.MaxPooling2D(1, strides=stride, name=f"{name}_pool")(x) if stride > 1 else x
    x = layers.Conv2D(filters, 1, use_bias=False, name=f"{name}_1_conv")(preact)
    x = layers.BatchNormalization(epsilon=1.001e-5, name=f"{name}_1_bn")(x)
    x = layers.Activation("relu", name=f"{name}_1_relu")(x)
    x = layers.ZeroPadding2D(((1, 1), (1, 1)), name=f"{name}_2_pad")(x)
    x = layers.Conv2D(filters, 3, strides=stride, use_bias=False, name=f"{name}_2_conv")(x)
    x = layers.BatchNormalization(epsilon=1.001e-5, name=f"{name}_2_bn")(x)
    x = layers.Activation("relu", name=f"{name}_2_relu")(x)
    x = layers.Conv2D(4 * filters, 1, name=f"{name}_3_conv")(x)
    return layers.Add(name=f"{name}_out")([shortcut, x])


def _small_backbone(side_px: int, pooling: str | None, blocks: int) -> Any:
    """A network of ResNet50V2's layer types with few filters; ``blocks`` 0 leaves three convolutions and two norms."""
    images = keras.Input((side_px, side_px, 3))
    x = layers.ZeroPadding2D(((3, 3), (3, 3)), name="conv1_pad")(images)
    x = layers.Conv2D(8 if blocks else 2, 7, strides=2, name="conv1_conv")(x)
    if blocks:
        x = layers.ZeroPadding2D(((1, 1), (1, 1)), name="pool1_pad")(x)
        x = layers.MaxPooling2D(3, strides=2, name="pool1_pool")(x)
    for stack in range(2 if blocks else 0):
        for block in range(blocks):
            last = block == blocks - 1
            x = _block(x, 4 << stack, 2 if last else 1, f"conv{stack + 2}_block{block + 1}", block == 0)
    if not blocks:
        # Of one shape, so that weights in a wrong order show.
        x = layers.BatchNormalization(name="conv1_bn")(x)
        x = layers.Conv2D(2, 1, name="conv2_conv")(x)
        x = layers.Conv2D(2, 1, name="conv3_conv")(x)
    x = layers.BatchNormalization(epsilon=1.001e-5, name="post_bn")(x)
    x = layers.Activation("relu", name="post_relu")(x)
    if pooling == "avg":
        x = layers.GlobalAveragePooling2D(name="avg_pool")(x)
    return keras.Model(images, x, name="resnet50v2")


def _weights_of(path: Path) -> Arrays:
    """Arrays of backbone and head by layer name, of a model that glomedge trained (Keras 3's file, without Keras 3)."""
    with zipfile.ZipFile(path) as archive:
        config = json.loads(archive.read("config.json"))
        backbone = next(layer for layer in config["config"]["layers"] if layer["config"]["name"] == "resnet50v2")
        with archive.open("model.weights.h5") as handle, h5py.File(handle, "r") as weights:
            found: Arrays = {"probability": _vars(weights["layers"]["dense"])} if "dense" in weights["layers"] else {}
            (root,) = (group["layers"] for name, group in weights["layers"].items() if "layers" in group)
            used: Counter[str] = Counter()
            for layer in backbone["config"]["layers"]:
                name, kind = layer["config"]["name"], _snake_case(layer["class_name"])
                by_class = f"{kind}_{used[kind]}" if used[kind] else kind
                used[kind] += 1
                group = root[name] if name in root else root.get(by_class)
                if group is not None and "vars" in group:
                    found[name] = _vars(group)
    scaling = next(layer for layer in config["config"]["layers"] if layer["config"]["name"] == "scaling")
    if scaling["config"]["mode"] == "resnet":
        found["conv1_conv"] = _for_unit_range(*found["conv1_conv"])
    return found


def _for_unit_range(kernel: npt.NDArray[Any], bias: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
    """The first convolution for pixels scaled as ``x / 127.5 - 1`` (RGB), of one for BGR minus the ImageNet means.

    The published structure scales so. Equal but for the border, where the picture is padded after its scaling.
    """
    mean_bgr = np.array([103.939, 116.779, 123.68])
    bias = bias + np.einsum("hwio,i->o", kernel.astype(np.float64), 127.5 - mean_bgr)
    return [(127.5 * kernel[:, :, ::-1]).astype(np.float32), bias.astype(np.float32)]


def _vars(group: Any) -> list[npt.NDArray[Any]]:
    return [group["vars"][str(index)][()] for index in range(len(group["vars"]))]


def _snake_case(name: str) -> str:
    return {"Conv2D": "conv2d", "BatchNormalization": "batch_normalization"}.get(name, name.lower())


def _make_realistic(backbone: Any, given: Arrays | None, side_px: int) -> None:
    """Give a backbone these weights, or seeded ones with the BatchNorm statistics that they have on images.

    Untouched statistics (mean 0, variance 1) would hide a norm that was forgotten or read in the wrong order.
    """
    norms = [layer for layer in backbone.layers if isinstance(layer, layers.BatchNormalization)]
    if given is not None:
        for layer in backbone.layers:
            if layer.weights:
                layer.set_weights(given[layer.name])
        return
    rng = np.random.default_rng(SEED)
    for layer in norms:
        size = layer.moving_mean.shape[0]
        # Some norms have no gamma or no beta.
        first = [rng.uniform(0.6, 1.4, size)] if layer.scale else []
        layer.set_weights([*first, rng.normal(0.0, 0.2, size), np.zeros(size), np.ones(size)])
        layer.momentum = 0.0
    scales_itself = any(isinstance(layer, layers.Rescaling) for layer in backbone.layers)
    backbone(images_of(side_px) if scales_itself else images_of(side_px) / 127.5 - 1, training=True)
    for layer in norms:
        layer.momentum = 0.99


class Maker:
    """Builds every structure round one kind of backbone.

    Args:
        side_px: of the square input.
        network: the name of a network of ``keras.applications`` instead of a small stand-in.
        blocks: residual blocks in each of the stand-in's two stacks.
        given: weights of the backbone by layer name.
    """

    def __init__(self, side_px: int, network: str | None, blocks: int, given: Arrays | None = None) -> None:
        self.side_px, self.network, self.blocks, self.given = side_px, network, blocks, given

    def backbone(self, pooling: str | None = None) -> Any:
        """A new one with realistic weights."""
        if self.network is None:
            base = _small_backbone(self.side_px, pooling, self.blocks)
        else:
            build, shape = getattr(keras.applications, self.network), (self.side_px, self.side_px, 3)
            base = build(include_top=False, weights=None, input_shape=shape, pooling=pooling)
        _make_realistic(base, self.given, self.side_px)
        return base

    def around(self, scaling: Callable[[Any], Any], head: Callable[[Any], Any], augmented: bool = False) -> Any:
        """Images -> augmentation -> scaling -> nested backbone -> average -> head."""
        images = keras.Input((self.side_px, self.side_px, 3))
        x = images
        if augmented:
            x = keras.Sequential([layers.RandomFlip("horizontal_and_vertical"), layers.RandomRotation(0.15)])(x)
        x = self.backbone()(scaling(x), training=False)
        return keras.Model(images, head(layers.GlobalAveragePooling2D()(x)))


def _dense(units: int, activation: str | None) -> Callable[[Any], Any]:
    # Named dtype: under a mixed policy the usual advice is a float32 answer.
    return lambda x: layers.Dense(units, activation=activation, dtype="float32")(layers.Dropout(0.3)(x))


def _caffe(x: Any) -> Any:
    return keras.applications.resnet.preprocess_input(x)


def _tf_mode(x: Any) -> Any:
    return keras.applications.resnet_v2.preprocess_input(x)


def _rescaling(x: Any) -> Any:
    return layers.Rescaling(1 / 127.5, offset=-1)(x)


def _normalization(x: Any) -> Any:
    return layers.Normalization(mean=[123.7, 116.8, 103.9], variance=[3409.0, 3260.0, 3294.0])(x)


def _hidden(x: Any) -> Any:
    return _dense(1, "sigmoid")(layers.Dense(8, activation="relu")(x))


def _flat(maker: Maker) -> Any:
    base = maker.backbone()
    x = layers.GlobalAveragePooling2D()(base.output)
    return keras.Model(base.input, _dense(1, "sigmoid")(x))


def _sequential(maker: Maker) -> Any:
    head = [layers.GlobalAveragePooling2D(), layers.Dropout(0.3), layers.Dense(1, activation="sigmoid")]
    first = layers.Rescaling(1 / 127.5, offset=-1, input_shape=(maker.side_px, maker.side_px, 3))
    return keras.Sequential([first, maker.backbone(), *head])


def _pooling_avg(maker: Maker) -> Any:
    images = keras.Input((maker.side_px, maker.side_px, 3))
    return keras.Model(images, _dense(1, "sigmoid")(maker.backbone("avg")(_tf_mode(images))))


def _mixed(maker: Maker) -> Any:
    keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        return maker.around(_tf_mode, _dense(1, "sigmoid"))
    finally:
        keras.mixed_precision.set_global_policy("float32")


STRUCTURES: dict[str, Callable[[Maker], Any]] = {
    "published": lambda maker: maker.around(_tf_mode, _dense(1, "sigmoid"), augmented=True),
    "published_caffe": lambda maker: maker.around(_caffe, _dense(1, "sigmoid"), augmented=True),
    "flat": _flat,
    "nested": lambda maker: maker.around(lambda x: x, _dense(1, "sigmoid")),
    "sequential": _sequential,
    "pooling_avg": _pooling_avg,
    "rescaling": lambda maker: maker.around(_rescaling, _dense(1, "sigmoid")),
    "normalization": lambda maker: maker.around(_normalization, _dense(1, "sigmoid")),
    "head_logit": lambda maker: maker.around(_tf_mode, _dense(1, None)),
    "head_softmax": lambda maker: maker.around(_tf_mode, _dense(2, "softmax")),
    "head_hidden": lambda maker: maker.around(_tf_mode, _hidden),
    "mixed": _mixed,
}
TINY = ("published", "published_caffe", "sequential", "head_softmax", "mixed")
# Keras 2.12 writes HDF5 under the suffix .keras, unless told otherwise.
FORMATS = (".keras", ".h5", "_savedmodel", "_v3.keras")


def images_of(side_px: int) -> npt.NDArray[np.float32]:
    """Four images, float32 [4, side, side, 3], whole numbers 0..255: from a generator that NumPy never changes."""
    draw = np.random.RandomState(SEED)
    colours, noise = draw.randint(0, 256, (4, 1, 1, 3)), draw.randint(0, 256, (4, side_px, side_px, 3))
    return np.round(0.7 * colours + 0.3 * noise).astype(np.float32)


def _spread_answers(model: Any, images: npt.NDArray[np.float32]) -> None:
    """Rescale the last layer so that the answers lie on both sides of one half, none of them near 0 or 1."""
    last = model.layers[-1]
    kernel, _ = last.get_weights()
    before = np.asarray(keras.Model(model.input, last.input)(images, training=False), np.float64)
    logits = before @ kernel
    factor = 2.0 / np.ptp(logits, axis=0)
    last.set_weights([kernel * factor, -logits.mean(axis=0) * factor])


def make(name: str, maker: Maker, folder: Path, version: str) -> dict[str, Any]:
    """Write one structure in every format; its answers, and what this Keras could not write."""
    keras.backend.clear_session()
    keras.utils.set_random_seed(SEED)
    model = STRUCTURES[name](maker)
    images = images_of(maker.side_px)
    last, head = model.layers[-1], (maker.given or {}).get("probability")
    if head is not None and [array.shape for array in head] == [array.shape for array in last.get_weights()]:
        last.set_weights(head)
    else:
        _spread_answers(model, images)
    unwritten = {}
    for suffix in FORMATS:
        path = folder / f"{name}{suffix}"
        options = {"_savedmodel": {"save_format": "tf"}, "_v3.keras": {"save_format": "keras_v3"}}.get(suffix, {})
        if suffix == "_v3.keras" and not version.startswith("2.12."):
            continue
        try:
            model.save(path, **options)
        # Keras 2 cannot write x[..., ::-1], part of preprocess_input, into a .keras.
        except TypeError as error:
            path.unlink(missing_ok=True)
            unwritten[path.name] = str(error)
    answers = np.asarray(model(images, training=False), np.float32)
    return {"answers": answers.tolist(), "unwritten": unwritten}


def main() -> None:
    """Parse the command line and write the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="a folder, made where it is missing")
    parser.add_argument("--structures", nargs="*", choices=list(STRUCTURES), help="default: all")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--tiny", action="store_true", help="few layers, side 32, packed as .tar.xz: the committed files")
    size.add_argument(
        "--full", nargs="?", const="", metavar="MODEL.keras", help="ResNet50V2 at 224, weights of this model or seeded"
    )
    size.add_argument("--network", metavar="NAME", help="another network of keras.applications, such as InceptionV3")
    parser.add_argument("--side", type=int, default=224, metavar="PX", help="of the input, with --network")
    options = parser.parse_args()
    version = importlib.metadata.version("keras")
    if not version.startswith("2."):
        raise SystemExit(f"This is Keras {version}: run the tool in an environment with TensorFlow 2.12 to 2.15.")
    if options.full is not None:
        maker = Maker(224, "ResNet50V2", 0, _weights_of(Path(options.full)) if options.full else None)
    elif options.network:
        maker = Maker(options.side, options.network, 0)
    else:
        maker = Maker(32 if options.tiny else 64, None, 0 if options.tiny else 2)
    folder = options.output / f"keras-{version}"
    folder.mkdir(parents=True, exist_ok=True)
    made: dict[str, Any] = {"keras_version": version, "side_px": maker.side_px, "structures": {}}
    for name in options.structures or (TINY if options.tiny else STRUCTURES):
        made["structures"][name] = make(name, maker, folder, version)
        print(folder / name, made["structures"][name]["unwritten"] or "", flush=True)
    (folder / "answers.json").write_text(json.dumps(made, indent=1), encoding="utf-8")
    if options.tiny:
        with tarfile.open(f"{folder}.tar.xz", "w:xz", preset=9) as archive:
            archive.add(folder, folder.name, filter=_anonymous)
        shutil.rmtree(folder)


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = member.mtime = 0
    member.uname = member.gname = ""
    return member


if __name__ == "__main__":
    main()
