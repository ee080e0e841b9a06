"""Devices: batch rows go over the mesh's axis "data", image rows over "space"."""

import jax
import ml_collections
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from gcn_jax.errors import UserError
from gcn_jax.models.resnet import STRIDE


def make_mesh(config: ml_collections.ConfigDict) -> Mesh:
    """Builds the mesh that ``config.mesh`` asks for.

    Raises:
      UserError: if there are too few devices, or the batch or the rows of res-5 do not divide over them.
    """
    devices = jax.devices()
    space = config.mesh.space
    data = config.mesh.data if config.mesh.data > 0 else max(len(devices) // space, 1)
    if data * space > len(devices):
        raise UserError(
            f"config.mesh: data={data} x space={space} needs {data * space} devices; there are {len(devices)}"
        )
    if config.batch_size % data:
        raise UserError(
            f"config.batch_size={config.batch_size} does not divide over config.mesh.data={data} devices; set a "
            f"multiple of {data}, or share each image's rows among devices with --config.mesh.space"
        )
    if config.batch_size % jax.process_count():
        raise UserError(
            f"config.batch_size={config.batch_size} does not divide over {jax.process_count()} processes; set a "
            f"multiple of {jax.process_count()}"
        )
    if config.data.size // STRIDE % space:
        raise UserError(
            f"config.mesh.space={space}: res-5 has config.data.size / {STRIDE} = {config.data.size // STRIDE} rows, "
            f"which do not divide over {space} devices (XLA computes wrong gradients then); "
            f"set a size that is a multiple of {STRIDE * space}"
        )
    # Auto axes: XLA's partitioner finds the halo exchanges of the convolutions by itself.
    return jax.make_mesh(
        (data, space), ("data", "space"), axis_types=(AxisType.Auto,) * 2, devices=devices[: data * space]
    )


def replicated(mesh: Mesh) -> NamedSharding:
    """Each device holds a whole copy: parameters and optimizer state."""
    return NamedSharding(mesh, PartitionSpec())


def put_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Puts a host's rows of a batch on its devices: [B, H, ...] split over ("data", "space"), [B] over "data"."""

    def put(array: np.ndarray) -> jax.Array:
        axes = ("data", "space") if array.ndim > 1 else ("data",)
        return jax.make_array_from_process_local_data(NamedSharding(mesh, PartitionSpec(*axes)), array)

    return {key: put(batch[key]) for key in ("image", "label", "valid")}
