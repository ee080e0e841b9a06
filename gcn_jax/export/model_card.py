"""The card of a model: the page that people see of it on the Hugging Face Hub, in Markdown."""

import html
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import ml_collections

from gcn_jax.config import settings
from gcn_jax.data import sources

_NO_LICENCE = (
    "**Not stated.** Whoever trained the model says what its weights may be used for, here and above as `license`."
)


def card(
    address: str, config: ml_collections.ConfigDict, step: int, result: Mapping[str, Any] | None, picture: str
) -> str:
    """A card, with metadata in YAML before it.

    Args:
      address: of the model, ``hf://USER/MODEL``.
      config: of the run; ``config.export.licence`` is the weights'.
      step: of the weights.
      result: the content of the ``eval.json`` of these weights; None if there is none.
      picture: the name of a picture beside the card, "" if there is none.
    """
    model, licence = config.model, config.export.licence
    network = f"a {model.backbone} with the decoder {model.decoder}"
    network += f" ({model.head}, k = {model.kernel_size})" if model.decoder == "gcn" else ""
    classes = settings.spec_from(config).classes
    data = sources.licences(settings.datasets(config))
    parts = [
        f"# {address.rpartition('/')[2]}",
        f"Semantic segmentation by `gcn_jax`: {network}, trained on `{config.data.train}`, step {step}.",
        f"![Image, truth and prediction]({picture})" if picture else "",
        "## Use it",
        f"```sh\ngcn_jax predict {address} photo.jpg\n```",
        f'```python\nimport gcn_jax\n\nsegmenter = gcn_jax.load("{address}")\nlabels = segmenter.predict(image)\n```',
        "## Classes",
        _table(["id", "class", "colour"], [(i, c.name, f"#{bytes(c.color).hex()}") for i, c in enumerate(classes)]),
        "## Scores",
        "\n\n".join(_scores(result)) if result else "Not evaluated.",
        "## Licence",
        f"The weights: {licence}." if licence else _NO_LICENCE,
        _table(["training data", "what its publishers say"], list(data.items())) if data else "",
        "## Config",
        "`config.json` has every value of the training.",
    ]
    return f"---\n{_metadata(address, licence, result)}---\n\n" + "\n\n".join(filter(None, parts)) + "\n"


def _metadata(address: str, licence: str, result: Mapping[str, Any] | None) -> str:
    """The lines that the Hub reads: YAML, of which JSON is a part."""
    values: dict[str, Any] = {
        "library_name": "gcn_jax",
        "pipeline_tag": "image-segmentation",
        "tags": ["semantic-segmentation", "jax", "flax"],
    }
    if licence:
        values["license"] = licence
    if result and result.get("miou") is not None:
        data = {"name": result["data"], "type": result["data"]}
        found = {
            "task": {"type": "image-segmentation"},
            "dataset": data,
            "metrics": [{"type": "mean_iou", "value": result["miou"]}],
        }
        values["model-index"] = [{"name": address.rpartition("/")[2], "results": [found]}]
    return "".join(f"{key}: {json.dumps(value)}\n" for key, value in values.items())


def _scores(result: Mapping[str, Any]) -> Iterator[str]:
    """What was measured on which images, the scores that are one number, and each class's IoU; in percent."""
    conditions = ", ".join(f"{key} {value}" for key, value in result["protocol"].items() if value)
    yield f"On the {result['num_images']} images of `{result['data']}`, by {conditions}:"
    single = {key: value for key, value in result.items() if isinstance(value, float) and 0 <= value <= 1}
    yield _table(
        ["score", "%"],
        [(key.replace("_", " ").replace("miou", "mean IoU"), f"{100 * v:.2f}") for key, v in single.items()],
    )
    of_classes = result["iou_per_class"].items()
    yield _table(["class", "IoU, %"], [(name, "-" if v is None else f"{100 * v:.2f}") for name, v in of_classes])


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *([_plain(str(cell)) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _plain(text: str) -> str:
    """A text of somebody's, which the page is to show as it is."""
    text = html.escape(" ".join(text.split()), quote=False)
    return "".join(f"\\{letter}" if letter in r"\`*_[]|~" else letter for letter in text)
