"""Several processes that train together: how they meet, what they compare, what they compute."""

import http.server
import importlib.util
import json
import os
import shutil
import threading
import types

import jax
import numpy as np
import pytest
from PIL import Image

from gcn_jax.checkpoints.manager import saved_steps
from gcn_jax.config import settings
from gcn_jax.data.sources import ShapesSource
from gcn_jax.errors import UserError
from gcn_jax.runtime.processes import find_group
from tests import command_line
from tests.faults import SMALL, TIMEOUT, assert_same, free_port, state
from tests.helpers import check_mesh, mesh_of

TWO_STEPS = (
    "--config.data.train=folder/train",
    "--config.data.eval=folder/val",
    "--config.data.size=128",
    "--config.num_steps=2",
    "--config.log_every=1",
    "--config.optimizer.learning_rate=0.001",  # larger ones amplify the rounding of the first step in the second
    "--config.model.boundary_refine=False",  # compiled sooner
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, cache):
    """For runs that share data, with an odd number of images to evaluate, and compiled programs, in "cache"."""
    folder = tmp_path_factory.mktemp("distributed")
    (folder / "cache").symlink_to(cache)
    folder_of_images(folder / "data", "12345", [str(i) for i in range(6, 18)])
    return folder


def devices(count):
    """That many in a process. Without LLVM's optimization they compile in half the time.

    One device alone then adds up a batch number by number, which is 1e-5 off: it is to be optimized.
    """
    return {"XLA_FLAGS": f"--xla_force_host_platform_device_count={count} --xla_backend_optimization_level=0"}


def train(folder, workdir, *args, environment=()):
    common = ("--config.batch_size=4", f"--workdir={workdir}", f"--config.cache_dir={folder / 'cache'}")
    common += (f"--config.data_dir={folder / 'data'}",)
    return command_line.Fork(*SMALL, *common, *args, environment=environment)


def folder_of_images(path, val, train):
    """Images of `shapes` by the names of their places, as a user's own folder."""
    for kind in ("images", "masks"):
        (path / kind).mkdir(parents=True)
    for name in (*val, *train):
        sample = ShapesSource("train")[int(name)]
        Image.fromarray(sample["image"]).save(path / "images" / f"{name}.png")
        Image.fromarray(sample["label"]).save(path / "masks" / f"{name}.png")
    (path / "classes.txt").write_text("background\ndisk\nsquare\ntriangle\nring\ncross\n")
    (path / "val.txt").write_text("".join(f"{name}\n" for name in val))
    (path / "train.txt").write_text("".join(f"{name}\n" for name in train))
    return path


def named(index, count=2):
    """The values by which processes find each other, less the coordinator."""
    values = (f"num_processes={count}", f"process_id={index}", f"timeout={TIMEOUT * 3}")
    return [f"--config.distributed.{value}" for value in values]


def two(folder, workdirs, *args, own=((), ()), counts=(2, 2)):
    """Two processes, to their end; returns each one's status and stderr."""
    address = f"--config.distributed.coordinator=localhost:{free_port()}"
    forks = [
        train(folder, workdirs[i], *args, address, *named(i), *own[i], environment=devices(counts[i])) for i in range(2)
    ]
    return [(status, err) for status, (_, err) in (fork.end() for fork in forks)]


def error_line(err):
    """What `run.py` says, among lines that JAX writes when another process leaves."""
    return next(line for line in reversed(err.splitlines()) if line.startswith("run.py: error: "))


