// Labels photos in this browser, by onnxruntime-web in a worker: no photo leaves it.

export async function open(info, progress) {
  const [model] = info.models;
  const worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
  let waiting = null; // the two functions of the promise of an answer

  worker.onmessage = ({ data }) => {
    if (data.progress) progress(data.progress);
    else if (data.error) waiting.reject(new Error(data.error));
    else waiting.resolve(data);
  };
  worker.onerror = (event) => waiting?.reject(new Error(event.message || "onnxruntime-web cannot be loaded"));
  const ask = (message, transfer = []) =>
    new Promise((resolve, reject) => {
      waiting = { resolve, reject };
      worker.postMessage(message, transfer);
    });

  await ask({ open: true });

  // The labels and the confidence (255 is 1) of a photo, a byte for each pixel, row by row.
  async function label(photo, { longest }) {
    const bitmap = await createImageBitmap(photo.file, { colorSpaceConversion: "none", premultiplyAlpha: "none" });
    const factor = Math.min(1, longest / Math.max(bitmap.width, bitmap.height));
    const [width, height] = [bitmap.width, bitmap.height].map((side) => Math.max(1, Math.round(side * factor)));
    const [columns, rows] = [width, height].map((side) => Math.max(1, Math.round(side * model.scale)));
    const context = new OffscreenCanvas(columns, rows).getContext("2d", { alpha: false, willReadFrequently: true });
    context.imageSmoothingQuality = "high";
    context.drawImage(bitmap, 0, 0, columns, rows);
    bitmap.close();
    const { data } = context.getImageData(0, 0, columns, rows);
    const pixels = new Uint8Array(columns * rows * 3);
    for (let from = 0, to = 0; to < pixels.length; from += 4) {
      pixels[to++] = data[from];
      pixels[to++] = data[from + 1];
      pixels[to++] = data[from + 2];
    }
    return ask({ pixels, columns, rows, width, height, classes: model.classes.length }, [pixels.buffer]);
  }

  return {
    label,
    check: () => "",
    where: "Photos are labelled in this browser, and never leave it.",
    notes: ["The model runs by onnxruntime-web, on one processor core unless the page is served as cross-origin isolated."],
  };
}
