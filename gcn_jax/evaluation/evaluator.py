"""Evaluates a model on a source, during training and in ``--mode=eval``."""

import dataclasses
import itertools
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from gcn_jax.console import bar
from gcn_jax.data.batches import Reading, group_by_shape
from gcn_jax.data.pictures import triptych
from gcn_jax.data.samples import Sample, Selection, Source
from gcn_jax.data.specs import DatasetSpec
from gcn_jax.evaluation.calibration import Calibration
from gcn_jax.evaluation.counts import Counts
from gcn_jax.inference.labeller import Labeller
from gcn_jax.inference.maps import Maps
from gcn_jax.models.preprocessing import PyTree
from gcn_jax.runtime.mesh import gather, local_copy


@dataclass(frozen=True)
class LabelledImage:
    """The prediction for one image.

    Attributes:
      image_id: of the image.
      miou: the image's own mean IoU, 0-1; NaN if it is void everywhere.
      boundary_accuracy: the image's own, 0-1, see `Counts.accuracies`; NaN without such pixels. So is
      internal_accuracy.
      packed: the predicted labels, uint8 [H, W], as bytes that `zlib` has compressed.
    """

    image_id: str
    miou: float
    boundary_accuracy: float
    internal_accuracy: float
    packed: bytes


@dataclass
class Evaluation:
    """The outcome of an evaluation.

    Attributes:
      counts: the sum of all images' counts.
      loss: the sum over all pixels that are not void of minus the logarithm of the true class's probability.
      calibration: the same of their confidences.
      images: the prediction for each image, by the image's index in the source.
      pictures: for the first images a picture of image, truth and prediction, uint8 [H, W, 3].
    """

    counts: Counts
    loss: float = 0.0
    calibration: Calibration = field(default_factory=Calibration.empty)
    images: dict[int, LabelledImage] = field(default_factory=dict)
    pictures: list[np.ndarray] = field(default_factory=list)

    def pack(self) -> dict[str, Any]:
        """The evaluation in types that `gcn_jax.runtime.mesh.gather` can send."""
        images = {place: list(dataclasses.astuple(image)) for place, image in self.images.items()}
        counts, calibration = [self.counts.confusion, self.counts.boundary], self.calibration.counts
        scores = {"counts": counts, "loss": self.loss, "calibration": calibration}
        return {**scores, "images": images, "pictures": self.pictures}

    @classmethod
    def unpack(cls, packed: dict[str, Any]) -> "Evaluation":
        """The evaluation that `pack` has packed."""
        images = {place: LabelledImage(*fields) for place, fields in packed["images"].items()}
        calibration = Calibration(packed["calibration"])
        return cls(Counts(*packed["counts"]), packed["loss"], calibration, images, packed["pictures"])


class Evaluator:
    """Evaluates a model's variables on a source, each time it is called; programs are compiled only once.

    Each of n hosts evaluates every n-th image on its own devices. Then all hosts exchange their counts.

    Args:
      source: of images with labels.
      labeller: predicts labels, on this host's devices.
      spec: the classes.
      reading: how samples are read ahead.
      num_pictures: for how many images an evaluation has pictures.
    """

    def __init__(self, source: Source, labeller: Labeller, spec: DatasetSpec, reading: Reading, num_pictures: int = 0):
        self._source, self._labeller, self._spec, self._reading = source, labeller, spec, reading
        self._num_pictures = num_pictures if jax.process_index() == 0 else 0
        self._places = range(jax.process_index(), len(source), jax.process_count())

    def __call__(
        self, variables: dict[str, PyTree], should_stop: Callable[[], bool] = lambda: False
    ) -> Evaluation | None:
        """Evaluates every image of the source once, at its own size.

        Args:
          variables: of the model, on every host.
          should_stop: is asked at each image.

        Returns:
          The evaluation of all hosts' images; None if a host was told to stop.
        """
        own = self._share(local_copy(variables, self._labeller.mesh), should_stop)
        whole = Evaluation(Counts.empty(self._spec.num_classes))
        for packed in gather(own and own.pack()):
            if packed is None:
                return None
            share = Evaluation.unpack(packed)
            whole.counts = whole.counts.merge(share.counts)
            whole.loss += share.loss
            whole.calibration = whole.calibration.merge(share.calibration)
            whole.images.update(share.images)
            whole.pictures += share.pictures
        whole.images = dict(sorted(whole.images.items()))
        return whole

    def _share(self, variables: dict[str, PyTree], should_stop: Callable[[], bool]) -> Evaluation | None:
        """Evaluates this host's images; None if it was told to stop."""
        share, num_classes = Evaluation(Counts.empty(self._spec.num_classes)), self._spec.num_classes
        with bar("evaluating", len(self._places), "image", leave=False) as progress:
            for place, sample, maps in self._predictions(variables):
                if should_stop():
                    return None
                label, prediction = sample["label"], maps["labels"]
                counts = Counts.of_image(label=label, prediction=prediction, num_classes=num_classes)
                share.counts = share.counts.merge(counts)
                share.loss += float(maps["loss"].sum(dtype=np.float64))
                own = Calibration.of_image(label=label, prediction=prediction, confidence=maps["confidence"])
                share.calibration = share.calibration.merge(own)
                packed = zlib.compress(prediction.tobytes(), 1)
                share.images[place] = LabelledImage(sample["image_id"], counts.miou(), *counts.accuracies(), packed)
                if len(share.pictures) < self._num_pictures:
                    share.pictures.append(triptych(sample["image"], label, prediction, self._spec.palette()))
                progress.update()
        return share

    def _predictions(self, variables: dict[str, PyTree]) -> Iterator[tuple[int, Sample, Maps]]:
        """Yields each image's index in the source, its sample, and its labels, their confidence and the loss.

        While the caller handles them, the device works on the next group.
        """
        labeller = self._labeller
        share = Selection([self._source], [(0, place) for place in self._places])
        waiting: list[tuple[int, Sample]] = []
        found: Callable[[], list[Maps]] = list
        groups = group_by_shape(share, labeller.canvas, labeller.batch_size, self._reading)
        for group in itertools.chain(groups, [[]]):
            images, truths = ([sample[key] for _, sample in group] for key in ("image", "label"))
            following = labeller.start(variables, images, ("labels", "confidence", "loss"), truths) if group else list
            for (i, sample), maps in zip(waiting, found(), strict=True):
                yield self._places[i], sample, maps
            waiting, found = group, following
