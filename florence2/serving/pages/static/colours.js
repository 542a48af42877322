// A colour for each label, the same wherever the label is shown: labels are numbered in the order in which they come up.

const PALETTE = [ // told apart on photographs and by the colour-blind as far as twelve can be
  "#ffb000", "#1f9bff", "#ff4f79", "#2bc253", "#b07cff", "#ff7a1a",
  "#19c8c8", "#e6e04a", "#f58ad6", "#8fb3ff", "#9be564", "#d9a066",
];
const numbers = new Map();

/** The colour of a label, as #rrggbb. */
export function colourOf(label) {
  if (!numbers.has(label)) numbers.set(label, numbers.size);
  return PALETTE[numbers.get(label) % PALETTE.length];
}

/** Black or white: whichever can be read on the colour. */
export function inkOn(colour) {
  const [r, g, b] = [1, 3, 5].map((at) => {
    const value = parseInt(colour.slice(at, at + 2), 16) / 255;
    return value <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b > 0.18 ? "#000000" : "#ffffff";
}
