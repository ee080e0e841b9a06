// Files that the page makes to save: PNGs of class ids with a palette, ZIPs; and how they are saved.

const table = Uint32Array.from({ length: 256 }, (_, n) => {
  for (let k = 0; k < 8; k++) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1;
  return n;
});

function crc32(bytes) {
  let crc = ~0;
  for (const byte of bytes) crc = table[(crc ^ byte) & 255] ^ (crc >>> 8);
  return ~crc >>> 0;
}

function joined(parts) {
  const all = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let start = 0;
  for (const part of parts) {
    all.set(part, start);
    start += part.length;
  }
  return all;
}

// Whole numbers as bytes: [[value, bytes], ...], the highest byte first or last.
function numbers(pairs, littleEndian) {
  const bytes = pairs.flatMap(([value, size]) => {
    const own = Array.from({ length: size }, (_, i) => (value >>> (8 * i)) & 255);
    return littleEndian ? own : own.reverse();
  });
  return Uint8Array.from(bytes);
}

// A map [h, w] in another size: each pixel has the value of the nearest one.
export function enlarged(values, width, height, fullWidth, fullHeight) {
  if (width === fullWidth && height === fullHeight) return values;
  const full = new Uint8Array(fullWidth * fullHeight);
  const columns = Uint32Array.from({ length: fullWidth }, (_, x) => Math.floor(((2 * x + 1) * width) / (2 * fullWidth)));
  for (let y = 0; y < fullHeight; y++) {
    const row = Math.floor(((2 * y + 1) * height) / (2 * fullHeight)) * width;
    for (let x = 0; x < fullWidth; x++) full[y * fullWidth + x] = values[row + columns[x]];
  }
  return full;
}

// A PNG (ISO/IEC 15948) of class ids, whose palette has the classes' colours.
export async function palettePng(ids, width, height, colors) {
  const rows = new Uint8Array((width + 1) * height);
  for (let y = 0; y < height; y++) rows.set(ids.subarray(y * width, (y + 1) * width), y * (width + 1) + 1);
  const zlib = new Blob([rows]).stream().pipeThrough(new CompressionStream("deflate"));
  const chunk = (kind, body) => {
    const named = joined([new TextEncoder().encode(kind), body]);
    return joined([numbers([[body.length, 4]]), named, numbers([[crc32(named), 4]])]);
  };
  const header = numbers([[width, 4], [height, 4], [8, 1], [3, 1], [0, 1], [0, 1], [0, 1]]);
  return new Blob([
    Uint8Array.of(137, 80, 78, 71, 13, 10, 26, 10),
    chunk("IHDR", header),
    chunk("PLTE", Uint8Array.from(colors.flat())),
    chunk("IDAT", new Uint8Array(await new Response(zlib).arrayBuffer())),
    chunk("IEND", new Uint8Array()),
  ], { type: "image/png" });
}

// A ZIP of [name, blob] pairs, as they are: PNGs are compressed already.
export async function zip(files) {
  const bodies = [], directory = [];
  let start = 0;
  for (const [name, blob] of files) {
    const body = new Uint8Array(await blob.arrayBuffer()), path = new TextEncoder().encode(name);
    // Version 2.0, names in UTF-8, stored, 1 January 1980, checksum, sizes, length of the name.
    const common = [[20, 2], [0x800, 2], [0, 2], [0, 2], [33, 2], [crc32(body), 4], [body.length, 4], [body.length, 4], [path.length, 2]];
    bodies.push(numbers([[0x04034b50, 4], ...common, [0, 2]], true), path, body);
    directory.push(numbers([[0x02014b50, 4], [20, 2], ...common, [0, 2], [0, 2], [0, 2], [0, 2], [0, 4], [start, 4]], true), path);
    start += 30 + path.length + body.length;
  }
  const size = directory.reduce((sum, part) => sum + part.length, 0);
  const end = numbers([[0x06054b50, 4], [0, 2], [0, 2], [files.length, 2], [files.length, 2], [size, 4], [start, 4], [0, 2]], true);
  return new Blob([...bodies, ...directory, end], { type: "application/zip" });
}

export function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

// All files of a drop, those of folders too.
export async function dropped(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.some((entry) => entry.isDirectory)) return { files: [...transfer.files], ofFolder: false };
  const files = [];
  async function walk(entry) {
    if (entry.isFile) files.push(await new Promise((resolve, reject) => entry.file(resolve, reject)));
    else {
      const reader = entry.createReader();
      for (let some; (some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject))).length; )
        for (const inner of some) await walk(inner);
    }
  }
  for (const entry of entries) await walk(entry);
  return { files, ofFolder: true };
}
