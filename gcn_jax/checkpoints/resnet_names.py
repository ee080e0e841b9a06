"""How libraries name a ResNet's modules, in PyTorch."""

import dataclasses
import re
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass

_BLOCK = re.compile(r"res([2-5])_block([1-9]\d*)")


@dataclass(frozen=True)
class Naming:
    """How a library names a ResNet's modules.

    Attributes:
      title: the library's name.
      stem: our names of the modules outside the blocks -> theirs.
      block: the beginning of the names of a block's modules, with {} for the stage and {} for the block.
      first_stage: their number for res-2; blocks are counted from 0.
      parts: our names of a block's modules -> theirs.
      own: a regular expression for the beginning of all keys that belong to a backbone.
    """

    title: str
    stem: dict[str, str]
    block: str
    first_stage: int
    parts: dict[str, str]
    own: str

    def module(self, path: tuple[str, ...]) -> str | None:
        """Their name of our module ``("conv1",)`` or ``("res2_block1", "norm_proj")``; None if they have none."""
        if len(path) == 1:
            return self.stem.get(path[0])
        match = _BLOCK.fullmatch(path[0])
        part = self.parts.get(path[1]) if len(path) == 2 else None
        if not match or part is None:
            return None
        stage, block = (int(number) for number in match.groups())
        return self.block.format(stage - 2 + self.first_stage, block - 1) + part

    def stage_sizes(self, names: Collection[str]) -> tuple[int, ...]:
        """The number of blocks in each stage, from a file's keys without their prefix."""
        pattern = re.compile(self.block.replace(".", r"\.").replace("{}", r"(\d)", 1).replace("{}", r"(\d+)"))
        blocks = {found.groups() for name in names if (found := pattern.match(name))}
        count = Counter(int(stage) - self.first_stage for stage, _ in blocks)
        return tuple(count[stage] for stage in range(max(*count, 3) + 1))

    def with_deep_stem(self, names: Collection[str]) -> "Naming | None":
        """The same with the names of the deep stem that a file has; None if it has none.

        Args:
          names: the file's keys, without their prefix.
        """
        for library, stem in _DEEP_STEMS.items():
            if f"{stem['conv3']}.weight" in names:
                return dataclasses.replace(self, title=f"{self.title} and {library}", stem=stem)
        return None


# Our names of the modules of a deep stem -> those that files have, in which blocks have torchvision's names.
_DEEP_STEMS = {
    "semseg": {f"{kind}{i}": f"{their}{i}" for kind, their in (("conv", "conv"), ("norm", "bn")) for i in (1, 2, 3)},
    "timm": {
        **{f"conv{i}": f"conv1.{3 * i - 3}" for i in (1, 2, 3)},
        **{"norm1": "conv1.1", "norm2": "conv1.4", "norm3": "bn1"},
    },
    "mmsegmentation": {
        **{f"conv{i}": f"stem.{3 * i - 3}" for i in (1, 2, 3)},
        **{f"norm{i}": f"stem.{3 * i - 2}" for i in (1, 2, 3)},
    },
}
_NUMBERED = {f"conv{i}": f"conv{i}" for i in (1, 2, 3)} | {f"norm{i}": f"bn{i}" for i in (1, 2, 3)}
NAMINGS = (
    Naming(
        title="torchvision",
        stem={"conv1": "conv1", "norm1": "bn1"},
        block="layer{}.{}.",
        first_stage=1,
        parts={**_NUMBERED, "conv_proj": "downsample.0", "norm_proj": "downsample.1"},
        own=r"(conv|bn|layer)\d|stem\.",
    ),
    Naming(
        title="Hugging Face",
        stem={"conv1": "embedder.embedder.convolution", "norm1": "embedder.embedder.normalization"},
        block="encoder.stages.{}.layers.{}.",
        first_stage=0,
        parts={
            **{f"conv{i}": f"layer.{i - 1}.convolution" for i in (1, 2, 3)},
            **{f"norm{i}": f"layer.{i - 1}.normalization" for i in (1, 2, 3)},
            "conv_proj": "shortcut.convolution",
            "norm_proj": "shortcut.normalization",
        },
        own=r"(embedder|encoder)\.",
    ),
)
