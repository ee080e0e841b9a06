"""Pretrained backbones: ResNet weights in the names of torchvision, timm or Hugging Face, as our variables.

The file's keys show whose names it has; timm's are the same as torchvision's. Two things cannot be seen in a file, so
the user has to set them:

* which convolution of a stage halves the resolution, ``strides_in``: "v1.5" for torchvision, timm and Hugging Face,
  "v1" for weights that come from the original Caffe models (MSRA's);
* how images were normalised: in RGB, by ImageNet's mean and standard deviation, for "v1.5"; in BGR, by subtracting
  only the mean, for "v1".
"""

import pathlib
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import flax
import numpy as np

from gcn_jax.checkpoints.named_weights import local_file
from gcn_jax.checkpoints.resnet_names import NAMINGS, Naming
from gcn_jax.checkpoints.tensor_files import TensorFile, open_tensors, plain, read_float32
from gcn_jax.models.backbones.resnet import BASIC, STAGE_SIZES, STAGES, stem_of_bands

Variables = dict[str, Any]
_STEM = ("params", "backbone", "conv1", "kernel")
# Our names of arrays -> PyTorch's.
_LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}


@dataclass(frozen=True)
class LoadReport:
    """What was loaded from a file of weights, and what was not.

    Attributes:
      path: of the file.
      names: the library whose names it has.
      loaded: our variables that come from the file, such as "params/backbone/conv1/kernel".
      left: our variables that keep their initial values: the heads.
      unused: keys of the file that were not used: its classifier, counters.
      stem: how the file's stem for RGB became one for bands; empty: it is as in the file.
    """

    path: pathlib.Path
    names: str
    loaded: tuple[str, ...]
    left: tuple[str, ...]
    unused: tuple[str, ...]
    stem: str = ""

    def lines(self) -> list[str]:
        """A short summary for people, as lines of text."""
        heads = sorted({name.split("/")[1] for name in self.left})
        return [
            f"{self.path}: {len(self.loaded)} tensors of the backbone loaded, by {self.names}'s names",
            f"left at their start: {len(self.left)} tensors of {_some(heads)}",
            f"unused in the file: {_some([name for name in self.unused if not name.endswith('num_batches_tracked')])}",
            *([self.stem] if self.stem else []),
        ]


def load_backbone(variables: Variables, path: str | pathlib.Path, stem: str = "mean") -> Variables:
    """Puts pretrained ResNet weights into a model's variables.

    Args:
      variables: of a model from `build_model`, ``{"params": ..., "batch_stats": ...}``; not changed.
      path: a ``.safetensors`` or ``.npz`` file; or a ``.pth``, ``.pt`` or ``.bin`` file, which needs PyTorch. Its keys
        are those of torchvision, timm or Hugging Face, possibly after a prefix such as "module.". Or a name:
        "torchvision:resnet152", where torchvision is installed; "hf://timm/resnet152.tv_in1k@REVISION", of the Hugging
        Face Hub, with the extra ``hub``; "hf://USER/MODEL/FILE.safetensors" of another file than model.safetensors.
      stem: how the file's stem for RGB becomes one for a model of other `channels`, if they are not equal: "mean",
        "repeat" or "copy", see `gcn_jax.models.backbones.resnet.stem_of_bands`.

    Returns:
      New variables. The backbone's kernels, scales, biases and running statistics come from the file, as float32; all
      others are as before. What else the file holds, such as a classifier, is not used.

    Raises:
      ValueError: naming the file and what is wrong with it: unreadable, damaged, another architecture, a missing
        tensor, a wrong shape, a value that is not finite; or a name that cannot be fetched.

    Examples:
      A file in torchvision's names for a tiny ResNet, all of whose weights are 1:

      >>> import gcn_jax, numpy as np
      >>> from gcn_jax.models import init_variables
      >>> def norm(name, channels):
      ...     return {f"{name}.{part}": np.ones(channels) for part in ("weight", "bias", "running_mean", "running_var")}
      >>> weights = {"conv1.weight": np.ones((4, 3, 7, 7)), **norm("bn1", 4)}
      >>> for i, (inputs, width) in enumerate([(4, 4), (16, 8), (32, 16), (64, 32)], 1):
      ...     shapes = {"conv1": (width, inputs, 1, 1), "conv2": (width, width, 3, 3)}
      ...     shapes |= {"conv3": (4 * width, width, 1, 1), "downsample.0": (4 * width, inputs, 1, 1)}
      ...     for name, shape in shapes.items():
      ...         bn = name.replace("conv", "bn").replace("downsample.0", "downsample.1")
      ...         weights |= {f"layer{i}.0.{name}.weight": np.ones(shape), **norm(f"layer{i}.0.{bn}", shape[0])}
      >>> np.savez("resnet14.npz", **weights)

      Loaded into a model with that backbone:

      >>> model = gcn_jax.build_model(num_classes=2, backbone="resnet14", width=4, kernel_size=3)
      >>> variables = gcn_jax.load_backbone(init_variables(model, seed=0), "resnet14.npz")
      >>> kernel = variables["params"]["backbone"]["conv1"]["kernel"]
      >>> kernel.shape, kernel.dtype, bool((kernel == 1).all())
      ((7, 7, 3, 4), dtype('float32'), True)
    """
    return read_backbone(variables, local_file("path", str(path)), stem)[0]


