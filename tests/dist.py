"""``make dist``: builds the sdist and the wheel into dist/, checks them, and runs the wheel in an empty environment."""

import os
import pathlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
import venv

ROOT = pathlib.Path(__file__).parents[1]
DIST = ROOT / "dist"
LEFT_OUT = {".gitignore", ".ci/run"}  # of the repository, by the sdist


def run(*command, cwd=ROOT):
    """Runs a command, which must succeed; returns what it prints. It knows nothing of this checkout."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [*map(str, command)], cwd=cwd, env=environment, stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{done.stdout}\nmake dist: failed: {' '.join(map(str, command))}")
    return done.stdout


def build():
    """The sdist and the wheel that is built of it."""
    shutil.rmtree(DIST, ignore_errors=True)
    run(sys.executable, "-m", "build", "--outdir", DIST)
    (sdist,), (wheel,) = DIST.glob("*.tar.gz"), DIST.glob("*.whl")
    print(run(sys.executable, "-m", "twine", "check", "--strict", sdist, wheel))
    return sdist, wheel


def check_holds_all(sdist):
    """The sdist has every file of the repository, so that the tests run from it."""
    with tarfile.open(sdist) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    tracked = set(run("git", "ls-files").splitlines()) - LEFT_OUT
    if missing := sorted(tracked - held):
        raise SystemExit(f"make dist: {sdist.name} lacks {', '.join(missing)}; see MANIFEST.in")


def check_runs(wheel, folder):
    """The command trains and predicts in an environment that has the wheel and what it asks for, no more."""
    venv.create(folder / "venv", with_pip=True)
    programs = folder / "venv" / "bin"
    pip = (programs / "python", "-m", "pip", "--quiet", "--disable-pip-version-check")
    run(*pip, "install", "-c", ROOT / "requirements.txt", wheel)
    run(*pip, "check")
    typed = "import gcn_jax, pathlib; print((pathlib.Path(gcn_jax.__file__).parent / 'py.typed').is_file())"
    if run(programs / "python", "-c", typed, cwd=folder) != "True\n":
        raise SystemExit(f"make dist: {wheel.name} lacks py.typed")
    command = programs / "gcn_jax"
    print(run(command, "--help", cwd=folder))
    small = ("--config.num_steps=2", "--config.model.width=4")
    run(command, "train", "shapes", "--workdir=run", *small, cwd=folder)
    shutil.copy(ROOT / "docs" / "crf.jpg", folder / "photo.jpg")
    run(command, "predict", "run", "photo.jpg", "--output=predictions", cwd=folder)
    if not (folder / "predictions" / "photo.png").is_file():
        raise SystemExit("make dist: predict wrote no mask")


if __name__ == "__main__":
    archive, package = build()
    check_holds_all(archive)
    with tempfile.TemporaryDirectory() as place:
        check_runs(package, pathlib.Path(place))
    print(f"make dist: {archive.name} and {package.name} are sound")
