"""The models of a page: what it is told of each, and what can be switched."""

import dataclasses
import math
from typing import Any, NamedTuple

import ml_collections

from gcn_jax.config.settings import Protocol
from gcn_jax.data import bands
from gcn_jax.errors import UserError
from gcn_jax.inference.segmenter import Segmenter

_SCALES = (0.75, 1.0, 1.25)  # of the switch "several scales", where config.eval.scales names one; also mirrored
_CRF = "voc"  # of the switch "CRF", where config.eval.crf names none


class Switches(NamedTuple):
    """What can be switched on: several scales and mirrored images; the CRF."""

    multi_scale: bool
    crf: bool


class Model:
    """A trained model by its name.

    Attributes:
      name: of the model.
      step: of its weights.
      segmenter: the model, which labels as ``config.eval`` says.
      white: of its photos, ``config.data.white``.
      usual: the switches that are the same as ``config.eval``.
    """

    def __init__(self, name: str, step: int, segmenter: Segmenter, white: int = 0):
        self.name, self.step, self.segmenter, self.white = name, step, segmenter, white
        protocol = segmenter.protocol
        self.usual = Switches(len(protocol.scales) > 1 or protocol.flip, bool(protocol.crf))
        self._by_switches = {self.usual: segmenter}

    @property
    def scale(self) -> float:
        """Of ``config.eval.scales`` the one nearest to 1: by which a photo is resized if it is taken once."""
        return min(self.segmenter.protocol.scales, key=lambda scale: abs(math.log(scale)))

    @property
    def size(self) -> int:
        """The longest side that photos had in training, as far as is known: that of a crop, at the model's scale."""
        return round(self.segmenter.protocol.size / self.scale)

    def with_switches(self, switches: Switches) -> Segmenter:
        """The model as some switches say; made when it is first asked for."""
        if switches not in self._by_switches:
            changed = switched(self.segmenter.protocol, self.usual, switches, self.scale)
            self._by_switches[switches] = dataclasses.replace(self.segmenter, protocol=changed)
        return self._by_switches[switches]


def check_takes_photos(name: str, config: ml_collections.ConfigDict) -> None:
    """Raises `UserError` if a model takes no photos, or gives a pixel several classes: a page cannot show either."""
    if config.data.multi_label:
        raise UserError(
            f"{name}: its classes may overlap (config.data.multi_label), which the page cannot show; use --mode=predict"
        )
    if bands.parse(config.data.channels):
        raise UserError(
            f"{name}: takes bands (config.data.channels={config.data.channels}), not photos; use --mode=predict"
        )


def switched(protocol: Protocol, usual: Switches, wanted: Switches, scale: float) -> Protocol:
    """A protocol with some switches turned from how they usually are.

    Args:
      protocol: of the model.
      usual: the switches that it has.
      wanted: those that the result has.
      scale: of an image that is taken once.
    """
    values: dict[str, Any] = {}
    if wanted.multi_scale != usual.multi_scale:
        scales = tuple(scale * factor for factor in _SCALES) if wanted.multi_scale else (scale,)
        values |= {"scales": scales, "flip": wanted.multi_scale}
    if wanted.crf != usual.crf:
        values["crf"] = _CRF if wanted.crf else ""
    return dataclasses.replace(protocol, **values)


def describe(model: Model) -> dict[str, Any]:
    """What a page is told of a model, in types that JSON has."""
    return {
        "name": model.name,
        "step": model.step,
        "classes": [{"name": c.name, "color": list(c.color)} for c in model.segmenter.spec.classes],
        **model.usual._asdict(),
    }
