// The page: photos come in, an engine labels them, and the masks lie over them. engine.js is one of two: of a server, or
// of this browser alone.

import * as engines from "./engine.js";
import { dropped, enlarged, palettePng, save, zip } from "./files.js";

const MOST = 200; // photos at a time
const IMAGE = /\.(jpe?g|jpe|jfif|png|bmp|webp|gif|tiff?|hei[cf]|avif|jp2|ppm)$/i;
const $ = (id) => document.getElementById(id);
const photos = []; // {name, file, url, image, results}
const off = new Set(["background"]); // names of the classes that are not drawn
let info, engine, current, isWorking = false;

function element(tag, attributes = {}, ...children) {
  const made = Object.assign(document.createElement(tag), attributes);
  made.append(...children);
  return made;
}

function tell(text, kind = "") {
  const close = element("button", { type: "button", textContent: "×", title: "Dismiss" });
  const line = element("li", { className: kind }, element("span", { textContent: text }), close);
  close.onclick = () => line.remove();
  $("messages").append(line);
  if (kind) setTimeout(() => line.remove(), 8000);
  while ($("messages").children.length > 4) $("messages").firstChild.remove();
}

// Photos come in.

async function take(files, ofFolder = false) {
  const wanted = ofFolder ? files.filter((file) => IMAGE.test(file.name) && !file.name.startsWith(".")) : files;
  if (ofFolder && !wanted.length) tell("No photo is in that folder.");
  if (ofFolder && wanted.length < files.length) tell(`${files.length - wanted.length} files that are no photos were left out.`, "info");
  if (photos.length + wanted.length > MOST) tell(`At most ${MOST} photos at a time: the first ones were taken.`);
  for (const file of wanted.slice(0, MOST - photos.length)) {
    const problem = engine.check(file);
    if (problem) {
      tell(`${file.name}: ${problem}`);
      continue;
    }
    try {
      await add(file);
    } catch (error) {
      tell(`${file.name}: ${error.message}`);
    }
  }
  work();
}

async function add(file) {
  let shown = file, image = await opened(file);
  if (!image && engine.shown) image = await opened((shown = await engine.shown(file)));
  if (!image) throw new Error("this browser cannot read it as a photo");
  const photo = { name: file.name, file, image, url: image.src, results: new Map() };
  photos.push(photo);
  photo.button = element("button", { type: "button", title: file.name, onclick: () => show(photo) },
    element("img", { src: photo.url, alt: file.name }), element("i"));
  $("strip").append(photo.button);
  $("strip").hidden = photos.length < 2;
  $("drop").classList.add("small");
  $("tools").hidden = false;
  $("zip").hidden = photos.length < 2;
  if (photos.length === 1 || !current) show(photo);
}

async function opened(file) {
  const image = element("img", { src: URL.createObjectURL(file) });
  try {
    await image.decode();
    return image;
  } catch {
    URL.revokeObjectURL(image.src);
    return null;
  }
}

// Photos are labelled, one at a time: first the one that is shown.

const chosenModels = () => info.models.filter((model) => !$("models").querySelector(`input[value="${CSS.escape(model.name)}"]:not(:checked)`));

function optionsFor(model) {
  const options = { model: model.name, longest: Number($("side").value) };
  return info.where === "server" ? { ...options, multi_scale: $("multi_scale").checked, crf: $("crf").checked } : options;
}

const resultOf = (photo, model) => photo.results.get(JSON.stringify(optionsFor(model)));

async function work() {
  if (isWorking) return;
  isWorking = true;
  for (let job; (job = nextJob()); ) {
    const { photo, model } = job, options = optionsFor(model), start = performance.now();
    const result = { state: "busy", start };
    photo.results.set(JSON.stringify(options), result);
    update(photo);
    try {
      const maps = await engine.label(photo, options);
      Object.assign(result, maps, { state: "done", seconds: (performance.now() - start) / 1000 });
    } catch (error) {
      Object.assign(result, { state: "failed", error: error.message });
    }
    update(photo);
  }
  isWorking = false;
}

function nextJob() {
  const first = current ? [current, ...photos.filter((photo) => photo !== current)] : photos;
  for (const photo of first)
    for (const model of chosenModels())
      if (!resultOf(photo, model)) return { photo, model };
  return null;
}

// A photo and its masks are shown.

function show(photo) {
  current = photo;
  for (const other of photos) other.button.toggleAttribute("aria-current", other === photo);
  $("panes").replaceChildren(...chosenModels().map((model) => pane(photo, model)));
  update(photo);
  work();
}

