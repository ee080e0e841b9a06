"""A page to drop photos on, and the endpoint for programs: right labels, bounds, and clear answers."""

import concurrent.futures
import functools
import http.server
import io
import json
import pathlib
import re
import threading
import zipfile
import zlib

import numpy as np
import psutil
import pytest
import requests
from PIL import Image

from gcn_jax import config as config_lib
from gcn_jax.checkpoints import model_file
from gcn_jax.config import settings
from gcn_jax.config.settings import Protocol, Serving
from gcn_jax.data import pictures
from gcn_jax.errors import UserError
from gcn_jax.inference.segmenter import load, make_segmenter
from gcn_jax.models import init_variables
from gcn_jax.modes import export, serve
from gcn_jax.serving import photos, site
from gcn_jax.serving.models import Model, Switches, switched
from tests import browser
from tests.command_line import Fork
from tests.helpers import randomize

MISSING = 'pip install -c requirements.txt ".[dev]"'
PAGE = site.PAGE


def photo_of(height, width, seed=0):
    """A random photo of blocks, uint8 [H, W, 3]."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 255, (-(-height // 8), -(-width // 8), 3), np.uint8)
    return blocks.repeat(8, 0).repeat(8, 1)[:height, :width]


def png(photo):
    buffer = io.BytesIO()
    Image.fromarray(photo).save(buffer, "PNG")
    return buffer.getvalue()


def pixels(response):
    return np.asarray(Image.open(io.BytesIO(response.content)))


@pytest.fixture(scope="module")
def trained():
    """The config of a tiny model on `shapes`."""
    config = config_lib.default()
    config.num_steps = 6
    config.data.update(train="shapes/train", eval="shapes/val", size=64)
    config.model.update(backbone="resnet14", width=8, kernel_size=3)
    return config


@pytest.fixture(scope="module")
def segmenter(trained):
    """The model, with random weights."""
    return make_segmenter(trained, randomize(init_variables(settings.model_from(trained), 0)))


def server_of(segmenter, *others, **values):
    """A server of a model, and others by their names."""
    app = pytest.importorskip("gcn_jax.serving.app", reason=MISSING)
    models = [Model("first", 6, segmenter), *(Model(name, 6, other) for name, other in others)]
    return app.Server(models, Serving(**values))


def client_of(server):
    testclient = pytest.importorskip("starlette.testclient", reason=MISSING)
    return testclient.TestClient(server.app(), base_url="http://localhost:7860")


@pytest.fixture
def client(segmenter):
    return client_of(server_of(segmenter))


def test_the_endpoint_gives_our_labels(client, segmenter):
    photo = photo_of(50, 60)
    (expected,) = segmenter.rows(photo, ("labels", "confidence"))
    palette = segmenter.spec.palette()
    assert len(np.unique(expected["labels"])) > 1
    labels = client.post("/label", content=png(photo))
    assert labels.status_code == 200
    assert labels.headers["content-type"] == "image/png"
    image = Image.open(io.BytesIO(labels.content))
    np.testing.assert_array_equal(np.asarray(image), expected["labels"])
    np.testing.assert_array_equal(np.asarray(image.convert("RGB")), palette[expected["labels"]])
    confidence = pixels(client.post("/label?output=confidence&model=first", content=png(photo)))
    np.testing.assert_allclose(confidence, 255 * expected["confidence"], atol=0.51)
    maps = client.post("/label?output=maps", content=png(photo))
    assert (maps.headers["label-width"], maps.headers["label-height"]) == ("60", "50")
    both = np.frombuffer(maps.content, np.uint8).reshape(2, 50, 60)  # the client has decompressed it
    np.testing.assert_array_equal(both, [expected["labels"], confidence])
    overlay = client.post("/label?output=overlay", content=png(photo))
    drawn = pictures.overlay(photo, expected["labels"], palette)
    away = [np.abs(pixels(overlay).astype(int) - other).mean() for other in (drawn, photo)]
    assert away[0] < away[1] / 3  # it is a JPEG
    np.testing.assert_array_equal(pixels(client.post("/photo", content=png(photo))).shape, photo.shape)


def test_a_reduced_photo_gives_labels_of_its_own_size(client, segmenter):
    photo = photo_of(120, 80)
    small = np.asarray(Image.fromarray(photo).resize((40, 60), Image.Resampling.BILINEAR))
    expected = segmenter.predict(small).repeat(2, 0).repeat(2, 1)
    found = client.post("/label?longest=60", content=png(photo))
    assert found.headers["label-width"] == "40"
    np.testing.assert_array_equal(pixels(found), expected)


def test_what_the_switches_change():
    plain, several = Protocol(64, scales=(0.5,)), Protocol(64, scales=(0.5, 1.0), flip=True, crf="10,3,1,4,67,3")
    off, on = Switches(False, False), Switches(True, True)
    assert switched(plain, off, off, 0.5) == plain
    assert switched(plain, off, on, 0.5) == Protocol(64, scales=(0.375, 0.5, 0.625), flip=True, crf="voc")
    assert switched(several, on, on, 1.0) == several
    assert switched(several, on, off, 1.0) == Protocol(64)
    assert switched(several, on, Switches(True, False), 1.0) == Protocol(64, scales=(0.5, 1.0), flip=True)


def test_a_program_learns_of_the_models(segmenter):
    told = client_of(server_of(segmenter, ("second", segmenter), longest=96)).get("/models.json").json()
    assert [model["name"] for model in told["models"]] == ["first", "second"]
    assert [one["name"] for one in told["models"][0]["classes"]] == segmenter.spec.class_names
    assert told["longest"] == 96


def header_of_a_bomb():
    """A PNG whose header states 100 megapixels, and which has none."""
    body = b"IHDR" + (10_000).to_bytes(4, "big") * 2 + bytes([8, 2, 0, 0, 0])
    header = (13).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")
    return b"\x89PNG\r\n\x1a\n" + header + (1000).to_bytes(4, "big") + b"IDAT"


@pytest.mark.parametrize(
    ("status", "text", "address", "body"),
    [
        (400, "the body is empty", "/label", b""),
        (400, "not a readable image", "/label", b"no photo"),
        (400, "damaged or truncated", "/label", png(photo_of(50, 60))[:-300]),
        (413, "10000x10000 pixels, but 50 million are taken", "/label", header_of_a_bomb()),
        (413, "more than 1 MB", "/label", bytes(1_000_001)),
        (413, "more than 1 MB", "/photo", bytes(1_000_001)),
        (400, "nonesuch: unknown parameter; known: model", "/label?nonesuch=1", b"x"),
        (400, "model=<b>: unknown; known: first", "/label?model=<b>", b"x"),
        (400, "output=polygons: must be one of labels", "/label?output=polygons", b"x"),
        (400, "crf=yes: must be true or false", "/label?crf=yes", b"x"),
        (400, "longest=-1", "/label?longest=-1", b"x"),
        (400, "longest=1", "/label?longest=1", b"x"),
        (400, "crf: given twice", "/label?crf=true&crf=false", b"x"),
        (404, "Not Found", "/nonesuch", b"x"),
    ],
)
def test_a_wrong_request_gets_one_clear_line(segmenter, status, text, address, body):
    response = client_of(server_of(segmenter, max_megabytes=1)).post(address, content=body)
    assert response.status_code == status
    assert response.headers["content-type"].startswith("text/plain")
    assert text in response.text
    assert response.text.count("\n") == 1


def test_a_form_is_refused_with_the_way_to_send(client):
    response = client.post("/label", files={"file": png(photo_of(40, 40))})
    assert (response.status_code, "--data-binary" in response.text) == (415, True)
    assert client.get("/label").status_code == 405


def test_a_crf_takes_no_photo_in_windows(client):
    response = client.post("/label?crf=true", content=png(photo_of(40, 2100)))
    assert response.status_code == 400
    assert "the CRF takes a whole image" in response.text


def test_no_other_site_can_use_the_server(segmenter):
    """Neither by the browser of a person who visits it, nor by a name that leads to this machine."""
    server = server_of(segmenter)
    client = client_of(server)
    assert client.get("/", headers={"Origin": "http://localhost:7860"}).status_code == 200
    for headers, status in (
        ({"Origin": "http://elsewhere.org"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://localhost:80"}, 403),
        ({"Host": "elsewhere.org:7860"}, 421),
        ({"Host": "localhost.elsewhere.org"}, 421),
        ({"Host": "["}, 421),
    ):
        assert client.post("/label", content=b"x", headers=headers).status_code == status, headers
    testclient = pytest.importorskip("starlette.testclient")
    public = testclient.TestClient(server.app(is_local=False), base_url="http://machine.lan")
    assert public.get("/").status_code == 200
    assert public.get("/", headers={"Origin": "http://elsewhere.org"}).status_code == 403
    policy = client.get("/").headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert not re.search(r"unsafe|https?:|\*", policy)


def test_more_photos_than_may_wait_are_told_so(segmenter, monkeypatch):
    server = server_of(segmenter, queue=2)
    began, may_go = threading.Semaphore(0), threading.Event()

    def slow(segmenter, photo, stop):
        began.release()
        assert may_go.wait(60)
        return np.zeros((2, 40, 40), np.uint8)

    monkeypatch.setattr(photos, "label", slow)
    body = png(photo_of(40, 40))
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(client_of(server).post, "/label", content=body) for _ in range(2)]
        try:
            assert began.acquire(timeout=60)
            while server._taken < 2:
                threading.Event().wait(0.01)
            busy = client_of(server).post("/label", content=body)
        finally:
            may_go.set()
        assert (busy.status_code, busy.headers["retry-after"]) == (503, "2")
        assert "busy" in busy.text
        assert [response.result().status_code for response in waiting] == [200, 200]
    assert client_of(server).post("/label", content=body).status_code == 200


def test_the_page_is_whole_and_asks_nothing_of_others(client):
    """Each file that one of the page names is served, and no address of another server is in any."""
    names = set()
    for path in PAGE.iterdir():
        text = path.read_text(encoding="utf-8")
        named = re.findall(r"https?://[^\s\"'`<]+", text)
        assert set(named) <= {"http://localhost:8000", "http://www.w3.org/2000/svg"}, path
        if path.name != "worker.js" and path.name != "engine_browser.js":
            names |= set(re.findall(r'(?:src|href|from|fetch\()=? ?"(?:\./)?([\w.]+\.\w+)"', text))
    assert names == {"style.css", "page.js", "icon.svg", "engine.js", "files.js", "models.json"}
    for name in ["", *names]:
        assert client.get(f"/{name}").status_code == 200, name


def test_models_are_called_as_their_folders(tmp_path):
    (tmp_path / "one.safetensors").touch()
    first, second, third = tmp_path / "one.safetensors", tmp_path / "a" / "run", tmp_path / "b" / "run"
    assert serve.names([first, second]) == ["one", "run"]
    assert serve.names([first, second, third]) == ["one", str(second), str(third)]


def test_what_cannot_be_served_is_refused_at_the_start(config, tmp_path):
    pytest.importorskip("uvicorn", reason=MISSING)
    with serve.listen("127.0.0.1", 0) as taken:
        config.serve.port = taken.getsockname()[1]
        with pytest.raises(UserError, match=rf"config\.serve\.port={config.serve.port}: cannot be listened at .*or 0"):
            serve.run({tmp_path: config})
    for host in ("192.0.2.1", "nonesuch.invalid"):
        config.serve.update(host=host, port=0)
        with pytest.raises(UserError, match=rf"config\.serve\.host={host}: cannot be listened at"):
            serve.run({tmp_path: config})
    config.data.update(train="folder/train", eval="folder/val", classes=("sea", "land"), multi_label=True)
    with pytest.raises(UserError, match=r"may overlap .*--mode=predict"):
        serve.run({tmp_path: config})
    config.data.update(multi_label=False, channels="4")
    with pytest.raises(UserError, match=r"takes bands .*--mode=predict"):
        serve.run({tmp_path: config})


@pytest.mark.parametrize(
    ("key", "value"),
    [("host", ""), ("host", "a b"), ("port", 70_000), ("longest", 8), ("max_megapixels", 200.0), ("queue", 0)],
)
def test_wrong_values_are_refused(config, key, value):
    config.serve[key] = value
    with pytest.raises(UserError, match=rf"config\.serve\.{key}"):
        config_lib.validate(config)


# The page without a server.


@pytest.fixture
def exported(segmenter, trained, tmp_path):
    """A model's file."""
    path = tmp_path / "blocks.safetensors"
    model_file.save(path, segmenter.variables, trained, 6)
    return path