def srun(count, nodes, **others):
    """What srun sets for each of the tasks."""
    common = {"SLURM_JOB_ID": "123", "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": str(count)}
    common |= {"SLURM_STEP_NUM_TASKS": str(count), "SLURM_STEP_NUM_NODES": str(nodes), **others}
    return [common | {"SLURM_PROCID": str(i), "SLURM_LOCALID": str(i % (count // nodes))} for i in range(count)]


@pytest.fixture(scope="module")
def alone(folder):
    """The workdir of a run on one device."""
    status, (_, err) = train(folder, folder / "alone", *TWO_STEPS).end()
    assert status == 0, err
    return folder / "alone"


def assert_close(workdir, alone):
    """Metrics, scores, parameters, batch statistics and momentum of two runs; a pixel more would change the scores."""
    ours, theirs = (
        [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()] for path in (workdir, alone)
    )
    assert [record["step"] for record in ours] == [1, 2, 2], "one process writes the log"
    for record, expected in zip(ours, theirs, strict=True):
        record.pop("images_per_second", None), expected.pop("images_per_second", None)
        np.testing.assert_allclose(list(record.values()), list(expected.values()), rtol=1e-5, err_msg=str(record))
        assert record.keys() == expected.keys()
    ours, theirs = state(workdir, 2), state(alone, 2)
    assert ours.pop("data") == theirs.pop("data") == {"batches": 2}
    for kind in ("params", "batch_stats", "trace"):
        keys = [key for key in theirs if kind in key]
        assert len(keys) > 20, kind
        scale = 1.0 if kind == "batch_stats" else max(np.abs(theirs[key]).max() for key in keys)  # variances are near 1
        for key in keys:
            np.testing.assert_allclose(ours[key], theirs[key], rtol=1e-5, atol=1e-5 * scale, err_msg=key)


@pytest.mark.slow
@pytest.mark.parametrize("space", [1, 2])
def test_two_processes_train_as_one(folder, alone, space):
    args = (*TWO_STEPS, f"--config.mesh.data={4 // space}", f"--config.mesh.space={space}")
    for status, err in two(folder, [folder / f"space{space}"] * 2, *args):
        assert status == 0, err
    assert_close(folder / f"space{space}", alone)


@pytest.mark.slow
def test_tasks_of_slurm_train_one_image_on_the_devices_of_both(folder, alone):
    """Each of the images; then another start goes on from the first step, bit for bit."""
    args, workdir, again = (*TWO_STEPS, "--config.mesh.data=1", "--config.mesh.space=4"), folder / "srun", folder / "on"

    def run(workdir):
        tasks = srun(2, nodes=2, JAX_COORDINATOR_PORT=str(free_port()))
        forks = [train(folder, workdir, *args, environment={**devices(2), **task}) for task in tasks]
        for status, (_, err) in (fork.end() for fork in forks):
            assert status == 0, err
            assert "joining 2 processes: SLURM_STEP_NODELIST=localhost" in err
            assert "mesh {'data': 1, 'space': 4}" in err
        return err

    run(workdir)
    assert_close(workdir, alone)
    shutil.copytree(workdir, again)
    shutil.rmtree(again / "checkpoints/2")
    assert "resuming from step 1 of" in run(again)
    assert saved_steps(again) == [1, 2]
    assert_same(workdir, again, 2)


@pytest.mark.slow
def test_processes_with_other_values_say_which(folder, tmp_path):
    own = ((), ("--config.batch_size=8", "--config.model.kernel_size=5", "--config.data.num_threads=1"))
    for status, err in two(folder, [tmp_path / "run"] * 2, own=own):
        assert status == 2, err
        assert error_line(err) == (
            "run.py: error: config.batch_size is 4 in process 0, 8 in process 1; "
            "config.data.num_threads is 4 in process 0, 1 in process 1; "
            "config.model.kernel_size is 3 in process 0, 5 in process 1; "
            "all processes need the same command, code and data"
        )
        assert "Traceback" not in err
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_processes_with_other_data_say_which(folder, tmp_path):
    own = [(f"--config.data_dir={folder_of_images(tmp_path / str(i), '5', ['1', '2', str(3 + i)])}",) for i in range(2)]
    for status, err in two(folder, [tmp_path / "run"] * 2, *TWO_STEPS, own=own):
        assert status == 2, err
        line = error_line(err)
        assert line.startswith("run.py: error: config.data.train='folder/train' is 3 images with ids of digest ")
        assert "in process 0, 3 images with ids of digest" in line
        assert "config.data.eval" not in line
        assert "Traceback" not in err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("own_workdirs", "args", "counts", "messages"),
    [
        (True, (), (2, 2), ["process 1: --workdir={1}: not the folder", "--workdir={1}: not the folder"]),
        (False, (), (1, 2), ["all processes need the same number of devices. Got {{0: 1, 1: 2}}"] * 2),
        (False, ("batch_size=6", "mesh.space=2"), (3, 3), ["config.mesh: data=3 x space=2 does not divide over 2"] * 2),
    ],
)
def test_what_only_one_process_sees_ends_both(folder, tmp_path, own_workdirs, args, counts, messages):
    workdirs = [tmp_path / f"run{i * own_workdirs}" for i in range(2)]
    ends = two(folder, workdirs, *(f"--config.{arg}" for arg in args), counts=counts)
    for (status, err), message in zip(ends, messages, strict=True):
        assert status == 2, err
        assert message.format(*workdirs) in error_line(err)
        assert "Traceback" not in err
    assert not [path for path in tmp_path.rglob("*") if path not in workdirs], "nothing is left behind"


@pytest.mark.slow
def test_processes_that_do_not_meet(folder, tmp_path):
    args = ("coordinator=localhost:9", "num_processes=2", "process_id=1", "timeout=3")
    fork = train(folder, tmp_path / "run", *(f"--config.distributed.{arg}" for arg in args))
    status, (_, err) = fork.end(TIMEOUT * 6)
    assert status == 2, err
    message = "config.distributed.coordinator=localhost:9: not all 2 processes have met there within 3 s"
    assert message in error_line(err)
    assert "Traceback" not in err
    assert not (tmp_path / "run").exists()


def refused(folder, workdir, *args):
    """What stderr holds of a mistake."""
    common = (f"--config.data_dir={folder / 'data'}", f"--workdir={workdir}", f"--config.cache_dir={folder / 'cache'}")
    return command_line.refused(*SMALL, *common, *args)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("coordinator=localhost",), "config.distributed.coordinator must be HOST:PORT, or empty. Got 'localhost'"),
        (("num_processes=2",), "config.distributed.coordinator is empty"),
        (("coordinator=localhost:9", "process_id=1"), "config.distributed.process_id=1: must be below"),
        (("num_processes=0",), "config.distributed.num_processes must be positive"),
        (("timeout=0",), "config.distributed.timeout must be positive"),
    ],
)
def test_values_by_which_none_could_meet(folder, tmp_path, args, message):
    err = refused(folder, tmp_path / "run", *(f"--config.distributed.{arg}" for arg in args))
    assert message in error_line(err)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_task_of_slurm_does_not_wait_for_ever(folder, tmp_path):
    task = srun(2, nodes=1, JAX_COORDINATOR_PORT=str(free_port()))[1]
    status, (_, err) = train(folder, tmp_path / "run", "--config.distributed.timeout=3", environment=task).end(60)
    assert status == 2, err
    assert error_line(err) == (
        "run.py: error: SLURM_STEP_NODELIST=localhost: not all 2 processes have met there within 3 s "
        "(config.distributed.timeout); see whether all tasks of the step run, and whether its nodes reach each "
        "other's ports"
    )


