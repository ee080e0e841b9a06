"""The network in a training loop of your own: jax, optax, and of this package the model alone.

    python examples/training_loop.py

trains a small GCN for 200 steps, one minute on 2 CPU cores, and prints the loss as it falls, then the mean IoU of
images that it was not trained on. The images are drawn; put your own into `batch`.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import gcn_jax
from gcn_jax.data.shapes import draw
from gcn_jax.models import Network, init_variables

VOID = 255  # a pixel that counts for nothing
SIZE = 48
Arrays = dict[str, np.ndarray]


def batch(split: str, start: int, size: int) -> Arrays:
    """Images, float32 [B, H, W, 3], about -2 to 2, and the class id of each pixel, int32 [B, H, W]."""
    images, labels = zip(*(draw(split, start + i) for i in range(size)), strict=True)
    cut = slice(SIZE)
    return {
        "images": (np.stack([image[cut, cut] for image in images]).astype(np.float32) - 120) / 60,
        "labels": np.stack([label[cut, cut] for label in labels]).astype(np.int32),
    }


def loss_fn(params: dict, statistics: dict, model: Network, data: Arrays) -> tuple[jax.Array, dict]:
    """The mean cross-entropy of the pixels that are not void, and the new statistics of batch norm."""
    variables = {"params": params, "batch_stats": statistics}
    logits, updates = model.apply(variables, data["images"], train=True, mutable=["batch_stats"])
    counts = data["labels"] != VOID
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.where(counts, data["labels"], 0))
    return (losses * counts).sum() / counts.sum(), updates["batch_stats"]


def mean_iou(predicted: np.ndarray, labels: np.ndarray, num_classes: int) -> float:
    """The mean over the classes of intersection over union."""
    predicted, labels = predicted[labels != VOID], labels[labels != VOID]
    confusion = np.bincount(num_classes * labels + predicted, minlength=num_classes**2).reshape(num_classes, -1)
    both = confusion.diagonal()
    return float(np.mean(both / (confusion.sum(0) + confusion.sum(1) - both)))


def main(num_steps: int = 200, batch_size: int = 8, num_images: int = 100) -> float:
    """Trains, and returns the mean IoU."""
    model = gcn_jax.build_model(num_classes=6, backbone="resnet14", width=16, kernel_size=7, norm="train")
    variables = init_variables(model, seed=0)  # what model.init(key, images) gives, without compiling
    params, statistics = variables["params"], variables["batch_stats"]
    optimizer = optax.adam(optax.cosine_decay_schedule(3e-3, num_steps))
    state = optimizer.init(params)

    @jax.jit
    def step(params, statistics, state, data):
        value_and_grad = jax.value_and_grad(loss_fn, has_aux=True)
        (loss, statistics), gradient = value_and_grad(params, statistics, model, data)
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(params, updates), statistics, state, loss

    for i in range(num_steps):
        params, statistics, state, loss = step(params, statistics, state, batch("train", i * batch_size, batch_size))
        if i % 20 == 0:
            print(f"step {i:4d}  loss {loss:.3f}")

    data = batch("val", 0, num_images)
    logits = jax.jit(model.apply)({"params": params, "batch_stats": statistics}, data["images"])
    score = mean_iou(np.asarray(logits.argmax(-1)), data["labels"], model.num_classes)
    print(f"mean IoU {score:.2f}")
    return score


if __name__ == "__main__":
    main()
