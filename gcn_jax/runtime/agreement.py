"""Checks, before the first step, that all processes of a training have the same config, code and data."""

import collections
import contextlib
import hashlib
import pathlib
import uuid
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import ml_collections

from gcn_jax.data.samples import Source
from gcn_jax.data.sources import Datasets
from gcn_jax.errors import UserError
from gcn_jax.runtime.mesh import gather
from gcn_jax.runtime.processes import end_together

_OWN = ("distributed", "data_dir", "cache_dir")  # config keys whose values may differ between processes
_SHOWN = 5  # how many differences, and how many processes with one value, a message names


@contextlib.contextmanager
def agreed(values: dict[str, str]) -> Iterator[None]:
    """A block after which all processes raise a `UserError` if one raised it in the block, or if their values differ.

    All processes enter it together. The block itself must not communicate with other processes.

    Args:
      values: what must be the same in all processes, by its name in messages; the block may still add to it.

    Raises:
      UserError: in all processes; each has then left the group and is alone.
    """
    if jax.process_count() == 1:
        yield
        return
    own = ""
    try:
        yield
    except UserError as error:
        own = str(error)
    hosts = gather([own, values])
    differing = list(_differences([given for _, given in hosts]))
    if differing:
        more = f"; and {len(differing) - _SHOWN} more" if len(differing) > _SHOWN else ""
        end_together(f"{'; '.join(differing[:_SHOWN])}{more}; all processes need the same command, code and data")
    for process, (message, _) in enumerate(hosts):
        if message:
            end_together(own or f"process {process}: {message}")


def _differences(hosts: Sequence[dict[str, str]]) -> Iterator[str]:
    """Describes each difference between the processes' values, for names that all processes have."""
    for name in hosts[0]:
        processes = collections.defaultdict(list)
        for process, host in enumerate(hosts):
            processes[host.get(name)].append(process)
        if len(processes) > 1 and None not in processes:
            yield f"{name} is " + ", ".join(f"{value} in {_listed(some)}" for value, some in processes.items())


def _listed(processes: Sequence[int]) -> str:
    more = f" and {len(processes) - _SHOWN} more" if len(processes) > _SHOWN else ""
    return f"process{'es' if len(processes) > 1 else ''} {', '.join(map(str, processes[:_SHOWN]))}{more}"


def of_config(config: ml_collections.ConfigDict) -> dict[str, str]:
    """What processes must agree on before they open data: jax, this package's code, and the config.

    Args:
      config: of this process. Values that may differ between hosts, such as folders, are left out.

    Returns:
      Each value as text, by its name in messages.
    """

    def flat(prefix: str, group: dict[str, Any]) -> Iterator[tuple[str, str]]:
        for key, value in group.items():
            if isinstance(value, dict):
                yield from flat(f"{prefix}.{key}", value)
            else:
                yield f"{prefix}.{key}", repr(value)

    shared = {key: value for key, value in config.to_dict().items() if key not in _OWN}
    files = sorted(pathlib.Path(__file__).parents[1].rglob("*.py"))
    code = _digest(file.read_bytes() for file in files)
    return {"the version of jax": jax.__version__, "the digest of gcn_jax": code, **dict(flat("config", shared))}


def of_data(data: Datasets, train: Source, evaluation: Source) -> dict[str, str]:
    """What processes must agree on after they opened the data: the images' number and ids; no image is read.

    Args:
      data: names the sources in messages.
      train: the source to train on.
      evaluation: the source to evaluate on.

    Returns:
      A text for each source, by its name in messages.
    """
    return {
        f"config.data.{key}={text!r}": f"{len(source)} images with ids of digest {ids}"
        for key, text, source in (("train", data.train, train), ("eval", data.eval, evaluation))
        for ids in [digest_of(source.image_ids)]
    }


def digest_of(texts: Iterable[str]) -> str:
    """A digest of some lines of text, in order."""
    return _digest(text.encode() + b"\n" for text in texts)


def _digest(parts: Any) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()[:8]


def check_shared(workdir: pathlib.Path) -> None:
    """Raises `UserError` in all processes unless the workdir is the same folder for all; all call this together."""
    if jax.process_count() == 1:
        return
    mark = workdir / f".{uuid.uuid4().hex}"
    if is_first := jax.process_index() == 0:
        mark.touch()
    mark = workdir / gather(mark.name)[0]
    try:
        with agreed({}):
            if not mark.exists():
                raise UserError(
                    f"--workdir={workdir}: not the folder that process 0 has; all need one, on a shared file system"
                )
    finally:
        if is_first:
            mark.unlink()
