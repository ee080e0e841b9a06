"""What clusters do to runs: kills, full disks, damaged files, notices, dead processes."""

import contextlib
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import jax
import pytest

from gcn_jax import config as config_lib
from gcn_jax.checkpoints import digests, saved_config
from gcn_jax.checkpoints.manager import Checkpoints, load_variables, saved_steps, set_damaged_aside
from gcn_jax.errors import TrainingError, UserError
from tests import command_line
from tests.faults import SMALL, Job, assert_same, kill_and_compare
from tests.helpers import new_state

LATE = ("_CHECKPOINT_METADATA", "commit_success.txt")  # not digested; nothing is read from them


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """For runs that share their compiled programs, in "cache"."""
    return tmp_path_factory.mktemp("faults")


def tiny_config():
    config = config_lib.default()
    config.num_steps = 3
    config.data.update(train="shapes/train", eval="shapes/val", size=64)
    config.model.update(backbone="resnet14", width=4, kernel_size=3)
    return config


@functools.cache
def tiny(**optimizer):
    config = tiny_config()
    config.optimizer.update(optimizer)
    return new_state(config, 0)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A workdir with checkpoints 1 and 2; not to be changed."""
    workdir = tmp_path_factory.mktemp("two") / "run"
    with Checkpoints(workdir, 2) as saver:
        for step in (1, 2):
            saver.save(tiny().replace(step=jax.numpy.int32(step)), {"batches": step})
    return workdir


def truncated(path):
    path.write_bytes(path.read_bytes()[:-1])


def garbled(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_one_wrong_bit_of_any_file_is_noticed(two, tmp_path):
    workdir = shutil.copytree(two, tmp_path / "run")
    checkpoint = workdir / "checkpoints" / "2"
    assert digests.damage(checkpoint) == ""
    files = [path for path in checkpoint.rglob("*") if path.is_file()]
    assert len(files) > 8
    for path in files:
        name = path.relative_to(checkpoint).as_posix()
        for hurt in (truncated, garbled) if name == "digests.json" else (truncated, garbled, type(path).unlink):
            whole = path.read_bytes()
            hurt(path)
            assert bool(digests.damage(checkpoint)) == (name not in LATE), (name, hurt)
            path.write_bytes(whole)
    assert digests.damage(checkpoint) == ""


@pytest.mark.parametrize("hurt", [truncated, garbled, os.unlink])
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_used(two, tmp_path, capfd, hurt):
    workdir = shutil.copytree(two, tmp_path / "run")
    (workdir / "best.json").write_text('{"step": 2, "miou": 0.5}')
    hurt(max((workdir / "checkpoints/2").rglob("*"), key=lambda path: path.stat().st_size * path.is_file()))
    other = shutil.copytree(workdir, tmp_path / "other")
    size = sum(path.stat().st_size for path in (workdir / "checkpoints/2").rglob("*") if path.is_file())

    set_damaged_aside(workdir)
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"warning: {workdir}/checkpoints/2 is damaged (state/")
    assert saved_steps(workdir) == [1]
    aside = workdir / "checkpoints/2.damaged"
    assert sum(path.stat().st_size for path in aside.rglob("*") if path.is_file()) == size, "nothing is deleted"
    with Checkpoints(workdir, 2) as saver:
        state, iterator = saver.restore(tiny())
        assert (int(state.step), iterator) == (1, {"batches": 1})
        saver.save(state.replace(step=state.step + 1), {"batches": 2})
    assert saved_steps(workdir) == [1, 2]
    assert aside.is_dir()

    assert load_variables(other, "best", averaged=False)[0] == 1
    assert "set aside as 2.damaged" in capfd.readouterr().err
    assert load_variables(other, "latest", averaged=False)[0] == 1
    assert capfd.readouterr().err == ""


def test_empty_folders_and_many_damaged_ones(two, tmp_path, capfd):
    workdir = shutil.copytree(two, tmp_path / "run")
    (workdir / "checkpoints/3").mkdir()
    (workdir / "checkpoints/2.damaged").mkdir()
    (workdir / "checkpoints/2/digests.json").write_bytes(b"\x80")
    set_damaged_aside(workdir)
    assert [line.rpartition(": ")[2].split(";")[0] for line in capfd.readouterr().err.splitlines()] == [
        "set aside as 3.damaged",
        "set aside as 2.damaged1",
    ]
    assert load_variables(workdir, "best", averaged=False)[0] == 1


def test_a_checkpoint_of_an_earlier_version_has_no_digests_and_is_used(two, tmp_path):
    workdir = shutil.copytree(two, tmp_path / "run")
    (workdir / "checkpoints/2/digests.json").unlink()
    set_damaged_aside(workdir)
    assert load_variables(workdir, "latest", averaged=False)[0] == 2


def test_a_whole_checkpoint_of_another_structure_is_refused_and_stays(two, tmp_path):
    workdir = shutil.copytree(two, tmp_path / "run")
    set_damaged_aside(workdir)
    with Checkpoints(workdir, 2) as saver, pytest.raises(UserError, match="not a checkpoint of this config's model"):
        saver.restore(tiny(ema_decay=0.5))
    assert saved_steps(workdir) == [1, 2]


@pytest.mark.slow
def test_training_goes_on_from_before_the_damage_bit_for_bit(folder, tmp_path):
    whole = Job(folder / "whole", folder / "cache", 6)
    whole.finish()
    hurt = Job(tmp_path / "run", folder / "cache", 6)
    shutil.copytree(whole.workdir, hurt.workdir)
    garbled(max((hurt.workdir / "checkpoints/6/state").rglob("*"), key=lambda path: path.stat().st_size))
    (fork,) = hurt.start()
    status, (_, err) = fork.end()
    assert status == 0, err
    assert sum("is damaged" in line for line in err.splitlines()) == 1
    assert f"resuming from step 5 of {hurt.workdir}" in err
    assert_same(whole.workdir, hurt.workdir, 6)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 2.5 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2560k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("needs the right to mount a small file system")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


def train(workdir, folder, *args):
    return command_line.Fork(*SMALL, f"--workdir={workdir}", f"--config.cache_dir={folder / 'cache'}", *args)


@pytest.mark.slow
def test_a_full_disk_stops_training_and_keeps_what_is_good(small_disk, folder):
    workdir, args = small_disk / "run", ("--config.num_steps=12", "--config.keep_checkpoints=12")
    status, (_, err) = train(workdir, folder, *args).end()
    assert status == 1, err
    steps = saved_steps(workdir)
    assert 1 <= len(steps) < 12
    assert all(not digests.damage(workdir / "checkpoints" / str(step)) for step in steps)
    full = ("/checkpoints: cannot be written (No space left on device)", ": No space left on device")  # the log's line
    last = f"the last good checkpoint is {workdir}/checkpoints/{steps[-1]}"
    assert err.splitlines()[-1] in [f"run.py: training stopped: {workdir}{reason}; {last}" for reason in full]
    assert "Traceback" not in err
    subprocess.run(["mount", "-o", "remount,size=40m", small_disk], check=True)
    status, (_, err) = train(workdir, folder, *args).end()
    assert status == 0, err
    assert f"resuming from step {steps[-1]} of" in err
    assert saved_steps(workdir)[-1] == 12
    assert not list((workdir / "checkpoints").glob("*tmp*"))


LATE_WRITE = """
import asyncio, sys, threading, tensorstore
from gcn_jax.command import start
sys.unraisablehook = start._unraisable
promise, future = tensorstore.Promise.new()
async def wait():
    await future
