"""The PyTorch twin's ResNet has the tensors of torchvision's, so that it is not only our own hand."""

import pytest

torch = pytest.importorskip("torch", reason="compares with PyTorch")
from bench import twin as twin_lib  # noqa: E402

SIZES = {"resnet50": (3, 4, 6, 3), "resnet101": (3, 4, 23, 3), "resnet152": (3, 8, 36, 3)}


@pytest.mark.parametrize("name", SIZES)
def test_names_and_shapes_are_torchvisions(torchvision_models, name):
    """All but the classifier, which no backbone has; under the name that the whole twin gives its ResNet."""
    with torch.device("meta"):
        theirs = getattr(torchvision_models, name)().state_dict()
        ours = twin_lib.Twin(21, SIZES[name], 64, 3).state_dict()
    expected = {f"resnet.{key}": tensor.shape for key, tensor in theirs.items() if not key.startswith("fc.")}
    assert {key: tensor.shape for key, tensor in ours.items() if key.startswith("resnet.")} == expected
    counted = {key for key in expected if key.endswith("num_batches_tracked")}
    named = {theirs for theirs in twin_lib.key_map(SIZES[name]).values() if theirs.startswith("resnet.")}
    assert named == expected.keys() - counted, "each is read into a tensor of ours"
