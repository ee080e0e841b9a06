"""Draws the pictures of the README and of docs/ from the workdir of `make demo`, each for a light and a dark page.

    make demo
    .venv/bin/python docs/pictures/draw.py --workdir=runs/shapes

Written beside this file: `shapes_light.png`, `shapes_dark.png`, the first images of shapes/val above their truth and
what the network finds; and, by Chromium, `report_light.png`, `report_dark.png`, the top of `report.html`.
"""

import argparse
import pathlib
import shutil
import subprocess
import tempfile

import numpy as np
from PIL import Image, ImageDraw, ImageFont

import gcn_jax
from gcn_jax.data.shapes import draw
from gcn_jax.data.specs import VOID

HERE = pathlib.Path(__file__).parent
NUM_IMAGES = 8  # the first ones, not chosen
SIDE, FACTOR = 48, 4  # pixels of the middle of each image, which no side of shapes is below; their enlargement
CELL, GAP, MARGIN, RADIUS = SIDE * FACTOR, 12, 40, 16  # pixels
REPORT = (1120, 1010)  # pixels, the top of the page
OBJECTS = ["#4c9be8", "#f0a43a", "#3fb68b", "#dd5f8d", "#8f74e6"]  # disk, square, triangle, ring, cross
# Theme -> its colours of the ground and of void, and of words; and what Chromium calls it.
THEMES = {
    "light": {"ground": "#e8ecf1", "void": "#ffffff", "words": "#59636e", "scheme": "1"},
    "dark": {"ground": "#232b36", "void": "#0d1117", "words": "#9198a1", "scheme": "0"},
}


def rgb(color: str) -> tuple[int, ...]:
    """Red, green and blue of "#rrggbb"."""
    return tuple(bytes.fromhex(color[1:]))


def tile(picture: np.ndarray) -> Image.Image:
    """The middle of an image, uint8 [H, W, 3], enlarged, with round corners."""
    top, left = ((length - SIDE) // 2 for length in picture.shape[:2])
    cell = Image.fromarray(picture[top : top + SIDE, left : left + SIDE]).resize((CELL, CELL), Image.Resampling.NEAREST)
    mask = Image.new("L", (4 * CELL, 4 * CELL))  # drawn large, so that its corners are smooth
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, 4 * CELL - 1, 4 * CELL - 1), 4 * RADIUS, 255)
    cell.putalpha(mask.resize(cell.size, Image.Resampling.LANCZOS))
    return cell


def label_maps(workdir: pathlib.Path) -> None:
    """Images, truth and predictions, a row each."""
    segmenter = gcn_jax.load(workdir)
    samples = [draw("val", index) for index in range(NUM_IMAGES)]
    predictions = [segmenter.predict(image) for image, _ in samples]
    for name, theme in THEMES.items():
        palette = np.zeros((256, 3), np.uint8)
        palette[: 1 + len(OBJECTS)] = [rgb(color) for color in (theme["ground"], *OBJECTS)]
        palette[VOID] = rgb(theme["void"])
        rows = {
            "image": [tile(image) for image, _ in samples],
            "truth": [tile(palette[label]) for _, label in samples],
            "prediction": [tile(palette[labels]) for labels in predictions],
        }
        size = MARGIN + NUM_IMAGES * (CELL + GAP) - GAP, len(rows) * (CELL + GAP) - GAP
        sheet = Image.new("RGBA", size)
        for i, (title, tiles) in enumerate(rows.items()):
            words = Image.new("RGBA", (CELL, MARGIN))
            ImageDraw.Draw(words).text((CELL / 2, 4), title, theme["words"], ImageFont.load_default(24), anchor="mt")
            sheet.alpha_composite(words.rotate(90, expand=True), (0, i * (CELL + GAP)))
            for j, cell in enumerate(tiles):
                sheet.alpha_composite(cell, (MARGIN + j * (CELL + GAP), i * (CELL + GAP)))
        sheet.save(HERE / f"shapes_{name}.png", optimize=True)


def report(page: pathlib.Path, chromium: str) -> None:
    """The top of a report's page."""
    for name, theme in THEMES.items():
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder, "page.png")
            options = (
                "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={folder}",
                f"--blink-settings=preferredColorScheme={theme['scheme']}", f"--window-size={REPORT[0]},2000",
            )  # fmt: skip
            command = [chromium, *options, f"--screenshot={path}", page.resolve().as_uri()]
            subprocess.run(command, check=True, capture_output=True)
            top = Image.open(path).convert("RGB").crop((0, 0, *REPORT))
        top.save(HERE / f"report_{name}.png", optimize=True)


def main() -> None:
    """Draws all pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("runs/shapes"))
    parser.add_argument("--chromium", default="chromium", help="the browser that draws the report")
    args = parser.parse_args()
    label_maps(args.workdir)
    if shutil.which(args.chromium):
        report(args.workdir / "report.html", args.chromium)
    else:
        print(f"{args.chromium} is not installed: report_*.png are left as they are")


if __name__ == "__main__":
    main()