def test_a_site_needs_the_package_of_npm(config, exported, tmp_path, monkeypatch):
    pytest.importorskip("onnx", reason=MISSING)
    monkeypatch.chdir(tmp_path)
    output = pathlib.Path("site")
    with pytest.raises(UserError, match=rf"--output=site: .*npm install onnxruntime-web@{site.VERSION}"):
        export.run(config, exported, output)
    package = tmp_path / "node_modules" / "onnxruntime-web"
    (package / "dist").mkdir(parents=True)
    (package / "package.json").write_text(json.dumps({"version": site.VERSION}), encoding="utf-8")
    with pytest.raises(UserError, match=r"dist/ort\.wasm\.bundle\.min\.mjs is missing"):
        export.run(config, exported, output)
    assert not output.exists()
    for name in ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"):
        (package / "dist" / name).write_bytes(b"of the package")
    export.run(config, exported, output)
    text = (output / "index.html").read_text(encoding="utf-8") + (output / "page.js").read_text(encoding="utf-8")
    text += "".join((output / name).read_text(encoding="utf-8") for name in ("engine.js", "worker.js"))
    named = set(re.findall(r'"(?:\./)?([\w.-]+\.(?:js|mjs|css|svg|json|onnx|wasm))"', text))
    assert named == {path.name for path in output.iterdir()} - {"index.html"}
    about = json.loads((output / "models.json").read_text(encoding="utf-8"))
    assert about["models"][0] | {"scale": 1.0, "name": "blocks", "step": 6} == about["models"][0]
    assert about["longest"] == 64
    with pytest.raises(UserError, match="exists already"):
        export.run(config, exported, output)
    assert not list(tmp_path.glob(".site*"))


