"""The mesh of devices, and moving arrays onto it.

The images of a batch are split over the mesh's axis "data", and the rows of each image over its axis "space".
"""

import collections
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import serialization
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from gcn_jax.errors import UserError
from gcn_jax.models.backbones.resnet import STRIDE
from gcn_jax.models.preprocessing import PyTree


def make_mesh(data: int, space: int, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Builds the mesh that ``config.mesh`` describes.

    Args:
      data: number of parts that a batch's images are split into; -1: as many as there are devices for.
      space: number of devices that share the rows of each image.
      devices: the devices to choose from; None: all.

    Raises:
      UserError: if there are too few devices, or they cannot be arranged in this way.
    """
    devices = jax.devices() if devices is None else devices
    data = data if data > 0 else max(len(devices) // space, 1)
    if data * space > len(devices):
        raise UserError(
            f"config.mesh: data={data} x space={space} needs {data * space} devices; there are {len(devices)}"
        )
    try:
        return _mesh(devices[: data * space], data, space)
    except (NotImplementedError, ValueError) as error:  # from three-dimensional TPU tori and several slices
        raise UserError(
            f"config.mesh: data={data} x space={space}: {str(error).splitlines()[0]}; set another config.mesh.space"
        ) from error


def _mesh(devices: Sequence[jax.Device], data: int, space: int) -> Mesh:
    # With Auto axes XLA's partitioner itself adds the exchange of border rows that convolutions need.
    return jax.make_mesh((data, space), ("data", "space"), axis_types=(AxisType.Auto,) * 2, devices=devices)


def _parts(mesh: Mesh) -> dict[int, tuple[int, ...]]:
    """For each process the indices along "data" of its devices, ascending. (`jax.make_mesh` reorders TPU devices.)"""
    parts = collections.defaultdict(set)
    for place, devices in enumerate(mesh.devices):
        for device in devices:
            parts[device.process_index].add(place)
    return {process: tuple(sorted(places)) for process, places in parts.items()}


def read_share(mesh: Mesh) -> tuple[int, int]:
    """(i, n): this process reads share i of the n shares of each batch.

    Processes whose devices hold other rows of the same images read the same share.
    """
    parts = _parts(mesh)
    shares = sorted(set(parts.values()))
    return shares.index(parts[jax.process_index()]), len(shares)


def check_divides(mesh: Mesh, batch_sizes: Mapping[str, int], size: int) -> None:
    """Checks that batches and images can be divided evenly over a mesh, and the mesh over the processes.

    Args:
      mesh: of all devices that train.
      batch_sizes: the numbers of images in a batch, by their config keys.
      size: height and width of the images, pixels.

    Raises:
      UserError: naming the config key whose value does not divide.
    """
    data, space = mesh.shape["data"], mesh.shape["space"]
    if mesh.size != jax.device_count() and jax.process_count() > 1:
        raise UserError(
            f"config.mesh: data={data} x space={space} devices; over several processes all {jax.device_count()} must "
            f"take part"
        )
    parts = _parts(mesh)
    shares = set(parts.values())
    if sum(map(len, shares)) != data or len(set(map(len, shares))) > 1:
        raise UserError(
            f"config.mesh: data={data} x space={space} does not divide over {len(parts)} processes: some share a part "
            f"of their images with others; set config.mesh.space to a divisor or a multiple of "
            f"{mesh.size // len(parts)}, the devices of a process"
        )
    for key, batch_size in batch_sizes.items():
        if batch_size % data:
            raise UserError(
                f"config.{key}={batch_size} does not divide over config.mesh.data={data} devices; set a multiple "
                f"of {data}, or share each image's rows among devices with --config.mesh.space"
            )
    if size // STRIDE % space:
        raise UserError(
            f"config.mesh.space={space}: res-5 has config.data.size / {STRIDE} = {size // STRIDE} rows, "
            f"which do not divide over {space} devices (XLA computes wrong gradients then); "
            f"set a size that is a multiple of {STRIDE * space}"
        )


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of parameters and optimizer state: each device holds a complete copy."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh, has_rows: bool = True) -> NamedSharding:
    """The sharding of batches [B, H, ...]: B is split over "data", H over "space" if it is the rows of images."""
    return NamedSharding(mesh, PartitionSpec("data", *["space"] * has_rows))


def put_share(array: np.ndarray, mesh: Mesh) -> jax.Array:
    """Puts this process's share of a batch on its devices.

    Args:
      array: [B / n, H, W, ...], or [B / n, C], the share that `read_share` says; processes with the same share pass
        the same array.
      mesh: of the devices of all processes.

    Returns:
      The whole batch as one global array [B, ...], with `batch_sharding`.
    """
    places = _parts(mesh)[jax.process_index()]
    rows = len(array) // len(places)  # images for each index along "data"
    whole = (rows * mesh.shape["data"], *array.shape[1:])

    def part(index: Any) -> np.ndarray:
        first = places.index((index[0].start or 0) // rows) * rows
        return array[first : first + rows, *index[1:]]

    return jax.make_array_from_callback(whole, batch_sharding(mesh, has_rows=array.ndim > 2), part)


def put_batch(batch: dict[str, Any], mesh: Mesh, with_inside: bool = False) -> dict[str, jax.Array]:
    """Puts a process's share of a training batch on its devices, as `put_share` does.

    Args:
      batch: from `TrainBatches`; its images and labels are put.
      mesh: of the devices of all processes.
      with_inside: whether to put where the images lie, too, which few models take.
    """
    return {key: put_share(batch[key], mesh) for key in ("image", "label", *["inside"] * with_inside)}


def local_mesh(mesh: Mesh) -> Mesh:
    """A mesh of only this host's devices in a mesh; as many as possible share an image's rows, as in the whole mesh."""
    own = [device for device in mesh.devices.flat if device.process_index == jax.process_index()]
    space = math.gcd(len(own), mesh.shape["space"])
    return _mesh(own, len(own) // space, space)


def local_copy(variables: PyTree, mesh: Mesh | None) -> PyTree:
    """Copies arrays that every host has a complete copy of onto the devices of a local mesh.

    Args:
      variables: a pytree of arrays with the sharding `replicated`, or of NumPy arrays.
      mesh: from `local_mesh`; None: the default device.
    """

    def copy(array: Any) -> Any:
        here = array.addressable_data(0) if isinstance(array, jax.Array) else array
        return jax.device_put(here, replicated(mesh) if mesh else None)

    return jax.tree.map(copy, variables)


def gather(value: Any) -> list[Any]:
    """Collects a value from each process; all call this together.

    Values travel as MessagePack, which holds only data: None, bool, int, float, str, bytes, NumPy arrays, lists and
    dicts. (JAX's own way would cut int64 to int32, and a pickle could run code.)

    Returns:
      The values of all processes, in the processes' order.
    """
    if jax.process_count() == 1:
        return [value]
    packed = np.frombuffer(serialization.msgpack_serialize(value), np.uint8)
    lengths = multihost_utils.process_allgather(np.int32(packed.size)).reshape(-1)
    padded = np.pad(packed, (0, int(lengths.max()) - packed.size))
    rows = multihost_utils.process_allgather(padded)
    return [serialization.msgpack_restore(row[:length].tobytes()) for row, length in zip(rows, lengths, strict=True)]
