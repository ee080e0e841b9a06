"""Evaluates a model on a source, during training and in ``--mode=eval``."""

import dataclasses
import itertools
import math
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from gcn_jax.console import bar
from gcn_jax.data.batches import Reading, group_by_shape
from gcn_jax.data.pictures import one_class, triptych
from gcn_jax.data.samples import Sample, Selection, Source
from gcn_jax.data.specs import DatasetSpec
from gcn_jax.evaluation.calibration import Calibration
from gcn_jax.evaluation.counts import Counts
from gcn_jax.evaluation.multi_label import MultiLabelCounts
from gcn_jax.inference.labeller import Labeller
from gcn_jax.inference.maps import LEVELS, Maps
from gcn_jax.models.preprocessing import PyTree
from gcn_jax.runtime.mesh import gather, local_copy


@dataclass(frozen=True)
class LabelledImage:
    """The prediction for one image.

    Attributes:
      image_id: of the image.
      miou: the image's own mean IoU, 0-1; NaN if it is void everywhere.
      boundary_accuracy: the image's own, 0-1, see `Counts.accuracies`; NaN without such pixels, and where pixels may
        have several classes. So is internal_accuracy.
      packed: the predicted labels, uint8 [H, W] or bool [H, W, C], as bytes that `zlib` has compressed.
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
      loss: the sum over all pixels that are not void of minus the logarithm of the true class's probability; of several
        classes a pixel, over these, too.
      calibration: the counts of the confidences; of several classes a pixel, `counts` have them.
      images: the prediction for each image, by the image's index in the source.
      pictures: for the first images a picture of image, truth and prediction, uint8 [H, W, 3].
    """

    counts: Any
    loss: float = 0.0
    calibration: Calibration = field(default_factory=Calibration.empty)
    images: dict[int, LabelledImage] = field(default_factory=dict)
    pictures: list[np.ndarray] = field(default_factory=list)

    def pack(self) -> dict[str, Any]:
        """The evaluation in types that `gcn_jax.runtime.mesh.gather` can send."""
        images = {place: list(dataclasses.astuple(image)) for place, image in self.images.items()}
        counts = [getattr(self.counts, field.name) for field in dataclasses.fields(self.counts)]
        scores = {"counts": counts, "loss": self.loss, "calibration": self.calibration.counts}
        return {**scores, "images": images, "pictures": self.pictures}

    @classmethod
    def unpack(cls, packed: dict[str, Any], kind: type[Any] = Counts) -> "Evaluation":
        """The evaluation that `pack` has packed, with counts of a kind."""
        images = {place: LabelledImage(*fields) for place, fields in packed["images"].items()}
        calibration = Calibration(packed["calibration"])
        return cls(kind(*packed["counts"]), packed["loss"], calibration, images, packed["pictures"])


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
        self._kind: type[Any] = MultiLabelCounts if spec.multi_label else Counts
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
        whole = Evaluation(self._kind.empty(self._spec.num_classes))
        for packed in gather(own and own.pack()):
            if packed is None:
                return None
            share = Evaluation.unpack(packed, self._kind)
            whole.counts = whole.counts.merge(share.counts)
            whole.loss += share.loss
            whole.calibration = whole.calibration.merge(share.calibration)
            whole.images.update(share.images)
            whole.pictures += share.pictures
        whole.images = dict(sorted(whole.images.items()))
        return whole

    def _share(self, variables: dict[str, PyTree], should_stop: Callable[[], bool]) -> Evaluation | None:
        """Evaluates this host's images; None if it was told to stop."""
        share = Evaluation(self._kind.empty(self._spec.num_classes))
        with bar("evaluating", len(self._places), "image", leave=False) as progress:
            for place, sample, maps in self._predictions(variables):
                if should_stop():
                    return None
                label = sample["label"]
                counts, prediction, calibration = self._counted(label, maps)
                share.counts = share.counts.merge(counts)
                share.loss += float(maps["loss"].sum(dtype=np.float64))
                share.calibration = share.calibration.merge(calibration)
                packed = zlib.compress(prediction.tobytes(), 1)
                near, far = (math.nan, math.nan) if self._spec.multi_label else counts.accuracies()
                share.images[place] = LabelledImage(sample["image_id"], counts.miou(), near, far, packed)
                if len(share.pictures) < self._num_pictures:
                    shown = one_class(label), one_class(prediction)
                    share.pictures.append(triptych(sample["image"], *shown, self._spec.palette()))
                progress.update()
        return share

    def _counted(self, label: np.ndarray, maps: Maps) -> tuple[Any, np.ndarray, Calibration]:
        """The counts of an image, its predicted labels, and the counts of their confidence."""
        if self._spec.multi_label:
            levels = maps["levels"]
            return MultiLabelCounts.of_image(label=label, levels=levels), levels > LEVELS // 2, Calibration.empty()
        prediction, classes = maps["labels"], self._spec.num_classes
        counts = Counts.of_image(label=label, prediction=prediction, num_classes=classes)
        own = Calibration.of_image(label=label, prediction=prediction, confidence=maps["confidence"])
        return counts, prediction, own

    def _predictions(self, variables: dict[str, PyTree]) -> Iterator[tuple[int, Sample, Maps]]:
        """Yields each image's index in the source, its sample, and its maps: what `_counted` takes, and the loss.

        While the caller handles them, the device works on the next group.
        """
        labeller = self._labeller
        wanted = ("levels", "loss") if self._spec.multi_label else ("labels", "confidence", "loss")
        share = Selection([self._source], [(0, place) for place in self._places])
        waiting: list[tuple[int, Sample]] = []
        found: Callable[[], list[Maps]] = list
        groups = group_by_shape(share, labeller.canvas, labeller.batch_size, self._reading)
        for group in itertools.chain(groups, [[]]):
            images, truths = ([sample[key] for _, sample in group] for key in ("image", "label"))
            following = labeller.start(variables, images, wanted, truths) if group else list
            for (i, sample), maps in zip(waiting, found(), strict=True):
                yield self._places[i], sample, maps
            waiting, found = group, following