@pytest.mark.parametrize(
    ("args", "environment", "name"),
    [
        (["--config.distributed.coordinator=localhost:9"], {}, "config.distributed.coordinator=localhost:9"),
        ([], srun(2, nodes=1)[0], "SLURM_STEP_NODELIST=localhost"),
    ],
)
def test_only_training_runs_over_several_processes(folder, tmp_path, monkeypatch, args, environment, name):
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    err = refused(folder, tmp_path / "run", "--mode=eval", *args)
    assert len(err.splitlines()) == 1
    assert f"{name}: --mode=eval runs in one process; " in err


@pytest.fixture
def bare(monkeypatch):
    """An environment that says nothing; to say something in."""
    for name in os.environ:
        if name.startswith(("SLURM_", "TPU_", "CUDA_", "JAX_PLATFORMS", "GCE_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "1")
    return lambda values: [monkeypatch.setenv(name, value) for name, value in values.items()]


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"KUBERNETES_SERVICE_HOST": "10.0.0.1"},
        {"SLURM_JOB_ID": "123", "SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"},  # a batch script
        {**srun(1, nodes=1)[0], "SLURM_NTASKS": "4"},  # the shell that salloc -n4 opens by srun --preserve-env
        {"TPU_WORKER_ID": "0", "TPU_WORKER_HOSTNAMES": "localhost"},
        {"TPU_WORKER_ID": "0", "TPU_WORKER_HOSTNAMES": "a,b", "JAX_PLATFORMS": "cpu"},
    ],
)
def test_who_is_alone_joins_nobody(config, bare, environment):
    bare(environment)
    assert find_group(settings.meeting(config)) is None


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        (srun(4, nodes=4)[3], {"process_id": 3, "local_device_ids": []}),  # all GPUs of its node
        (srun(4, nodes=4, CUDA_VISIBLE_DEVICES="0,1")[3], {"process_id": 3, "local_device_ids": []}),
        (srun(4, nodes=2, CUDA_VISIBLE_DEVICES="0")[3], {"process_id": 3, "local_device_ids": []}),  # bound by SLURM
        (srun(4, nodes=2, CUDA_VISIBLE_DEVICES="0,1")[3], {"process_id": 3}),  # JAX takes that of SLURM_LOCALID
        (srun(4, nodes=2)[2], {"process_id": 2}),
    ],
)
def test_which_devices_a_task_of_slurm_takes(config, bare, environment, expected):
    bare(environment)
    found = find_group(settings.meeting(config))
    assert found.size == 4
    assert found.arguments == {"num_processes": 4, "cluster_detection_method": "slurm", **expected}


