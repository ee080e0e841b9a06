"""The network, a `flax.linen` module, as a part of a program that is written in `flax.nnx`.

    python examples/nnx_program.py

puts it behind an `nnx.BatchNorm`, which learns the colours' mean and scale from the images, trains both with
`nnx.Optimizer` for 100 steps, about a minute on 2 CPU cores, and prints the loss as it falls, then what was learnt.
The images are drawn; put your own into `batch`.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import gcn_jax
from gcn_jax.data.shapes import draw

VOID = 255  # a pixel that counts for nothing
SIZE = 48


class Program(nnx.Module):
    """A layer of nnx, and the network."""

    def __init__(self, num_classes: int, rngs: nnx.Rngs):
        network = gcn_jax.build_model(num_classes, backbone="resnet14", width=16, kernel_size=7, norm="train")
        self.colors = nnx.BatchNorm(3, momentum=0.9, rngs=rngs)
        self.network = nnx.bridge.ToNNX(network, rngs=rngs).lazy_init(jnp.zeros((1, SIZE, SIZE, 3)))

    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Colours, float32 [B, H, W, 3], of any scale -> logits, float32 [B, H, W, classes]."""
        mutable = ["batch_stats"] if train else False
        return self.network(self.colors(images, use_running_average=not train), train=train, mutable=mutable)


def batch(start: int, size: int) -> tuple[jax.Array, jax.Array]:
    """Images, float32 [B, H, W, 3], 0-255, and the class id of each pixel, int32 [B, H, W]."""
    images, labels = zip(*(draw("train", start + i) for i in range(size)), strict=True)
    cut = slice(SIZE)
    pixels, ids = (np.stack([array[cut, cut] for array in arrays]) for arrays in (images, labels))
    return jnp.asarray(pixels, jnp.float32), jnp.asarray(ids, jnp.int32)


@nnx.jit
def step(program: Program, optimizer: nnx.Optimizer, images: jax.Array, labels: jax.Array) -> jax.Array:
    """One step of training, which changes the program and its optimizer in place; returns the loss."""

    def loss_fn(program):
        counts = labels != VOID
        logits = program(images, train=True)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.where(counts, labels, 0))
        return (losses * counts).sum() / counts.sum()

    loss, gradient = nnx.value_and_grad(loss_fn)(program)
    optimizer.update(program, gradient)
    return loss


def main(num_steps: int = 100, batch_size: int = 8) -> Program:
    """Trains, and returns the program."""
    program = nnx.jit(lambda: Program(num_classes=6, rngs=nnx.Rngs(0)))()  # compiled at once, not draw by draw
    optimizer = nnx.Optimizer(program, optax.adam(3e-3), wrt=nnx.Param)
    for i in range(num_steps):
        images, labels = batch(i * batch_size, batch_size)
        loss = step(program, optimizer, images, labels)
        if i % 20 == 0:
            print(f"step {i:4d}  loss {loss:.3f}")
    print(f"mean colour: {program.colors.mean[...].round()}")
    images, labels = batch(num_steps * batch_size, 32)
    predicted = nnx.jit(Program.__call__)(program, images).argmax(-1)
    print(f"pixels that are right in new images: {(predicted == labels)[labels != VOID].mean():.0%}")
    return program


if __name__ == "__main__":
    main()
