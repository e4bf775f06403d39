// The filter's language: words that must all be found, `-word` not, `key:value`, `>100ms`, `<2s`.

const UNITS = { ns: 1, us: 1e3, "µs": 1e3, ms: 1e6, s: 1e9 };

/**
 * Return a test of rows.
 *
 * A row is `{text, durationNs, flags, fields}`: what words are looked for in, how long it took, the words that mean
 * more than text (a set), and what `key:value` asks for.
 */
export function filterOf(query) {
  const tests = query.trim().split(/\s+/).filter(Boolean).map(testOf);
  return (row) => tests.every((test) => test(row));
}

function testOf(word) {
  const isNot = word.length > 1 && word.startsWith("-");
  const test = positive((isNot ? word.slice(1) : word).toLowerCase());
  return isNot ? (row) => !test(row) : test;
}

function positive(word) {
  const limit = /^([<>])=?(\d+(?:\.\d+)?)(ns|us|µs|ms|s)$/.exec(word);
  if (limit) {
    const ns = Number(limit[2]) * UNITS[limit[3]];
    return limit[1] === ">" ? (row) => row.durationNs >= ns : (row) => row.durationNs <= ns;
  }
  const colon = word.indexOf(":");
  if (colon > 0) {
    const [key, value] = [word.slice(0, colon), word.slice(colon + 1)];
    return (row) => {
      if (!(row.fields && Object.hasOwn(row.fields, key))) return row.text.includes(word);
      const field = String(row.fields[key] ?? "").toLowerCase();
      // status:5xx
      return /^\dxx$/.test(value) ? field[0] === value[0] : field.includes(value);
    };
  }
  return (row) => row.flags?.has(word) || row.text.includes(word);
}