@pytest.fixture
def serving(exported, cache):
    """Starts ``--mode=serve`` of the model's file with flags; gives its address and its process."""
    pytest.importorskip("uvicorn", reason=MISSING)
    forks = []

    def start(*flags):
        arguments = ["--config=configs/shapes.py", f"--workdir={exported}", "--mode=serve", "--config.serve.port=0"]
        forks.append(Fork(*arguments, f"--config.cache_dir={cache}", *flags))
        for _ in range(1200):
            out, err = forks[-1].texts()
            if "is ready" in out:
                return out.split()[0], psutil.Process(forks[-1].process.pid), err
            assert forks[-1].process.is_alive(), err
            threading.Event().wait(0.1)
        raise AssertionError(err)

    yield start
    for fork in forks:
        psutil.Process(fork.process.pid).terminate()
        fork.end()


@pytest.mark.slow
def test_people_label_photos_with_the_page(serving, exported, tmp_path):
    url, _, err = serving()
    assert "no password" not in err
    photo, other = photo_of(50, 60), photo_of(40, 64, seed=1)
    for name, image in (("one.png", photo), ("two.png", other)):
        Image.fromarray(image).save(tmp_path / name)
    (tmp_path / "broken.jpg").write_bytes(b"no photo")
    segmenter = load(exported)
    with browser.opened(url) as page:
        browser.label(page, tmp_path / "one.png", tmp_path / "two.png", tmp_path / "broken.jpg")
        assert "broken.jpg" in page.inner_text("#messages")
        assert page.locator("#strip button.done").count() == 2
        page.select_option("#side", "0")
        page.wait_for_selector("#strip:not(:has(button:not(.done)))", state="attached", timeout=240_000)
        mask = np.asarray(Image.open(browser.saved(page, ".save_mask", tmp_path)))
        np.testing.assert_array_equal(mask, segmenter.predict(photo))
        archive = zipfile.ZipFile(browser.saved(page, "#zip", tmp_path))
        assert archive.testzip() is None
        two = np.asarray(Image.open(io.BytesIO(archive.read("two.png"))))
        np.testing.assert_array_equal(two, segmenter.predict(other))
        page.hover(".stage")
        assert re.fullmatch(r"[a-z]+ · >?\d+% sure", page.inner_text("#tip"))
        before = page.locator(".stage").screenshot()
        page.fill("#opacity", "0")
        assert page.locator(".stage").screenshot() != before
        overlay = Image.open(browser.saved(page, ".save_overlay", tmp_path)).convert("RGB")
        assert overlay.size == (60, 50)