function pane(photo, model) {
  const made = $("pane").content.firstElementChild.cloneNode(true), find = (query) => made.querySelector(query);
  made.model = model;
  find("h2").textContent = info.models.length > 1 ? model.name : photo.name;
  Object.assign(find("img"), { src: photo.url, alt: photo.name, className: photo.image.naturalWidth < 480 ? "small" : "" });
  find(".stage").onpointermove = (event) => tip(event, photo, model);
  find(".stage").onpointerleave = () => ($("tip").hidden = true);
  const stem = photo.name.replace(/\.[^.]*$/, ""), suffix = info.models.length > 1 ? `_${model.name.replace(/[^\w.-]+/g, "_")}` : "";
  find(".save_mask").onclick = async () => save(await mask(photo, model), `${stem}${suffix}.png`);
  find(".save_overlay").onclick = async () => save(await overlay(photo, model), `${stem}${suffix}_overlay.jpg`);
  return made;
}

function update(photo) {
  const states = chosenModels().map((model) => resultOf(photo, model)?.state ?? "waiting");
  photo.button.className = ["failed", "busy", "waiting"].find((state) => states.includes(state)) ?? "done";
  const isDone = (other) => chosenModels().some((model) => resultOf(other, model)?.state === "done");
  $("zip").disabled = !photos.every((other) => ["done", "failed"].includes(other.button.className)) || !photos.some(isDone);
  if (photo === current) for (const made of $("panes").children) draw(made, photo);
}

function draw(made, photo) {
  const { model } = made, result = resultOf(photo, model), find = (query) => made.querySelector(query);
  const isDone = result?.state === "done", working = find(".working");
  working.hidden = isDone;
  working.classList.toggle("failed", result?.state === "failed");
  if (!isDone) working.lastChild.textContent = result?.error ?? "";
  for (const button of made.querySelectorAll(".actions button")) button.disabled = !isDone;
  find("canvas").hidden = !isDone;
  find(".facts").textContent = isDone ? facts(photo, result) : "";
  find(".legend").replaceChildren(...(isDone ? legend(result, model) : []));
  find(".absent").textContent = isDone ? absent(result, model) : "";
  if (isDone) paint(find("canvas"), result, model);
}

function facts(photo, { width, height, seconds }) {
  const { naturalWidth: own, naturalHeight: high } = photo.image;
  const size = own === width && high === height ? `${width} × ${height}` : `${own} × ${high}, labelled at ${width} × ${height}`;
  return `${size} · ${seconds.toFixed(1)} s`;
}

function counted(result, model) {
  result.counts ??= result.labels.reduce((counts, id) => (counts[id]++, counts), new Array(256).fill(0));
  return model.classes.map((one, id) => ({ ...one, id, share: result.counts[id] / result.labels.length }));
}

function legend(result, model) {
  const found = counted(result, model).filter((one) => one.share).sort((a, b) => b.share - a.share);
  return found.map(({ name, color, share }) => {
    const box = element("input", { type: "checkbox", checked: !off.has(name) });
    box.onchange = () => {
      off[box.checked ? "delete" : "add"](name);
      update(current);
    };
    const swatch = element("i");
    swatch.style.background = `rgb(${color})`;
    const percent = share < 0.001 ? "<0.1%" : `${(100 * share).toFixed(1)}%`;
    return element("li", {}, element("label", {}, box, swatch, name, element("span", { textContent: percent })));
  });
}

function absent(result, model) {
  const names = counted(result, model).filter((one) => !one.share).map((one) => one.name);
  return names.length ? `Not found: ${names.slice(0, 30).join(", ")}${names.length > 30 ? ", …" : ""}` : "";
}

function paint(canvas, { width, height, labels }, model) {
  Object.assign(canvas, { width, height });
  const colors = new Uint32Array(256);
  model.classes.forEach(({ name, color: [r, g, b] }, id) => {
    if (!off.has(name)) new Uint8Array(colors.buffer, 4 * id).set([r, g, b, 255]);
  });
  const picture = new ImageData(width, height), pixels = new Uint32Array(picture.data.buffer);
  labels.forEach((id, i) => (pixels[i] = colors[id]));
  canvas.getContext("2d").putImageData(picture, 0, 0);
}

function tip(event, photo, model) {
  const result = resultOf(photo, model), box = event.currentTarget.getBoundingClientRect();
  const x = (event.clientX - box.left) / box.width, y = (event.clientY - box.top) / box.height;
  $("tip").hidden = result?.state !== "done" || x < 0 || y < 0 || x >= 1 || y >= 1;
  if ($("tip").hidden) return;
  const at = Math.floor(y * result.height) * result.width + Math.floor(x * result.width);
  const { name, color } = model.classes[result.labels[at]], swatch = element("i");
  swatch.style.background = `rgb(${color})`;
  $("tip").replaceChildren(swatch, `${name} · ${result.confidence[at] > 252 ? ">99" : Math.round(result.confidence[at] / 2.55)}% sure`);
  const { offsetWidth: width } = $("tip");
  $("tip").style.left = `${Math.min(event.clientX + 16, innerWidth - width - 8)}px`;
  $("tip").style.top = `${event.clientY + 18}px`;
}