def read_backbone(variables: Variables, path: str | pathlib.Path, stem: str = "mean") -> tuple[Variables, LoadReport]:
    """Does what `load_backbone` does; also returns what was loaded, left and unused."""
    path = pathlib.Path(path)
    flat = flax.traverse_util.flatten_dict(variables)
    leaves = {leaf: value for leaf, value in flat.items() if leaf[1] == "backbone"}
    if not leaves:
        raise ValueError(f"variables must be those of a model with a backbone. Got {', '.join(variables)}")
    with open_tensors(path) as file:
        naming, prefix = _naming(path, file)
        naming = _with_stem(path, naming, prefix, file, leaves)
        names = _names(path, naming, prefix, leaves)
        _check_structure(path, naming, prefix, file, leaves)
        shapes = {names[leaf]: _their_shape(leaves[leaf]) for leaf in leaves}
        channels = shapes[names[_STEM]][1]
        is_adapted = channels != 3 and file.shapes.get(names[_STEM], (0, 0))[1:2] == (3,)
        if is_adapted:
            shapes[names[_STEM]] = (shapes[names[_STEM]][0], 3, *shapes[names[_STEM]][2:])
        _check_tensors(path, naming, prefix, file, shapes)
        loaded = {leaf: _ours(read_float32(path, file, name)) for leaf, name in names.items()}
        unused = sorted(set(file.shapes) - set(names.values()))
    for leaf, value in loaded.items():
        if leaf[-1] == "var" and value.min() < 0:
            raise ValueError(f"{path}: {names[leaf]} holds negative variances")
    if is_adapted:
        loaded[_STEM] = stem_of_bands(loaded[_STEM], channels, stem)
    report = LoadReport(
        path,
        naming.title,
        tuple("/".join(leaf) for leaf in loaded),
        tuple("/".join(leaf) for leaf in flat if leaf not in loaded),
        tuple(unused),
        f"the stem for RGB became one for {channels} bands, by config.init_stem={stem}" if is_adapted else "",
    )
    return flax.traverse_util.unflatten_dict({**flat, **loaded}), report


def _naming(path: pathlib.Path, file: TensorFile) -> tuple[Naming, str]:
    """The library whose names a file has, and the prefix before all of them, such as "module."."""
    found = []
    for naming in NAMINGS:
        first = naming.block.format(naming.first_stage, 0) + naming.parts["conv1"] + ".weight"
        pattern = re.compile(rf"((?:[\w-]+\.)*){re.escape(first)}")
        found += [(naming, match.group(1)) for name in file.shapes if (match := pattern.fullmatch(name))]
    if not found:
        raise ValueError(
            f"{path}: holds no ResNet in the names of torchvision, timm or Hugging Face; it holds {_some(file.shapes)}"
        )
    if len(found) > 1:
        prefixes = sorted(repr(prefix) for _, prefix in found)
        raise ValueError(f"{path}: holds {len(found)} ResNets, under {_some(prefixes)}; save one of them alone")
    return found[0]


def _with_stem(
    path: pathlib.Path, naming: Naming, prefix: str, file: TensorFile, leaves: Collection[tuple[str, ...]]
) -> Naming:
    """The names with those of the file's stem; raises `ValueError` unless that is as deep as the model's."""
    deep = naming.with_deep_stem({name.removeprefix(prefix) for name in file.shapes if name.startswith(prefix)})
    is_deep = any(leaf[2] == "conv2" for leaf in leaves)
    if is_deep and not deep:
        raise ValueError(f"{path}: has no deep stem, of three 3x3 convolutions; set config.model.stem=conv7x7")
    if deep and not is_deep:
        raise ValueError(f"{path}: has a deep stem, of three 3x3 convolutions; set config.model.stem=deep")
    return deep or naming