@pytest.mark.slow
def test_fifty_at_once_and_a_large_photo_in_bounded_memory(serving, exported):
    url, process, _ = serving("--config.serve.queue=50")
    body, expected = png(photo_of(64, 64)), load(exported).predict(photo_of(64, 64))
    before = process.memory_info().rss
    with concurrent.futures.ThreadPoolExecutor(50) as pool:
        found = list(pool.map(lambda _: requests.post(f"{url}label", data=body, timeout=120), range(50)))
    for response in found:
        assert response.status_code == 200
        np.testing.assert_array_equal(pixels(response), expected)
    large = io.BytesIO()
    Image.new("RGB", (10_000, 10_000)).save(large, "PNG")
    response = requests.post(f"{url}label", data=large.getvalue(), timeout=60)
    assert (response.status_code, "10000x10000 pixels" in response.text) == (413, True)
    assert process.memory_info().rss - before < 300e6
    assert requests.post(f"{url}label", data=b"no photo", timeout=60).status_code == 400
    assert requests.post(f"{url}label", data=body, timeout=60).status_code == 200


@pytest.mark.slow
def test_a_browser_labels_as_we_do(exported, config, tmp_path, monkeypatch):
    pytest.importorskip("onnx", reason=MISSING)
    monkeypatch.chdir(browser.ROOT)
    if not pathlib.Path("node_modules/onnxruntime-web").is_dir():
        pytest.skip(f"needs npm install onnxruntime-web@{site.VERSION}")
    export.run(config, exported, tmp_path / "site")
    photo = photo_of(50, 60)
    Image.fromarray(photo).save(tmp_path / "one.png")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path / "site")
    monkeypatch.setattr(http.server.SimpleHTTPRequestHandler, "log_message", lambda *_: None)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with browser.opened(f"http://127.0.0.1:{server.server_port}/") as page:
            browser.label(page, tmp_path / "one.png")
            mask = np.asarray(Image.open(browser.saved(page, ".save_mask", tmp_path)))
        server.shutdown()
    expected = load(exported).predict(photo)
    assert len(np.unique(expected)) > 1
    assert mask.shape == expected.shape
    assert (mask == expected).mean() > 0.99
