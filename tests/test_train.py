"""The loop itself, in this process: a stop signal at any moment of a step."""

import os
import signal

import pytest

from gcn_jax.checkpoints import manager as checkpoints
from gcn_jax.modes import train


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