// What can be saved is as large as the photo.

async function mask(photo, model) {
  const { labels, width, height } = resultOf(photo, model), { naturalWidth: own, naturalHeight: high } = photo.image;
  return palettePng(enlarged(labels, width, height, own, high), own, high, model.classes.map((one) => one.color));
}

async function overlay(photo, model) {
  const { naturalWidth: width, naturalHeight: height } = photo.image, canvas = element("canvas", { width, height });
  const drawn = element("canvas"), context = canvas.getContext("2d");
  paint(drawn, resultOf(photo, model), model);
  context.drawImage(photo.image, 0, 0);
  context.globalAlpha = $("opacity").value / 100;
  context.drawImage(drawn, 0, 0, width, height);
  return new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.92));
}

async function saveAll() {
  const files = [], names = new Set();
  for (const photo of photos)
    for (const model of chosenModels()) {
      if (resultOf(photo, model)?.state !== "done") continue;
      const folder = info.models.length > 1 ? `${model.name.replace(/[^\w.-]+/g, "_")}/` : "";
      const stem = folder + photo.name.replace(/\.[^.]*$/, "");
      let name = `${stem}.png`;
      for (let n = 2; names.has(name); n++) name = `${stem}_${n}.png`;
      names.add(name);
      files.push([name, await mask(photo, model)]);
    }
  save(await zip(files), "masks.zip");
}

// Seconds that a photo has taken so far.

function tick() {
  for (const made of $("panes").children) {
    const result = current && resultOf(current, made.model);
    if (result && result.state !== "busy") continue;
    const seconds = result ? Math.floor((performance.now() - result.start) / 1000) : 0;
    const hint = seconds > 4 && info.where === "server" ? "\nThe first photo of a new size takes longer." : "";
    made.querySelector(".working span").textContent = `${result ? "Labelling" : "Waiting"} … ${seconds > 1 ? `${seconds} s` : ""}${hint}`;
  }
}

function listen() {
  $("choose").onclick = () => $("files").click();
  $("choose_folder").onclick = () => $("folder").click();
  for (const input of [$("files"), $("folder")])
    input.onchange = () => take([...input.files], input === $("folder")).then(() => (input.value = ""));
  addEventListener("paste", (event) => take([...event.clipboardData.files]));
  addEventListener("dragover", (event) => {
    event.preventDefault();
    $("drop").classList.add("over");
  });
  addEventListener("dragleave", (event) => event.relatedTarget || $("drop").classList.remove("over"));
  addEventListener("drop", async (event) => {
    event.preventDefault();
    $("drop").classList.remove("over");
    const { files, ofFolder } = await dropped(event.dataTransfer);
    take(files, ofFolder);
  });
  $("opacity").oninput = () => {
    document.documentElement.style.setProperty("--opacity", $("opacity").value / 100);
    $("opacity_value").textContent = `${$("opacity").value}%`;
  };
  for (const control of [$("side"), $("multi_scale"), $("crf"), $("models")]) control.onchange = () => current && show(current);
  $("zip").onclick = saveAll;
  setInterval(tick, 500);
}

async function start() {
  info = await (await fetch("models.json")).json();
  const isServer = info.where === "server";
  const classes = [...new Set(info.models.flatMap((model) => model.classes.map((one) => one.name)))].filter((name) => name !== "background");
  $("what").textContent = `${info.models.map((model) => model.name).join(", ")}: finds ${classes.slice(0, 40).join(", ")}${classes.length > 40 ? ", …" : ""}.`;
  $("where").textContent = "Starting …";
  engine = await engines.open(info, (text) => ($("where").textContent = text));
  $("where").textContent = engine.where;
  for (const side of info.sides) $("side").append(new Option(`${side} pixels`, side, side === info.longest, side === info.longest));
  if (isServer) $("side").append(new Option("as it is", 0));
  $("multi_scale_label").hidden = $("crf_label").hidden = !isServer;
  $("multi_scale").checked = info.models[0].multi_scale;
  $("crf").checked = info.models[0].crf;
  $("models").hidden = info.models.length < 2;
  for (const { name } of info.models)
    $("models").append(element("label", {}, element("input", { type: "checkbox", value: name, checked: true }), name));
  $("footer").append(...engine.notes.map((text) => element("p", { textContent: text })));
  $("main").hidden = $("footer").hidden = false;
  listen();
}

start().catch((error) => ($("where").textContent = `This page cannot start: ${error.message}`));