def _names(path: pathlib.Path, naming: Naming, prefix: str, leaves: Collection[tuple[str, ...]]) -> dict:
    """The file's key for each of our variables."""
    names = {}
    for leaf in leaves:
        module = naming.module(leaf[2:-1])
        if module is None:
            raise ValueError(
                f"{path}: holds a plain ResNet, but the model's backbone has {'/'.join(leaf[2:])}, which no published "
                f"ResNet has; choose a plain backbone"
            )
        names[leaf] = f"{prefix}{module}.{_LEAVES[leaf[-1]]}"
    return names


def _check_structure(
    path: pathlib.Path, naming: Naming, prefix: str, file: TensorFile, leaves: Collection[tuple[str, ...]]
) -> None:
    """Raises `ValueError` unless the file's ResNet has the same kind and numbers of blocks as the model's."""
    inner = [name.removeprefix(prefix) for name in file.shapes if name.startswith(prefix)]
    last = naming.block.format(naming.first_stage, 0) + naming.parts["conv3"] + ".weight"
    is_basic = last not in inner
    if is_basic != all(leaf[3] != "conv3" for leaf in leaves):
        count, depths, kind = (
            ("no", "-18 and -34", "bottlenecks") if is_basic else ("a", "-50 and deeper", "basic blocks")
        )
        raise ValueError(
            f"{path}: its blocks have {count} third convolution ({prefix}{last}), as in ResNet{depths}; "
            f"the model's backbone has {kind}"
        )
    blocks = {leaf[2] for leaf in leaves}
    wanted = tuple(sum(block.startswith(f"{stage}_") for block in blocks) for stage in STAGES)
    found = naming.stage_sizes(inner)
    if found != wanted:
        raise ValueError(f"{path}: is {_depth(found, is_basic)}; the model's backbone is {_depth(wanted, is_basic)}")


def _check_tensors(
    path: pathlib.Path, naming: Naming, prefix: str, file: TensorFile, wanted: Mapping[str, tuple[int, ...]]
) -> None:
    """Raises `ValueError` if tensors of the backbone are missing, unknown, or have the wrong shape."""
    missing = [name for name in wanted if name not in file.shapes]
    if missing:
        raise ValueError(f"{path}: lacks {_some(missing)} of a ResNet in {naming.title}'s names")
    own = re.compile(re.escape(prefix) + naming.own)
    unknown = [n for n in file.shapes if own.match(n) and n not in wanted and not n.endswith("num_batches_tracked")]
    if unknown:
        raise ValueError(f"{path}: another architecture than ResNet's, which has no {_some(unknown)}")
    wrong = [name for name in wanted if file.shapes[name] != wanted[name]]
    if wrong:
        wrong.sort(key=lambda name: -len(wanted[name]))  # a kernel's shape tells more than a scale's
        others = f" (and {len(wrong) - 1} more tensors)" if len(wrong) > 1 else ""
        name = wrong[0]
        raise ValueError(f"{path}: {name} is {file.shapes[name]}; the model's backbone needs {wanted[name]}{others}")


def _their_shape(leaf: Any) -> tuple[int, ...]:
    """The shape that one of our arrays has in PyTorch's layout, which is OIHW instead of our HWIO."""
    shape = np.shape(leaf)
    return (shape[3], shape[2], *shape[:2]) if len(shape) == 4 else shape


def _ours(array: np.ndarray) -> np.ndarray:
    """An array in our layout: a kernel OIHW becomes HWIO, all else stays."""
    return np.ascontiguousarray(array.transpose(2, 3, 1, 0)) if array.ndim == 4 else array


def _depth(sizes: tuple[int, ...], is_basic: bool) -> str:
    fitting = [name for name, known in STAGE_SIZES.items() if known == sizes and (name in BASIC) == is_basic]
    name = fitting[0] if fitting else "a ResNet of unknown depth"
    return f"{name} ({', '.join(map(str, sizes))} blocks)"


def _some(names: Collection[str], most: int = 4) -> str:
    """The first few names and how many more there are, as a line of text."""
    shown = ", ".join(plain(name) for name in list(names)[:most])
    return (shown or "nothing") + (f" and {len(names) - most} more" if len(names) > most else "")
