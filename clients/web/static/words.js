// Numbers in words for people, and elements of the page.

const three = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

export const count = (value) => whole.format(value);

export const number = (value) => (Number.isFinite(value) ? three.format(value) : "–");

export const milliseconds = (value) => (Number.isFinite(value) ? `${value.toFixed(value < 10 ? 2 : 0)} ms` : "–");

// Never 100 % or 0 %: no network is that sure.
export function percent(share) {
  if (share > 0.999) return "> 99.9 %";
  if (share < 0.001) return "< 0.1 %";
  return `${(100 * share).toFixed(1)} %`;
}

export function element(name, properties, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}
