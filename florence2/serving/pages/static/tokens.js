// The text as the model wrote it, and which region each run of location tokens was read as.

const SPECIAL = /(<loc_\d{1,3}>|<\/?s>|<pad>|<unk>|<mask>|<sep>|<\/?poly>|<\/?[a-z_]+>)/;
const BINS = 1000;

/** The raw text in parts: [{text, special, id}]; `id` of the region whose corners these location tokens are. */
export function tokenParts(answer) {
  const parts = answer.text.split(SPECIAL).filter(Boolean).map((text) => ({ text, special: SPECIAL.test(text), id: null }));
  const outlines = answer.regions.flatMap((region) => [region.box, region.quad, ...(region.polygons ?? [])]
    .filter((flat) => flat?.length).map((flat) => ({ id: region.id, bins: binsOf(flat, answer.size_wh).join(" ") })));
  const used = new Map();
  for (let start = 0; start < parts.length;) {
    if (!isLocation(parts[start])) { start += 1; continue; }
    let end = start;
    while (end < parts.length && isLocation(parts[end])) end += 1;
    matchRun(parts.slice(start, end), outlines, used);
    start = end;
  }
  return parts;
}

/** A run of locations is cut into the outlines that it begins with, one after another. */
function matchRun(run, outlines, used) {
  const bins = run.map((part) => part.text.slice(5, -1));
  for (let at = 0; at < run.length;) {
    const found = outlines.filter(({ bins: own }) => `${bins.slice(at).join(" ")} `.startsWith(`${own} `))
      .sort((a, b) => (used.get(a) ?? 0) - (used.get(b) ?? 0) || b.bins.length - a.bins.length)[0];
    if (!found) { at += 1; continue; }
    used.set(found, (used.get(found) ?? 0) + 1);
    const long = found.bins.split(" ").length;
    for (const part of run.slice(at, at + long)) part.id = found.id;
    at += long;
  }
}

function isLocation(part) {
  return part.text.startsWith("<loc_");
}

function binsOf(flat, [width, height]) {
  return flat.map((value, n) => Math.min(BINS - 1, Math.max(0, Math.floor(value / ((n % 2 ? height : width) / BINS)))));
}
