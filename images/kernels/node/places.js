// Places in what V8 executes, as places in the code of the run.
'use strict';

const MAX_RUNS = 1000; // whose places we still know
const PLACE = /<cell (\d+)>:(\d+)(?::(-?\d+))?/g;
// What Node puts before the stack of an error that a script throws: the place, the line, and where in it.
const EXCERPT = /^(\S[^\n]*):(\d+)\n([^\n]*)\n( *)\^+ *\n\s*\n?/;

class Places {
  constructor() {
    this._runs = new Map(); // count → {code, find}
  }

  /** Remember the code of a run, and how to find places in it: `find(line, column)` gives `{line, column}`. */
  add(count, code, find) {
    this._runs.set(count, { code, find });
    this._runs.delete(count - MAX_RUNS);
  }

  /** Put the places right that a stack names. */
  inStack(text) {
    return text.replace(PLACE, (whole, count, line, column) => {
      if (column < 1) return `<cell ${count}>:${line}`; // in what was put before the code
      const place = this._runs.get(Number(count))?.find(Number(line), Number(column ?? 1));
      if (place === undefined) return whole;
      return `<cell ${count}>:${place.line}${column === undefined ? '' : `:${place.column}`}`;
    });
  }

  /** Have the excerpt before a stack show what the user wrote; of Node's own code nobody wants one. */
  inExcerpt(text) {
    return text.replace(EXCERPT, (whole, file, line, _source, indent) => {
      if (/^(node:|<anonymous_script>)/.test(file)) return '';
      const run = this._runs.get(Number(/^<cell (\d+)>$/.exec(file)?.[1]));
      if (run === undefined) return whole;
      const place = run.find(Number(line), indent.length + 1);
      const source = run.code.split(/\r\n|[\n\r\u2028\u2029]/)[place.line - 1] ?? '';
      return `${file}:${place.line}\n${source}\n${' '.repeat(Math.max(place.column - 1, 0))}^\n\n`;
    });
  }
}

module.exports = { Places };
