"""Devices: batch rows go over the mesh's axis "data", image rows over "space"."""

import math
import pickle
from typing import Any, TypeVar

import jax
import ml_collections
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from gcn_jax.errors import UserError
from gcn_jax.models.resnet import STRIDE
from gcn_jax.steps import PyTree

T = TypeVar("T")


def make_mesh(config: ml_collections.ConfigDict) -> Mesh:
    """Builds the mesh that ``config.mesh`` asks for; raises `UserError` if there are too few devices."""
    devices = jax.devices()
    space = config.mesh.space
    data = config.mesh.data if config.mesh.data > 0 else max(len(devices) // space, 1)
    if data * space > len(devices):
        raise UserError(
            f"config.mesh: data={data} x space={space} needs {data * space} devices; there are {len(devices)}"
        )
    return _mesh(devices[: data * space], data, space)


def _mesh(devices: list[jax.Device], data: int, space: int) -> Mesh:
    # Auto axes: XLA's partitioner finds the halo exchanges of the convolutions by itself.
    return jax.make_mesh((data, space), ("data", "space"), axis_types=(AxisType.Auto,) * 2, devices=devices)


def check_divides(config: ml_collections.ConfigDict, mesh: Mesh) -> None:
    """Raises `UserError` if a training batch or the rows of res-5 do not divide over the mesh."""
    data, space = mesh.shape["data"], mesh.shape["space"]
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


def replicated(mesh: Mesh) -> NamedSharding:
    """Each device holds a whole copy: parameters and optimizer state."""
    return NamedSharding(mesh, PartitionSpec())


def put(array: np.ndarray, mesh: Mesh) -> jax.Array:
    """Puts a host's rows of a batch on its devices: [B, H, ...] is split over ("data", "space")."""
    return jax.make_array_from_process_local_data(NamedSharding(mesh, PartitionSpec("data", "space")), array)


def put_batch(batch: dict[str, Any], mesh: Mesh) -> dict[str, jax.Array]:
    """`put` of a training batch's images and labels."""
    return {key: put(batch[key], mesh) for key in ("image", "label")}


def local_mesh(mesh: Mesh) -> Mesh:
    """This host's part of a mesh: its own devices, as many of them over "space" as there are in the mesh or here."""
    own = [device for device in mesh.devices.flat if device.process_index == jax.process_index()]
    space = math.gcd(len(own), mesh.shape["space"])
    return _mesh(own, len(own) // space, space)


def local_copy(variables: PyTree, mesh: Mesh) -> PyTree:
    """Copies what every host holds a replica of onto the devices of a local mesh; nothing to do with one host."""

    def copy(array: Any) -> Any:
        here = array.addressable_data(0) if isinstance(array, jax.Array) else array
        return jax.device_put(here, replicated(mesh))

    return jax.tree.map(copy, variables)


def gather(value: T) -> list[T]:
    """What each host has given, in the hosts' order; all call this together. Pickled: JAX would cut int64 to int32."""
    if jax.process_count() == 1:
        return [value]
    packed = np.frombuffer(pickle.dumps(value), np.uint8)
    lengths = multihost_utils.process_allgather(np.int32(packed.size)).reshape(-1)
    padded = np.pad(packed, (0, int(lengths.max()) - packed.size))
    rows = multihost_utils.process_allgather(padded)
    return [pickle.loads(row[:length].tobytes()) for row, length in zip(rows, lengths, strict=True)]