async def give_up():
    task = asyncio.ensure_future(wait())
    await asyncio.sleep(0)
    return task
loop = asyncio.new_event_loop()
task = loop.run_until_complete(give_up())
loop.close()
writer = threading.Thread(target=promise.set_result, args=(1,))
writer.start()
writer.join()
class Other:
    def __del__(self):
        raise ValueError("this is told")
Other()
"""


def test_a_write_that_ends_after_a_failed_save_prints_no_traceback():
    ended = subprocess.run([sys.executable, "-c", LATE_WRITE], cwd=command_line.ROOT, capture_output=True, text=True)
    assert ended.returncode == 0
    assert "ValueError: this is told" in ended.stderr
    assert "Event loop is closed" not in ended.stderr


@pytest.mark.slow
def test_a_log_that_cannot_be_written_stops_training(small_disk, folder):
    workdir = small_disk / "run"
    args = ("--config.num_steps=100000", "--config.checkpoint_every=100000", "--config.log_every=1")
    fork = train(workdir, folder, *args)
    while "step 1/" not in fork.texts()[1]:
        assert fork.process.is_alive(), fork.texts()[1]
        time.sleep(0.05)
    with contextlib.suppress(OSError), (small_disk / "filler").open("wb", buffering=0) as filler:
        while True:
            filler.write(bytes(512))
    status, (_, err) = fork.end()
    assert status == 1, err
    assert "No space left on device" in err.splitlines()[-1]
    assert err.splitlines()[-1].startswith(f"run.py: training stopped: {workdir}")
    assert "Traceback" not in err


def fill(disk, left):
    """Leaves a number of bytes on a file system."""
    with contextlib.suppress(OSError), (disk / "filler").open("wb", buffering=0) as filler:
        while True:
            filler.write(bytes(4096))
    os.truncate(disk / "filler", (disk / "filler").stat().st_size - left)


@pytest.mark.slow
def test_a_full_disk_in_the_middle_of_writing_results_is_one_line(two, small_disk, folder):
    """The page does not fit; the table is printed, and what was written before is whole."""
    workdir, other = small_disk / "run", small_disk / "other"
    for path in (workdir, other):
        shutil.copytree(two, path)
        saved_config.save(tiny_config(), path)
    args = ("--config=configs/shapes.py", f"--config.cache_dir={folder / 'cache'}", f"--workdir={workdir}")
    fork = command_line.Fork(*args, f"--workdir={other}", "--mode=eval")
    while "evaluating step" not in fork.texts()[1]:
        assert fork.process.is_alive(), fork.texts()[1]
        time.sleep(0.05)
    fill(small_disk, left=100 * 2**10)
    status, (out, err) = fork.end()
    assert status == 2, err
    assert err.splitlines()[-1] == f"run.py: error: {workdir / 'report.html'}: No space left on device"
    assert "Traceback" not in err
    assert out.count("mean IoU") > 2
    assert out.splitlines()[-1].startswith(str(other)), "the comparison is printed, too"
    assert json.loads((workdir / "eval.json").read_text())["num_images"] == 200
    assert not list(small_disk.rglob("*.part")) + list(small_disk.rglob("report.html"))


@pytest.mark.slow
def test_eval_when_nobody_reads_its_table(two, folder, tmp_path):
    workdir = shutil.copytree(two, tmp_path / "run")
    saved_config.save(tiny_config(), workdir)
    args = f"--config=configs/shapes.py --config.cache_dir={folder / 'cache'} --workdir={workdir} --mode=eval"
    shell = f"{sys.executable} run.py {args} | true"
    ended = subprocess.run(
        ["bash", "-o", "pipefail", "-c", shell], cwd=command_line.ROOT, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    assert "Traceback" not in ended.stderr
    assert "BrokenPipe" not in ended.stderr
    assert (workdir / "report.html").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("closed", ["stderr", "both"])
def test_training_goes_on_when_its_output_is_closed(folder, tmp_path, closed):
    job = Job(tmp_path / "run", folder / "cache", 12)
    rest = ""
    with command_line.start(*job.args) as process:
        for line in process.stderr:
            if line.startswith("step 5/"):
                break
        for name in ("stdout", "stderr"):
            if closed in (name, "both"):
                getattr(process, name).close()
        if not process.stderr.closed:
            rest = process.stderr.read()
    assert process.returncode == 0, rest
    assert "Traceback" not in rest
    assert job.newest() == 12
    assert "images_per_second" in (job.workdir / "metrics.jsonl").read_text().splitlines()[-2]


# Runs run.py with its stdin as controlling terminal; and with SIGHUP ignored, as by nohup, or not, whatever it is here.
IN_TERMINAL = """
import fcntl, os, signal, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
signal.signal(signal.SIGHUP, signal.SIG_IGN if sys.argv[1] == "True" else signal.SIG_DFL)
os.execv(sys.executable, [sys.executable, "run.py", *sys.argv[2:]])
"""


@pytest.mark.slow
@pytest.mark.parametrize("ignored", [False, True])
def test_a_closed_terminal_stops_training_unless_it_is_to_go_on(folder, tmp_path, ignored):
    """The kernel sends SIGHUP, and what is printed after that fails."""
    job = Job(tmp_path / "run", folder / "cache", 20 if ignored else 4000)
    terminal, end = os.openpty()
    environment = {**os.environ, "XLA_FLAGS": ""}
    process = subprocess.Popen(
        [sys.executable, "-c", IN_TERMINAL, str(ignored), *job.args], cwd=command_line.ROOT, env=environment,
        stdin=end, stdout=end, stderr=end, start_new_session=True,
    )  # fmt: skip
    os.close(end)
    try:
        while job.newest() < 3:
            assert process.poll() is None, os.read(terminal, 10000)
            time.sleep(0.05)
        os.close(terminal)
        assert process.wait(300) == 0
    finally:
        process.kill()
    assert job.newest() >= 3
    assert (job.newest() == 20) if ignored else (job.newest() < 4000)
    assert not digests.damage(job.workdir / "checkpoints" / str(job.newest()))


@pytest.mark.slow
def test_a_second_hangup_does_not_kill(folder, tmp_path):
    job = Job(tmp_path / "run", folder / "cache", 4000)
    (fork,) = job.start()
    while job.newest() < 3:
        assert fork.process.is_alive(), fork.texts()[1]
        time.sleep(0.05)
    for _ in range(3):
        os.kill(fork.process.pid, signal.SIGHUP)
        time.sleep(0.01)
    status, (_, err) = fork.end()
    assert status == 0, err
    assert f"stopped by SIGHUP at step {job.newest()}; the same command goes on from there" in err


def test_a_failed_save_is_noticed_at_the_next_check(tmp_path, monkeypatch):
    """Not only at the next save, which may be an hour away."""

    def fail(*_):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(digests, "write", fail)
    saver = Checkpoints(tmp_path, 2)
    saver.save(tiny(), {"batches": 0})
    with pytest.raises(TrainingError, match=r"No space left on device\); there is no checkpoint yet"):
        _check_for(saver, seconds=60)


def _check_for(saver, seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        saver.check()
        time.sleep(0.1)


@pytest.mark.slow
def test_kills_at_random_moments_change_no_bit(tmp_path):
    """In full: `make faults`."""
    kill_and_compare(tmp_path, seed=1, num_kills=2)


@pytest.mark.slow
def test_kills_of_one_of_two_processes_change_no_bit(folder):
    kill_and_compare(folder, seed=1, num_kills=1, num_processes=2)


@pytest.mark.slow
@pytest.mark.parametrize("notice", [signal.SIGTERM, signal.SIGHUP])
def test_a_notice_to_one_process_stops_all_at_the_same_step(folder, tmp_path, notice):
    job = Job(tmp_path / "run", folder / "cache", 400, num_processes=2)
    forks = job.start()
    while job.newest() < 3:
        assert all(fork.process.is_alive() for fork in forks), [fork.texts()[1] for fork in forks]
        time.sleep(0.05)
    os.kill(forks[1].process.pid, notice)
    ends = [fork.end() for fork in forks]
    assert [status for status, _ in ends] == [0, 0], ends
    line = f"stopped by SIGTERM at step {job.newest()}; the same command goes on from there"
    assert all(line in err.splitlines() for _, (_, err) in ends), ends  # JAX may tell then that the other has left
    assert job.newest() < 400
