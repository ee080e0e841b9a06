"""The rooms of gcn_jax/: what each may import, how long its parts are; and a face that imports none of them."""

import ast
import os
import pathlib
import subprocess
import sys

import gcn_jax

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / "gcn_jax"
SOURCES = {path.relative_to(PACKAGE): path.read_text() for path in sorted(PACKAGE.rglob("*.py"))}
# From top to bottom: each imports only what stands after it; docs/architecture.md tells what each is for.
ROOMS = (
    "__init__", "command", "modes", "serving", "report", "evaluation", "export", "inference", "checkpoints", "planning",
    "config", "crf", "training", "runtime", "data", "models",
)  # fmt: skip
SUPPORT = ("files", "console", "tables", "errors")  # of all rooms; the one below the other
ORDER = (*ROOMS, *SUPPORT)
FACE = pathlib.Path("__init__.py")
PARTS = {"run.py": (ROOT / "run.py").read_text()}


def room_of(path):
    """The room of a file: the first folder, or the file."""
    return path.parts[0].removesuffix(".py")


def imports(text, path=FACE):
    """The full names that a module's text imports, at any place in it; `path` is its file in the package."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            folder = ("gcn_jax", *path.parent.parts)[: len(path.parent.parts) + 2 - node.level] if node.level else ()
            module = ".".join([*folder, *filter(None, [node.module])])
            found |= {f"{module}.{alias.name}" for alias in node.names}
    return found


def rooms_named(text, path):
    """The rooms that a module's text imports from; the face, if it names nothing in one."""
    names = [name.split(".") for name in imports(text, path)]
    inner = {parts[1] if len(parts) > 1 else "" for parts in names if parts[0] == "gcn_jax"}
    return {part if part in ORDER else "__init__" for part in inner}


def arrows_up(sources):
    """The imports of a lower room from a higher one, as (file, room)."""
    found = []
    for path, text in sources.items():
        room = room_of(path)
        above = ORDER[: ORDER.index(room)]
        found += [(path.as_posix(), other) for other in sorted(rooms_named(text, path)) if other in above]
    return found


def importers(library):
    """The files of gcn_jax/ that import a library, or a part of it."""
    return {
        path.as_posix()
        for path, text in SOURCES.items()
        if any(f"{name}.".startswith(f"{library}.") for name in imports(text, path))
    }


def test_every_room_has_its_place():
    assert {room_of(path) for path in SOURCES} == set(ORDER)
    assert len(SOURCES) > 60


def test_no_arrow_goes_up():
    assert not arrows_up(SOURCES)


def test_an_arrow_up_would_be_found():
    """In a function, for types alone, and by the package's own names."""
    texts = {
        "def f():\n    from gcn_jax.report import page": "report",
        "if TYPE_CHECKING:\n    from gcn_jax import modes": "modes",
        "import gcn_jax.evaluation.counts as c": "evaluation",
        "from gcn_jax import UserError": "__init__",
        "import gcn_jax": "__init__",
    }
    for text, room in texts.items():
        assert arrows_up({pathlib.Path("training/step.py"): text}) == [("training/step.py", room)]
    assert not arrows_up({pathlib.Path("training/step.py"): "from gcn_jax.models import Network"})
    for text, room in {"from ...modes import train": "modes", "from ... import data": "data", "from ..ops": ""}.items():
        found = arrows_up({pathlib.Path("models/decoders/gcn.py"): f"{text}" if room else f"{text} import cpu"})
        assert found == ([("models/decoders/gcn.py", room)] if room else [])


def test_models_import_no_other_room():
    for path, text in SOURCES.items():
        if room_of(path) == "models":
            assert rooms_named(text, path) <= {"models"}, path


