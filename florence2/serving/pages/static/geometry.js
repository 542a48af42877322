// The arithmetic of regions, in pixels of the upright picture. A region is a record's JSON: `box` [x1, y1, x2, y2],
// `quad` and each of `polygons` flat [x, y, x, y, ...], `mask` {height, width, counts} as COCO's compressed run lengths.

/** The corners of a flat list: [[x, y], ...]. */
export function points(flat) {
  return Array.from({ length: flat.length >> 1 }, (_, n) => [flat[2 * n], flat[2 * n + 1]]);
}

/** The box around a region, or null where it has no place. */
export function boundsOf(region) {
  if (region.box) return [...region.box];
  const flat = region.quad?.length ? region.quad : (region.polygons ?? []).flat();
  if (!flat.length) return region.mask ? maskBounds(region.mask) : null;
  const xs = flat.filter((_, n) => n % 2 === 0), ys = flat.filter((_, n) => n % 2 === 1);
  return [Math.min(...xs), Math.min(...ys), Math.max(...xs), Math.max(...ys)];
}

/** The box of two corners, in order and inside the picture. */
export function boxOf([ax, ay], [bx, by], [width, height]) {
  const [x1, x2] = [ax, bx].map((x) => clamp(x, 0, width)).sort((a, b) => a - b);
  const [y1, y2] = [ay, by].map((y) => clamp(y, 0, height)).sort((a, b) => a - b);
  return [x1, y1, x2, y2];
}

/** A region moved by so many pixels, as far as the picture reaches. */
export function moved(region, dx, dy, [width, height]) {
  const [x1, y1, x2, y2] = boundsOf(region);
  dx = clamp(dx, -x1, Math.max(0, width - x2));
  dy = clamp(dy, -y1, Math.max(0, height - y2));
  const shift = (flat) => flat.map((value, n) => value + (n % 2 ? dy : dx));
  const out = { ...region };
  if (region.box) out.box = shift(region.box);
  if (region.quad?.length) out.quad = shift(region.quad);
  if (region.polygons?.length) out.polygons = region.polygons.map(shift);
  return out;
}

/** The corners that may be dragged: [{x, y, put(x, y) -> the region with this corner there}]. */
export function corners(region) {
  if (region.quad?.length || region.polygons?.length) {
    const name = region.quad?.length ? "quad" : "polygons";
    const parts = name === "quad" ? [region.quad] : region.polygons;
    return parts.flatMap((flat, part) => points(flat).map(([x, y], n) => ({
      x, y,
      put(nx, ny) {
        const changed = parts.map((one) => [...one]);
        changed[part][2 * n] = nx;
        changed[part][2 * n + 1] = ny;
        const out = { ...region, [name]: name === "quad" ? changed[0] : changed };
        if (region.box) out.box = boundsOf({ ...out, box: null });
        return out;
      },
    })));
  }
  if (!region.box) return [];
  const [x1, y1, x2, y2] = region.box;
  const middle = [(x1 + x2) / 2, (y1 + y2) / 2];
  const places = [[0, 1], [null, 1], [2, 1], [2, null], [2, 3], [null, 3], [0, 3], [0, null]]; // which sides each moves
  return places.map(([across, down]) => ({
    x: across === null ? middle[0] : region.box[across],
    y: down === null ? middle[1] : region.box[down],
    put(nx, ny) {
      const box = [...region.box];
      if (across !== null) box[across] = nx;
      if (down !== null) box[down] = ny;
      const [l, r] = [box[0], box[2]].sort((a, b) => a - b), [t, b] = [box[1], box[3]].sort((a, b) => a - b);
      return { ...region, box: [l, t, r, b] };
    },
  }));
}

/** The pixels of a mask: {width, height, data: Uint8Array, row by row, 0 or 1}. */
export function decodeMask({ height, width, counts }) {
  const runs = [];
  for (let at = 0; at < counts.length;) { // 5 bits a letter, the lowest first; each run but three relative to the last but one
    let value = 0, shift = 0, more = true;
    while (more) {
      const letter = counts.charCodeAt(at++) - 48;
      value |= (letter & 0x1f) << shift;
      more = Boolean(letter & 0x20);
      shift += 5;
      if (!more && letter & 0x10) value |= -1 << shift;
    }
    runs.push(runs.length > 2 ? value + runs[runs.length - 2] : value);
  }
  const data = new Uint8Array(width * height);
  let place = 0, inside = 0;
  for (const run of runs) { // column by column
    if (inside) {
      for (let n = place; n < Math.min(place + run, data.length); n++) data[(n % height) * width + Math.floor(n / height)] = 1;
    }
    place += run;
    inside = 1 - inside;
  }
  return { width, height, data };
}

function maskBounds(mask) {
  const { width, height, data } = decodeMask(mask);
  let [x1, y1, x2, y2] = [width, height, 0, 0];
  data.forEach((value, n) => {
    if (!value) return;
    const x = n % width, y = Math.floor(n / width);
    [x1, y1, x2, y2] = [Math.min(x1, x), Math.min(y1, y), Math.max(x2, x + 1), Math.max(y2, y + 1)];
  });
  return x1 < x2 ? [x1, y1, x2, y2] : null;
}

export function clamp(value, low, high) {
  return Math.min(high, Math.max(low, value));
}
