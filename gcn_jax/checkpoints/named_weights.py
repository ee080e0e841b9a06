"""Weights by name: a file of the Hugging Face Hub, or a ResNet of torchvision, fetched once and kept by their library.

* ``hf://USER/MODEL``, ``hf://USER/MODEL@REVISION``, either with ``/FILE.safetensors`` after it: of the Hub, by
  `huggingface_hub`. Without a file it is ``model.safetensors``. Only such files are fetched: no pickle, no code.
* ``torchvision:resnet152``, ``torchvision:resnet152@IMAGENET1K_V1``: of torchvision, where it is installed.
"""

import functools
import importlib.util
import pathlib
import re
from typing import Any

from gcn_jax.errors import UserError
from gcn_jax.files import HUB, check_is_local

TORCHVISION = "torchvision:"
INSTALL = 'pip install -c requirements.txt ".[hub]"'
_FILE = "model.safetensors"
_HUB_FORM = re.compile(
    rf"{HUB}(?P<repository>[\w.-]+/[\w.-]+)(@(?P<revision>[\w.-]+))?(/(?P<file>[\w./-]+\.safetensors))?"
)


def local_file(setting: str, name: str) -> pathlib.Path:
    """The file or folder of this machine that a name stands for.

    Args:
      setting: the flag or key that names it, for messages.
      name: a path, which stays as it is; or an address of the Hub, or a ResNet of torchvision, which are fetched unless
        they are here.

    Raises:
      UserError: if it cannot be fetched: there is no such thing, no network, no right, or no library.
    """
    if name.startswith(HUB):
        return _of_hub(setting, name)
    if name.startswith(TORCHVISION):
        return _of_torchvision(setting, name)
    check_is_local(setting, name)
    return pathlib.Path(name).expanduser()


def hub_parts(setting: str, name: str) -> tuple[str, str | None, str]:
    """Repository, revision and file of an address; raises `UserError` if it has another form."""
    match = _HUB_FORM.fullmatch(name)
    if not match:
        raise UserError(
            f"{setting}={name}: must be {HUB}USER/MODEL, with @REVISION and /FILE.safetensors after it if needed; "
            "other kinds of file are not fetched"
        )
    return match["repository"], match["revision"], match["file"] or _FILE


def check_hub_installed(setting: str, name: str) -> None:
    """Raises `UserError` unless the library that talks to the Hub is there."""
    if importlib.util.find_spec("huggingface_hub") is None:
        raise UserError(f"{setting}={name}: needs a library: {INSTALL}; or download the file and name it")


@functools.cache
def _of_hub(setting: str, name: str) -> pathlib.Path:
    repository, revision, file = hub_parts(setting, name)
    check_hub_installed(setting, name)
    import huggingface_hub

    cached_only = not _is_reached(repository, revision, file)
    try:
        return pathlib.Path(
            huggingface_hub.hf_hub_download(repository, file, revision=revision, local_files_only=cached_only)
        )
    except Exception as error:  # of several libraries
        raise UserError(f"{setting}={name}: {why(error, file)}") from error


def _is_reached(repository: str, revision: str | None, file: str) -> bool:
    """Whether the Hub answers; the library itself would ask for 23 seconds more, and print each failure."""
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError

    try:
        huggingface_hub.get_hf_file_metadata(huggingface_hub.hf_hub_url(repository, file, revision=revision))
    except HfHubHTTPError as error:
        return error.response.status_code < 500
    except Exception:  # of the library that it talks by
        return False
    return True


def why(error: Exception, file: str = _FILE) -> str:
    """What an error of `huggingface_hub` means, and what to do, as the end of a message."""
    from huggingface_hub import errors

    log_in = "log in (hf auth login) or set HF_TOKEN"
    status = getattr(getattr(error, "response", None), "status_code", None)
    meanings: list[tuple[type[Exception] | tuple[type[Exception], ...], str]] = [
        (errors.GatedRepoError, f"is gated: accept its terms on its page, then {log_in}"),
        (errors.RepositoryNotFoundError, f"there is no such repository, or it is private: check the name, or {log_in}"),
        (errors.RevisionNotFoundError, "has no such revision; name a branch, a tag or a commit after @"),
        (
            errors.RemoteEntryNotFoundError,
            f"holds no {file}; name another file of it: {HUB}USER/MODEL/FILE.safetensors",
        ),
        (errors.LocalTokenNotFoundError, f"needs a token: {log_in}"),
        (
            (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, ConnectionError),
            "is not on this machine, and the Hub cannot be reached: check the network (HF_ENDPOINT, HF_HUB_OFFLINE), "
            "or download the file elsewhere and name it",
        ),
    ]
    for kinds, meaning in meanings:
        if isinstance(error, kinds):
            return meaning
    if status in (401, 403):
        return f"the Hub refuses ({status}): the token is wrong, or lacks the right; {log_in}"
    if type(error).__module__.startswith(("httpx", "httpcore")):
        return f"the Hub cannot be reached ({type(error).__name__}): check the network, and HF_ENDPOINT"
    if isinstance(error, OSError) and error.strerror:
        return f"cannot be kept ({error.strerror}); set HF_HOME to another folder"
    return f"the Hub says: {(str(error).strip() or type(error).__name__).splitlines()[0][:300]}"


@functools.cache
def _of_torchvision(setting: str, name: str) -> pathlib.Path:
    model, _, version = name.removeprefix(TORCHVISION).partition("@")
    if importlib.util.find_spec("torchvision") is None:
        raise UserError(f"{setting}={name}: needs a package: pip install torchvision; or name a file of weights")
    try:
        import torch
        from torchvision import models
    except (ImportError, RuntimeError, OSError) as error:  # such as one that was built for another PyTorch
        problem = f"torchvision cannot be imported ({(str(error).splitlines() or [''])[0]})"
        raise UserError(
            f"{setting}={name}: {problem}: install the one that goes with this PyTorch, or name a file of weights"
        ) from error
    known = [other for other in models.list_models(models) if other.startswith("resnet")]
    if model not in known:
        raise UserError(f"{setting}={name}: no ResNet of torchvision; known: {', '.join(known)}")
    weights: Any = models.get_model_weights(model)
    if version and version not in weights.__members__:
        raise UserError(f"{setting}={name}: has no such weights; known: {', '.join(weights.__members__)}")
    address = (weights[version] if version else weights.DEFAULT).url
    path = pathlib.Path(torch.hub.get_dir(), "checkpoints", address.rpartition("/")[2])
    if not path.is_file():
        digest = path.stem.rpartition("-")[2]  # the beginning of the SHA-256, as torchvision has it
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(address, str(path), digest)
        except (OSError, RuntimeError) as error:  # RuntimeError: of another digest
            raise UserError(
                f"{setting}={name}: is not in {path.parent}, and cannot be downloaded ({error}): check the network, or "
                f"put {address} there"
            ) from error
    return path
