"""The loop itself, in this process: a stop signal at any moment of a step, a copy in a step, a profile of steps."""

import os
import signal
import warnings

import jax
import pytest

from gcn_jax.checkpoints import manager as checkpoints
from gcn_jax.modes import train


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["check_finite", "put_batch"])
def test_a_stop_signal_at_any_moment_is_followed_by_a_save(config, tmp_path, monkeypatch, capfd, moment):
    config.log_every, config.num_steps, config.mesh.data = 1, 50, 1
    before_stop = [3]
    original = getattr(train, moment)

    def signalling(*args):
        before_stop[0] -= 1
        if before_stop[0] == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(*args)

    monkeypatch.setattr(train, moment, signalling)
    previous = signal.getsignal(signal.SIGTERM)
    train.run(config, tmp_path / "run")
    (step,) = checkpoints.saved_steps(tmp_path / "run")
    assert step in (3, 4)
    assert f"stopped by SIGTERM at step {step}" in capfd.readouterr().err
    assert signal.getsignal(signal.SIGTERM) == previous


@pytest.mark.slow
def test_a_copy_within_a_step_is_an_error(config, tmp_path, monkeypatch):
    """Such as of a batch that was left on the host: it would wait for the device at every step."""
    config.num_steps, config.mesh.data = 1, 1
    monkeypatch.setattr(train, "put_batch", lambda batch, *_: {key: batch[key] for key in ("image", "label")})
    with pytest.raises(jax.errors.JaxRuntimeError, match="Disallowed host-to-device transfer"):
        train.run(config, tmp_path / "run")


def test_a_profile_of_some_steps_is_written(config, tmp_path, capfd):
    """Of two steps from the second on, each marked by its number, as TensorBoard's profiler lists them."""
    config.num_steps, config.eval_every, config.mesh.data = 4, 100, 1
    train.run(config, tmp_path / "run", profile_steps=2)
    folder = tmp_path / "run" / "profile"
    assert f"profile of steps 1 to 2 written: {folder}\n" in capfd.readouterr().err
    (path,) = folder.glob("plugins/profile/*/*.xplane.pb")
    data = jax.profiler.ProfileData.from_file(str(path))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # jaxlib 0.12's, of its own types, which ends the process
        steps = [
            dict(event.stats)["step_num"]
            for plane in data.planes
            for line in plane.lines
            for event in line.events
            if event.name == "train"
        ]
    assert sorted(steps) == [1, 2]


def test_without_the_flag_no_profile_is_written(config, tmp_path, capfd):
    config.num_steps, config.eval_every, config.mesh.data = 2, 100, 1
    train.run(config, tmp_path / "run")
    assert not (tmp_path / "run" / "profile").exists()
    assert "profile" not in capfd.readouterr().err