def test_libraries_stay_in_their_rooms():
    assert importers("orbax") == {"checkpoints/manager.py"}
    assert importers("huggingface_hub") == {"checkpoints/named_weights.py", "export/hub.py"}
    assert importers("torchvision") == {"checkpoints/named_weights.py"}
    assert importers("jinja2")
    assert {room.split("/")[0] for room in importers("jinja2")} == {"report"}
    assert importers("absl.flags") | importers("ml_collections.config_flags") == {"command/start.py"}
    assert not importers("absl.app")
    readers = {file for file in importers("jax") if file.startswith("data/")}
    assert not readers, "images are read without JAX"


def functions(text):
    """(name, lines) of each function and method."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, node.end_lineno - node.lineno + 1


def test_files_and_functions_are_short():
    long = [(path.as_posix(), n) for path, text in SOURCES.items() if (n := len(text.splitlines())) > 300]
    long += [(f"{path}: {name}", n) for path, text in SOURCES.items() for name, n in functions(text) if n > 60]
    assert not long


def without_encoding(text):
    """The calls in a module's text that would read or write text in whatever encoding the machine has."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call) and not any(keyword.arg == "encoding" for keyword in node.keywords):
            modes = [a.value for a in node.args if isinstance(a, ast.Constant) and a.value in ("r", "w", "a", "x")]
            is_binary = any(isinstance(a, ast.Constant) and "b" in str(a.value) for a in node.args)
            match node.func:
                case ast.Attribute(attr="read_text" | "write_text"):
                    yield ast.unparse(node)
                case ast.Attribute(attr="open") if modes and ast.unparse(node.func) != "tarfile.open":
                    yield ast.unparse(node)
                case ast.Name(id="open") if not is_binary:
                    yield ast.unparse(node)


def test_text_is_utf_8_on_every_machine():
    assert not [(path, call) for path, text in (SOURCES | PARTS).items() for call in without_encoding(text)]
    wrong = ["path.read_text()", "open(path)", "path.open('w')", "open(path, 'r')", "path.write_text('')"]
    assert len(list(without_encoding("\n".join(wrong)))) == len(wrong)


def test_nothing_is_left_to_do():
    marks = ("TODO", "FIXME", "XXX")
    assert not [path for path, text in (SOURCES | PARTS).items() if any(mark in text for mark in marks)]


def test_no_test_file_imports_another():
    """What two share is in a module that is no test: helpers.py, pages.py, official_data.py, command_line.py."""
    for path in (ROOT / "tests").glob("*.py"):
        others = {name for name in imports(path.read_text()) if name.startswith("tests.test_")}
        assert not others, path


def python(code, *folders, **environment):
    """Runs code in a fresh interpreter that finds modules in folders first; returns what it prints."""
    found = os.pathsep.join(map(str, folders))
    command = [sys.executable, "-c", code]
    environment = {**os.environ, "PYTHONPATH": found, **environment}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, cwd=folders[0])
    assert done.returncode == 0, done.stderr
    return done.stdout


_FACE = """
import sys, gcn_jax
assert gcn_jax.__file__ == {file!r}
heavy = ["jax", "flax", "numpy", "scipy", "orbax", "tensorflow_datasets", "pycocotools", "PIL", "gcn_jax.models"]
heavy += ["onnx", "onnxruntime", "huggingface_hub", "torchvision"]
assert not [name for name in heavy if name in sys.modules], "importing the package imports none of them"
assert set(gcn_jax.__all__) <= set(dir(gcn_jax))
try:
    gcn_jax.nonesuch
except AttributeError as error:
    assert "nonesuch" in str(error)
else:
    raise AssertionError("an unknown name")
assert not [name for name in heavy if name in sys.modules], "nor does looking at it"
print([getattr(gcn_jax, name).__name__ for name in gcn_jax.__all__])
"""


def test_the_face_is_light():
    found = python(_FACE.format(file=str(PACKAGE / "__init__.py")), ROOT)
    assert found.strip() == str([getattr(gcn_jax, name).__name__ for name in gcn_jax.__all__])
