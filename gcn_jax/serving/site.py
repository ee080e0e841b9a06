"""A page without a server: a folder of files that labels photos inside a browser, by onnxruntime-web."""

import json
import pathlib
import shutil
import tempfile

from gcn_jax.console import say
from gcn_jax.errors import UserError
from gcn_jax.files import write_bytes, write_text
from gcn_jax.serving.models import Model, describe

PAGE = pathlib.Path(__file__).with_name("page")
VERSION = "1.30.0"  # of onnxruntime-web, with which the page was tested
_FILES = {  # of the page -> what the folder calls them
    "index.html": "index.html",
    "style.css": "style.css",
    "icon.svg": "icon.svg",
    "page.js": "page.js",
    "files.js": "files.js",
    "worker.js": "worker.js",
    "engine_browser.js": "engine.js",
}
_RUNTIME = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")
_SIDES = (512, 1024)  # longest sides of photos to choose from; a browser has less memory than a server


def find_runtime(output: pathlib.Path) -> pathlib.Path:
    """The folder of onnxruntime-web's files, which npm installed in the current folder.

    Raises:
      UserError: naming the output, if it is not there, or a file of it is missing.
    """
    package = pathlib.Path("node_modules", "onnxruntime-web")
    try:
        version = json.loads((package / "package.json").read_text(encoding="utf-8"))["version"]
    except (OSError, ValueError, KeyError, TypeError):
        version = None
    missing = [name for name in _RUNTIME if not (package / "dist" / name).is_file()]
    if version is None or missing:
        what = f"{package / 'dist' / missing[0]} is missing" if version else "it is not in node_modules/"
        raise UserError(
            f"--output={output}: a folder gets a page, which runs by onnxruntime-web, but {what}: npm install "
            f"onnxruntime-web@{VERSION}; or name a file, such as model.onnx"
        )
    if version != VERSION:
        say(f"{package}: version {ascii(version)[:40]}; the page was tested with {VERSION}")
    return package / "dist"


def write(output: pathlib.Path, runtime: pathlib.Path, model: Model, graph: bytes, longest: int) -> None:
    """Writes the folder, whole or not at all.

    Args:
      output: the folder, which is empty or not there.
      runtime: of onnxruntime-web's files.
      model: what is told of it.
      graph: the model as ONNX.
      longest: side to which photos are reduced unless one chooses another; 0: as in training.

    Raises:
      OSError: if it cannot be written.
    """
    default = longest or model.size
    about = {
        "where": "browser",
        "models": [{**describe(model), "scale": model.scale}],
        "longest": default,
        "sides": sorted({default, *_SIDES}),
    }
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}.") as partial:
        folder = pathlib.Path(partial, output.name)
        folder.mkdir()
        for name, called in _FILES.items():
            shutil.copyfile(PAGE / name, folder / called)
        for name in _RUNTIME:
            shutil.copyfile(runtime / name, folder / name)
        write_bytes(folder / "model.onnx", graph)
        write_text(folder / "models.json", json.dumps(about, indent=2) + "\n")
        folder.replace(output)
