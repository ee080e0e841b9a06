"""Times exported models beside our own jitted forward pass, from an image's bytes to labels and probabilities.

    python -m bench.export [--size=512] [--formats onnx stablehlo]

By default: ResNet-152, 21 classes, k = 15, one image of 512x512, float32, on all cores; onnxruntime and OpenVINO with
the file of ONNX, jax with that of StableHLO, and LiteRT where its converter and interpreter are installed.
"""

import argparse
import pathlib
import tempfile
from typing import Any

import numpy as np

from bench.network import Contestant, Work, images_and_labels
from bench.timing import compare


def _segmenter(args: argparse.Namespace) -> Any:
    """A model of random weights, none of which are 0, since a converter would leave such blocks out."""
    from gcn_jax import config as config_lib
    from gcn_jax.config import settings
    from gcn_jax.inference.segmenter import make_segmenter
    from gcn_jax.models import init_variables

    config = config_lib.default()
    config.data.update(train="voc_segmentation/train", eval="voc_segmentation/val", size=args.size)
    config.model.update(backbone=args.backbone, kernel_size=args.kernel_size)
    variables = init_variables(settings.model_from(config), 0)
    for module in variables["params"]["backbone"].values():
        if "norm3" in module:  # whose scale starts at 0
            module["norm3"]["scale"] += np.float32(0.1)
    return make_segmenter(config, variables)


def _write(args: argparse.Namespace, folder: str) -> Work:
    """Writes a file of each format, in a process of its own."""
    import importlib

    segmenter = _segmenter(args)
    for name in args.formats:
        module = importlib.import_module(f"gcn_jax.export.{'onnx_file' if name == 'onnx' else name}")
        pathlib.Path(folder, f"model.{name}").write_bytes(module.to_bytes(segmenter, {}))
    return Work(lambda: None)


def ours(args: argparse.Namespace, folder: str) -> Work:
    """`Segmenter`'s program."""
    segmenter, image = _segmenter(args), images_and_labels(args.size, 1)[0][0]
    return Work(lambda: list(segmenter.rows(image, ("labels", "probabilities"))))


def onnxruntime(args: argparse.Namespace, folder: str) -> Work:
    """onnxruntime with the file of ONNX."""
    import onnxruntime

    session, images = onnxruntime.InferenceSession(f"{folder}/model.onnx"), images_and_labels(args.size, 1)[0]
    return Work(lambda: session.run(None, {"images": images}))


def openvino(args: argparse.Namespace, folder: str) -> Work:
    """OpenVINO with the file of ONNX, in float32: by itself it takes bfloat16 where the CPU has that."""
    import openvino

    model = openvino.compile_model(f"{folder}/model.onnx", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    images = images_and_labels(args.size, 1)[0]
    return Work(lambda: model(images))


def stablehlo(args: argparse.Namespace, folder: str) -> Work:
    """The file of StableHLO under jax.jit."""
    import jax.export

    exported = jax.export.deserialize(bytearray(pathlib.Path(folder, "model.stablehlo").read_bytes()))
    call, images = jax.jit(exported.call), images_and_labels(args.size, 1)[0]
    return Work(lambda: {name: np.asarray(value) for name, value in call(images).items()})


def litert(args: argparse.Namespace, folder: str) -> Work:
    """LiteRT's interpreter, with a thread for each core."""
    import os

    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(f"{folder}/model.tflite", num_threads=os.cpu_count())
    run, images = interpreter.get_signature_runner(), images_and_labels(args.size, 1)[0]
    return Work(lambda: run(images=images))


_PEERS = {
    "onnx": {"onnxruntime": onnxruntime, "OpenVINO": openvino},
    "stablehlo": {"jax, StableHLO": stablehlo},
    "tflite": {"LiteRT": litert},
}


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="resnet152")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--kernel_size", type=int, default=15)
    parser.add_argument("--formats", nargs="+", default=["onnx", "stablehlo"], choices=list(_PEERS))
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    case, name = {}, f"{args.backbone}, {args.size}x{args.size}"
    with tempfile.TemporaryDirectory() as folder:
        Contestant(_write, args, folder).close()
        sizes = {path.name: path.stat().st_size / 1e6 for path in sorted(pathlib.Path(folder).iterdir())}
        peers = {peer: make for kind in args.formats for peer, make in _PEERS[kind].items()}
        case = {peer: Contestant(make, args, folder) for peer, make in {"ours": ours, **peers}.items()}

        def details() -> dict[str, Any]:
            facts = {peer: {"first_call_s": c.first_seconds, "peak_gb": c.peak_gigabytes()} for peer, c in case.items()}
            for peer, values in facts.items():
                print(f"{name:<28}{peer:<24}first call {values['first_call_s']:.1f} s, peak {values['peak_gb']:.2f} GB")
            print(", ".join(f"{file} {size:.0f} MB" for file, size in sizes.items()))
            return {"details": facts, "megabytes": sizes}

        versions = ["jax", "numpy", *(["onnxruntime", "openvino"] if "onnx" in args.formats else [])]
        compare("export", {name: case}, rounds={name: args.rounds}, versions=versions, details=details)
        for contestant in case.values():
            contestant.close()


if __name__ == "__main__":
    main()
