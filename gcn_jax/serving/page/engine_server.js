// Labels photos by asking the server that this page comes from.

export async function open(info) {
  const query = (options) => new URLSearchParams({ ...options, output: "maps" });

  // The labels and the confidence (255 is 1) of a photo, a byte for each pixel, row by row.
  async function label(photo, options) {
    const response = await asked(`label?${query(options)}`, photo.file);
    const [width, height] = ["Label-Width", "Label-Height"].map((name) => Number(response.headers.get(name)));
    const bytes = new Uint8Array(await response.arrayBuffer());
    return { width, height, labels: bytes.subarray(0, width * height), confidence: bytes.subarray(width * height) };
  }

  // A JPEG of a photo whose format the browser cannot show.
  const shown = async (file) => (await asked("photo", file)).blob();

  async function asked(address, file) {
    for (let attempt = 1; ; attempt++) {
      let response;
      try {
        response = await fetch(address, { method: "POST", body: file });
      } catch {
        throw new Error("the server does not answer; is it still running?");
      }
      if (response.ok) return response;
      if (response.status !== 503 || attempt === 20) throw new Error((await response.text()).trim());
      await new Promise((resolve) => setTimeout(resolve, 1000 * Number(response.headers.get("Retry-After") || 2)));
    }
  }

  const address = location.hostname;
  const isLocal = ["localhost", "127.0.0.1", "[::1]"].includes(address);
  return {
    label,
    shown,
    check: (file) => (file.size > info.max_megabytes * 1e6 ? `has more than ${info.max_megabytes} MB` : ""),
    where: isLocal
      ? "Photos are labelled on this computer, and kept nowhere."
      : `Photos are sent to ${location.host}, labelled there, and not kept.`,
    notes: [
      `Up to ${info.max_megabytes} MB and ${info.max_megapixels} megapixels. The first photo of a new size takes longer: its program is compiled.`,
      `For programs: curl --data-binary @photo.jpg ${location.origin}/label > labels.png`,
    ],
  };
}
