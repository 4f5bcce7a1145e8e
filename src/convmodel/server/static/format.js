// Numbers as people read them.

export const isNumber = (value) => typeof value === "number" && Number.isFinite(value);

/** Formats a value with three digits. */
export const number = (value) => (value >= 1000 ? Math.round(value).toLocaleString("en") : value.toPrecision(3));

export const percent = (share) => `${Math.round(share * 100)} %`;

/** Formats a share with its confidence interval. */
export const interval = ({ rate, low, high }) => `${percent(rate)} (95 % confidence interval: ${percent(low)} to ${percent(high)})`;

/** Formats seconds. */
export function time(seconds) {
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 90 * 60) return `${Math.round(seconds / 60)} min`;
  return seconds < 48 * 3600 ? `${(seconds / 3600).toFixed(1)} h` : `${(seconds / 86400).toFixed(1)} days`;
}

/** Formats a number of bytes. */
export function size(bytes) {
  if (bytes < 1024) return `${bytes} bytes`;
  const [unit, name] = bytes < 2 ** 20 ? [2 ** 10, "KiB"] : bytes < 2 ** 30 ? [2 ** 20, "MiB"] : [2 ** 30, "GiB"];
  return `${(bytes / unit).toFixed(bytes < 10 * unit ? 1 : 0)} ${name}`;
}

/** Formats a count of things. */
export const count = (value, one, many = `${one}s`) => `${value.toLocaleString("en")} ${value === 1 ? one : many}`;