def test_what_the_user_says_goes_first(config, bare):
    bare(srun(4, nodes=4)[3])
    config.distributed.update(coordinator="a:1", num_processes=2, process_id=1)
    found = find_group(settings.meeting(config))
    assert found.arguments == {
        "coordinator_address": "a:1",
        "num_processes": 2,
        "process_id": 1,
        "cluster_detection_method": "deactivate",
    }


@pytest.mark.parametrize(
    ("environment", "size"),
    [
        ({"TPU_WORKER_ID": "1", "TPU_WORKER_HOSTNAMES": "a,b"}, 2),
        ({"TPU_WORKER_ID": "1", "TPU_PROCESS_ADDRESSES": "a:1,b:1,c:1"}, 3),
    ],
)
def test_hosts_of_a_slice_by_their_environment(config, bare, environment, size):
    bare(environment)
    found = find_group(settings.meeting(config))
    assert (found.size, found.arguments) == (size, {"cluster_detection_method": "gketpu"})


@pytest.mark.parametrize(
    ("answer", "size"),
    [("a:1:10.0.0.1,b:2:10.0.0.2,c:3:10.0.0.3", 3), ("10.0.0.1,10.0.0.2", 2), ("10.0.0.1", 0), ("", 0)],
)
def test_hosts_of_a_slice_by_the_metadata_server(config, bare, monkeypatch, answer, size):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            is_right = self.path.endswith("/instance/attributes/worker-network-endpoints")
            self.send_response(200 if answer and is_right and self.headers["Metadata-Flavor"] == "Google" else 404)
            self.end_headers()
            self.wfile.write(answer.encode())

        def log_message(self, *_):
            pass

    bare({"JAX_PLATFORMS": "tpu,cpu"})
    monkeypatch.delenv("TPU_SKIP_MDS_QUERY")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name == "libtpu" or None)
    with http.server.HTTPServer(("localhost", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("GCE_METADATA_IP", f"localhost:{server.server_port}")
        found = find_group(settings.meeting(config))
        server.shutdown()
    assert (found and (found.size, found.arguments)) == (
        (size, {"cluster_detection_method": "gcetpu"}) if size else None
    )


def fake_mesh(owners):
    """A mesh, [data, space], of devices of which only the process is known."""
    owners = np.array(owners)
    places = np.vectorize(lambda process: types.SimpleNamespace(process_index=process), otypes=[object])(owners)
    return types.SimpleNamespace(
        devices=places, size=owners.size, shape=dict(zip(("data", "space"), owners.shape, strict=True))
    )


@pytest.mark.parametrize(
    ("owners", "is_fine"),
    [
        ([[0], [0], [1], [1]], True),
        ([[0], [1], [0], [1]], True),
        ([[0, 1], [0, 1], [2, 3], [2, 3]], True),
        ([[0, 0, 1, 1]], True),
        ([[0, 0], [0, 1], [1, 1]], False),  # the second image on devices of both, the others not
        ([[0, 1, 0, 1], [2, 2, 2, 2], [3, 3, 3, 3]], True),
        ([[0, 1], [0, 1], [2, 2]], False),  # shares of two images and of one
    ],
)
def test_processes_hold_the_same_images_or_others(config, owners, is_fine):
    config.batch_size, config.data.size = 12, 128
    mesh = fake_mesh(owners)
    if is_fine:
        check_mesh(config, mesh)
    else:
        with pytest.raises(UserError, match=r"does not divide over [23] processes.*set config.mesh.space to a divisor"):
            check_mesh(config, mesh)


def test_all_devices_of_several_processes_take_part(config, monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 3)
    config.mesh.data, config.batch_size = 6, 6
    with pytest.raises(UserError, match="all 8 must take part"):
        check_mesh(config, mesh_of(config))
