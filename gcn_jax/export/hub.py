"""A trained model as a repository of the Hugging Face Hub."""

from collections.abc import Mapping

from gcn_jax.checkpoints.named_weights import check_hub_installed, hub_parts, why
from gcn_jax.errors import UserError
from gcn_jax.files import HUB

MODEL, CARD = "model.safetensors", "README.md"


def check(setting: str, address: str) -> None:
    """Raises `UserError` unless a model can be written to an address: there is a token, and no model or card there yet.

    Args:
      setting: the flag that names it, for messages.
      address: ``hf://USER/MODEL``.
    """
    repository, revision, file = hub_parts(setting, address)
    if revision or file != MODEL or address.endswith(MODEL):
        raise UserError(f"{setting}={address}: to write to, name {HUB}USER/MODEL alone")
    check_hub_installed(setting, address)
    import huggingface_hub
    from huggingface_hub.errors import RepositoryNotFoundError

    api = huggingface_hub.HfApi(library_name="gcn_jax")
    try:
        api.whoami()
        held = set(api.list_repo_files(repository))
    except RepositoryNotFoundError:
        held = set()
    except Exception as error:  # of several libraries
        raise UserError(f"{setting}={address}: {why(error)}") from error
    if there := sorted(held & {MODEL, CARD}):
        raise UserError(f"{setting}={address}: holds {there[0]} already; choose another name, or delete it there")


def publish(setting: str, address: str, files: Mapping[str, bytes]) -> str:
    """Writes files to a repository, all in one commit; a repository that is not there is made, and is private.

    Args:
      setting: the flag that names it, for messages.
      address: ``hf://USER/MODEL``.
      files: the contents of each, by its name.

    Returns:
      The address of the commit's page.

    Raises:
      UserError: if it cannot be written.
    """
    import huggingface_hub

    repository, _, _ = hub_parts(setting, address)
    api = huggingface_hub.HfApi(library_name="gcn_jax")
    adding = [huggingface_hub.CommitOperationAdd(name, data) for name, data in files.items()]
    try:
        api.create_repo(repository, private=True, exist_ok=True)
        return api.create_commit(repository, adding, commit_message="Add a model of gcn_jax").commit_url
    except Exception as error:  # of several libraries
        raise UserError(f"{setting}={address}: {why(error)}") from error
