"""The README and docs/ name files, keys, flags, modes and tests that exist. (`make docs` checks links to headings.)"""

import json
import pathlib
import re

import pytest

from gcn_jax import config as config_lib
from gcn_jax.modes import FLAGS, MODES

ROOT = pathlib.Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXTS = {page.relative_to(ROOT).as_posix(): page.read_text(encoding="utf-8") for page in PAGES}
TUTORIAL = json.loads((ROOT / "docs" / "tutorial.ipynb").read_text(encoding="utf-8"))
TEXTS["docs/tutorial.ipynb"] = "\n\n".join("".join(cell["source"]) for cell in TUTORIAL["cells"])
FOLDERS = ("gcn_jax", "configs", "bench", "tests", "docs", "examples")


def found(pattern):
    """Each match of a pattern in a page, with the page's name."""
    return sorted({(name, match) for name, text in TEXTS.items() for match in re.findall(pattern, text)})


def test_readme_is_short():
    assert len(TEXTS["README.md"].splitlines()) <= 130


def test_links_and_pictures_exist():
    links = found(r"\]\(([^)#\s]+)[^)]*\)") + found(r'(?:src|srcset)="([^"]+)"')
    local = [(name, link) for name, link in links if "://" not in link]
    assert len(local) > 30
    missing = [(name, link) for name, link in local if not (ROOT / name).parent.joinpath(link).exists()]
    assert not missing


def test_named_files_exist():
    paths = found(rf"`((?:{'|'.join(FOLDERS)})/[\w./]*)`")
    assert len(paths) > 20
    assert not [(name, path) for name, path in paths if not (ROOT / path).exists()]


def test_named_keys_exist():
    keys = found(r"config\.([a-z_]+(?:\.[a-z_]+)*)")
    files = {(name, key) for name, key in keys if key in ("json", "py")}
    config = config_lib.default()

    def exists(key):
        group, _, rest = key.partition(".")
        return group in config and (not rest or rest in config[group])

    assert len(keys) > 40
    assert not [(name, key) for name, key in keys if (name, key) not in files and not exists(key)]


def test_named_flags_and_modes_exist():
    named = set()
    for text in TEXTS.values():
        for command in re.findall(r"(?:run\.py|\n    gcn_jax) (?:.*\\\n)*.*", text):
            named |= set(re.findall(r"--([a-z_]+)", command))
    assert "workdir" in named
    assert named <= {"config", "mode", "help", "version", "completion", *FLAGS}
    modes = {mode for _, mode in found(r"--mode=([a-z_]+)") + found(r"\n    gcn_jax ([a-z_]+)")}
    assert "train" in modes
    assert modes <= set(MODES)


@pytest.mark.parametrize("page", ["docs/security.md", "docs/scaling.md"])
def test_named_tests_exist(page):
    tests = "\n".join(path.read_text() for path in (ROOT / "tests").glob("**/*.py"))
    names = set(re.findall(r"`(?:[\w/.]*: )?(test_\w+)`", TEXTS[page]))
    files = set(re.findall(r"\b(test_\w+\.py)", TEXTS[page]))
    assert files
    assert not [name for name in names if f"def {name}(" not in tests]
    assert not [file for file in files if not list((ROOT / "tests").glob(f"**/{file}"))]
