"""What several test files share: the project's parts, made from a config."""

from gcn_jax.config import settings
from gcn_jax.data.batches import TrainBatches
from gcn_jax.evaluation.evaluator import Evaluator
from gcn_jax.evaluation.result import as_json
from gcn_jax.inference.labeller import Labeller
from gcn_jax.models import init_variables
from gcn_jax.runtime.mesh import check_divides, local_mesh, make_mesh
from gcn_jax.training.step import init_state


def mesh_of(config, devices=None):
    """The mesh of ``config.mesh``."""
    return make_mesh(config.mesh.data, config.mesh.space, devices)


def check_mesh(config, mesh):
    """`check_divides` for a config's batches and images."""
    check_divides(mesh, settings.batch_sizes(config), config.data.size)


def new_state(config, seed=0):
    """The state before the first step, with random weights."""
    recipe = settings.recipe(config)
    return init_state(init_variables(recipe.model, seed), recipe)


def train_batches(source, config, share=(0, 1)):
    """A config's training batches of a source."""
    return TrainBatches(
        source,
        settings.augmentation(config),
        settings.reading(config),
        batch_size=config.batch_size,
        num_batches=config.num_steps,
        seed=config.seed,
        share=share,
    )


def labeller(model, config, mesh=None):
    """A network, applied by a config's protocol."""
    return Labeller(model, settings.preprocessing(config), settings.protocol(config), mesh)


def evaluator(source, mesh, config):
    """An evaluation of a config's model on this host's devices of a mesh."""
    applied = labeller(settings.model_from(config), config, local_mesh(mesh))
    reading, spec = settings.reading(config), settings.spec_from(config)
    return Evaluator(source, applied, spec, reading, config.eval.num_pictures)


def result_of(evaluation, config, step):
    """The content of ``eval.json``."""
    names = settings.spec_from(config).class_names
    return as_json(evaluation, step, config.data.eval, settings.protocol(config), names)
