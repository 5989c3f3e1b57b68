// From the code of a run to a script that V8 can execute in the global scope.
//
// Names live from run to run and may be declared again, so top-level `let`, `const` and `class` become `var`. Code with
// `import` or with `await` outside of functions becomes the body of an async function; its top-level names are declared
// outside of it. Everything stays on the line where it was, so that line numbers are right.
'use strict';

const vm = require('node:vm');
const acorn = require('acorn');

const PARSING = {
  ecmaVersion: 'latest',
  sourceType: 'script',
  allowAwaitOutsideFunction: true,
  allowImportExportEverywhere: true,
  allowHashBang: true,
};
const HELPERS = '$sandlot'; // what our own insertions call; a parameter of the async function
const FUNCTIONS = new Set(['FunctionDeclaration', 'FunctionExpression', 'ArrowFunctionExpression']);

/** Replacements in a text, applied all at once. */
class Edits {
  constructor(text) {
    this._text = text;
    this._edits = [];
  }

  replace(start, end, text) {
    this._edits.push({ start, end, text });
  }

  insert(at, text) {
    this.replace(at, at, text);
  }

  /** Take text out; what follows stays on its line. */
  blank(start, end) {
    this.replace(start, end, this._text.slice(start, end).replace(/[^\n\r\u2028\u2029]/g, ' '));
  }

  apply() {
    let result = '';
    let at = 0;
    this._kept = []; // what was left as it was: {from: its place in the result, at: in the text}
    for (const { start, end, text } of this._edits.sort((one, other) => one.start - other.start)) {
      this._kept.push({ from: result.length, at });
      result += this._text.slice(at, start) + text;
      at = end;
    }
    this._kept.push({ from: result.length, at });
    this._result = result + this._text.slice(at);
    return this._result;
  }

  /** Where in the text a column of the result was; both count from 1. Lines are the same. */
  column(line, column) {
    const offset = startOf(this._result, line) + column - 1;
    const index = this._kept.findLastIndex(({ from }) => from <= offset);
    if (index < 0) return column;
    const { from, at } = this._kept[index];
    const limit = index + 1 < this._kept.length ? this._edits[index].start : Infinity; // what follows was put in
    return Math.min(at + offset - from, limit) - startOf(this._text, line) + 1;
  }
}

/** The offset at which a line begins. */
function startOf(text, line) {
  let start = 0;
  const end = /\r\n|[\n\r\u2028\u2029]/g;
  for (let i = 1; i < line && end.exec(text) !== null; i += 1) start = end.lastIndex;
  return start;
}

function* childrenOf(node) {
  for (const value of Object.values(node)) {
    for (const child of Array.isArray(value) ? value : [value]) {
      if (typeof child?.type === 'string') yield child;
    }
  }
}

/** Whether code needs the async function. */
function isAsync(tree) {
  const find = (node, inFunction) => {
    switch (node.type) {
      case 'ImportDeclaration':
      case 'ExportNamedDeclaration':
      case 'ExportDefaultDeclaration':
      case 'ExportAllDeclaration':
      case 'MetaProperty':
        if (node.type !== 'MetaProperty' || node.meta.name === 'import') return true;
        break;
      case 'AwaitExpression':
        if (!inFunction) return true;
        break;
      case 'ForOfStatement':
        if (node.await && !inFunction) return true;
        break;
      case 'VariableDeclaration':
        if (node.kind.endsWith('using') && !inFunction) return true;
        break;
    }
    const inside = inFunction || FUNCTIONS.has(node.type) || node.type === 'StaticBlock';
    for (const child of childrenOf(node)) {
      if (find(child, inside)) return true;
    }
    return false;
  };
  return find(tree, false);
}

/** The names that a pattern binds. */
function namesIn(pattern) {
  switch (pattern?.type) {
    case 'Identifier':
      return [pattern.name];
    case 'ObjectPattern':
      return pattern.properties.flatMap((property) => namesIn(property.value ?? property.argument));
    case 'ArrayPattern':
      return pattern.elements.flatMap(namesIn);
    case 'AssignmentPattern':
      return namesIn(pattern.left);
    case 'RestElement':
      return namesIn(pattern.argument);
    default:
      return [];
  }
}

// It begins with no bracket, which could continue the statement before it.
const IS_CONSTANT = 'new class{constructor(){throw new TypeError("Assignment to constant variable.")}}()';

/** Have assignments to constants of the same code throw, as they should: constants become variables. */
function guardConstants(tree, edits) {
  const isConst = (one) => one.type === 'VariableDeclaration' && one.kind === 'const';
  const declarators = tree.body.filter(isConst).flatMap((one) => one.declarations);
  const constants = new Set(declarators.flatMap(({ id }) => namesIn(id)));
  if (constants.size === 0) return;
  const targets = [];
  const visit = (node, isTop) => {
    switch (node.type) {
      case 'AssignmentExpression':
        targets.push(...targetsIn(node.left));
        break;
      case 'UpdateExpression':
        targets.push(...targetsIn(node.argument));
        break;
      case 'ForInStatement':
      case 'ForOfStatement':
        targets.push(...targetsIn(node.left));
        break;
      // A name that is declared again in some inner scope is left alone.
      case 'VariableDeclarator':
        if (!isTop) for (const name of namesIn(node.id)) constants.delete(name);
        break;
      case 'CatchClause':
        for (const name of namesIn(node.param)) constants.delete(name);
        break;
      case 'ClassExpression':
      case 'ClassDeclaration':
        if (node.id) constants.delete(node.id.name);
        break;
      default:
        if (!FUNCTIONS.has(node.type)) break;
        if (node.id) constants.delete(node.id.name);
        for (const name of node.params.flatMap(namesIn)) constants.delete(name);
    }
    for (const child of childrenOf(node)) visit(child, isTop && isConst(node));
  };
  for (const node of tree.body) visit(node, isConst(node));
  for (const { name, start } of targets) if (constants.has(name)) edits.insert(start, `${IS_CONSTANT}.`);
}

/** The names that an assignment writes to; a shorthand `({ x } = y)` is left out. */
function targetsIn(pattern) {
  switch (pattern?.type) {
    case 'Identifier':
      return [pattern];
    case 'ObjectPattern':
      return pattern.properties
        .filter((one) => !one.shorthand)
        .flatMap((one) => targetsIn(one.value ?? one.argument));
    case 'ArrayPattern':
      return pattern.elements.flatMap(targetsIn);
    case 'AssignmentPattern':
      return targetsIn(pattern.left);
    case 'RestElement':
      return targetsIn(pattern.argument);
    default:
      return [];
  }
}

/** The statement whose value is the run's: the last, if it is an expression. */
function lastExpression(statements) {
  const isBare = (one) => one.type === 'VariableDeclaration' && one.declarations.every(({ init }) => init === null);
  const counts = (one) => !['EmptyStatement', 'FunctionDeclaration'].includes(one.type) && !isBare(one);
  const last = statements.findLast(counts);
  return last?.type === 'ExpressionStatement' ? last : null;
}

/** Code without `await`: only declarations change. */
function transformSync(code, tree) {
  const edits = new Edits(code);
  guardConstants(tree, edits);
  const names = [];
  for (const node of tree.body) {
    if (node.type === 'VariableDeclaration') {
      names.push(...node.declarations.flatMap((one) => namesIn(one.id)));
      if (node.kind === 'var') continue;
      edits.replace(node.start, node.start + node.kind.length, 'var'.padEnd(node.kind.length));
      for (const one of node.declarations) {
        if (one.init === null) edits.insert(one.end, '=undefined');
      }
    } else if (node.type === 'ClassDeclaration') {
      names.push(node.id.name);
      edits.insert(node.start, `var ${node.id.name}=`);
      edits.insert(node.end, ';');
    } else if (node.type === 'FunctionDeclaration') {
      names.push(node.id.name);
    }
  }
  const hasValue = lastExpression(tree.body) !== null;
  return { text: edits.apply(), edits, names, hasValue, columnOffset: 0, isAsync: false };
}

/** Code with `await` or `import`: it becomes an async function. */
class AsyncTransformation {
  constructor(code, tree) {
    this._code = code;
    this._tree = tree;
    this._edits = new Edits(code);
    this._names = new Set();
    this._functions = new Set(); // declared at the top level: hoisted, so to be shared at the beginning
    this._imports = [];
    this._last = lastExpression(tree.body);
  }

  run() {
    guardConstants(this._tree, this._edits);
    if (this._code.startsWith('#!')) this._edits.replace(0, 2, '//');
    for (const node of this._tree.body) this._topLevel(node);
    const strict = this._tree.body.some((one) => one.directive === 'use strict') ? "'use strict';" : '';
    const names = [...this._names];
    const shared = [...this._functions].map((name) => `globalThis.${name}=${name};`).join('');
    const declared = names.length > 0 ? `var ${names.join(',')};` : '';
    const prefix = `${strict}${declared}(async(${HELPERS})=>{${shared}${this._imports.join('')}`;
    const text = `${prefix}${this._edits.apply()}\n})`;
    const hasValue = this._last !== null;
    return { text, edits: this._edits, names, hasValue, columnOffset: -prefix.length, isAsync: true };
  }

  /** Edit a top-level statement. */
  _topLevel(node) {
    switch (node.type) {
      case 'ImportDeclaration':
        this._import(node);
        return;
      case 'ExportAllDeclaration':
        this._imports.push(`await import(${this._source(node)});`);
        this._edits.blank(node.start, node.end);
        return;
      case 'ExportNamedDeclaration':
        if (node.declaration) {
          this._edits.blank(node.start, node.declaration.start);
          this._topLevel(node.declaration);
          return;
        }
        if (node.source) this._imports.push(`await import(${this._source(node)});`);
        this._edits.blank(node.start, node.end);
        return;
      case 'ExportDefaultDeclaration': {
        const { declaration } = node;
        if (/Declaration$/.test(declaration.type) && declaration.id) {
          this._edits.blank(node.start, declaration.start);
          this._topLevel(declaration);
          return;
        }
        this._edits.blank(node.start, declaration.start);
        this._edits.insert(declaration.start, ';void (');
        this._walk(declaration);
        this._edits.insert(declaration.end, ');');
        return;
      }
      case 'VariableDeclaration':
        if (node.kind.endsWith('using')) this._walk(node); // it ends with the run
        else this._assign(node);
        return;
      case 'ClassDeclaration':
        this._names.add(node.id.name);
        this._edits.insert(node.start, `${node.id.name}=`);
        this._walk(node);
        this._edits.insert(node.end, ';');
        return;
      case 'FunctionDeclaration':
        this._names.add(node.id.name);
        this._functions.add(node.id.name);
        this._walkFunction(node);
        return;
      default:
        if (node === this._last) {
          const end = this._code[node.end - 1] === ';' ? node.end - 1 : node.end;
          this._edits.insert(node.start, 'return (');
          this._walk(node);
          this._edits.insert(end, ')');
          if (end === node.end) this._edits.insert(end, ';');
        } else {
          this._walk(node);
        }
        return;
    }
  }

  /** Turn a declaration into assignments to names that are declared outside. */
  _assign(node) {
    const start = node.declarations[0].start;
    this._edits.replace(node.start, start, this._code.slice(node.start, start).replace(/^\w+/, 'void'));
    for (const one of node.declarations) {
      this._name(one.id);
      if (one !== node.declarations[0]) this._edits.insert(one.start, 'void ');
      if (one.init === null) {
        // `var x;` leaves a value that x has; `let x;` does not.
        this._edits.insert(one.start, '(');
        this._edits.insert(one.end, node.kind === 'var' ? ')' : '=undefined)');
        continue;
      }
      this._edits.insert(one.start, '(');
      this._walk(one);
      this._edits.insert(one.end, ')');
    }
    if (this._code[node.end - 1] !== ';') this._edits.insert(node.end, ';');
  }

  _name(pattern) {
    for (const name of namesIn(pattern)) this._names.add(name);
  }

  /** Edit what is inside of a statement but outside of functions: `await`, and `var`, which reaches the top level. */
  _walk(node) {
    if (FUNCTIONS.has(node.type)) {
      this._walkFunction(node);
      return;
    }
    switch (node.type) {
      case 'AwaitExpression':
        // Where a run that was interrupted stops.
        this._edits.insert(node.start, `${HELPERS}.check(`);
        this._walk(node.argument);
        this._edits.insert(node.end, ')');
        return;
      case 'MetaProperty':
        if (node.meta.name === 'import') this._edits.replace(node.start, node.end, `${HELPERS}.meta`);
        return;
      case 'VariableDeclaration':
        if (node.kind === 'var') {
          this._assign(node);
          return;
        }
        break;
      case 'ForStatement':
        if (node.init?.type === 'VariableDeclaration' && node.init.kind === 'var') {
          this._assignInHead(node.init);
          for (const part of [node.test, node.update, node.body]) if (part) this._walk(part);
          return;
        }
        break;
      case 'ForInStatement':
      case 'ForOfStatement':
        this._walkLoop(node);
        return;
    }
    for (const child of childrenOf(node)) this._walk(child);
  }

  _walkLoop(node) {
    if (node.left.type === 'VariableDeclaration' && node.left.kind === 'var') {
      const [one] = node.left.declarations;
      this._name(one.id);
      this._edits.blank(node.left.start, one.start);
      this._walk(one.id);
    } else {
      this._walk(node.left);
    }
    this._walk(node.right);
    if (node.await && node.body.type === 'BlockStatement') {
      this._edits.insert(node.body.start + 1, `${HELPERS}.check();`);
    }
    this._walk(node.body);
  }

  _assignInHead(node) {
    this._edits.blank(node.start, node.declarations[0].start);
    for (const one of node.declarations) {
      this._name(one.id);
      this._edits.insert(one.start, '(');
      this._walk(one);
      this._edits.insert(one.end, ')');
    }
  }

  /** Functions keep their text; only `import.meta` exists nowhere but in modules. */
  _walkFunction(node) {
    if (node.type === 'MetaProperty') {
      if (node.meta.name === 'import') this._edits.replace(node.start, node.end, `${HELPERS}.meta`);
      return;
    }
    for (const child of childrenOf(node)) this._walkFunction(child);
  }

  _source(node) {
    const source = JSON.stringify(node.source.value);
    const attributes = (node.attributes ?? []).map(
      ({ key, value }) => `${JSON.stringify(key.name ?? key.value)}:${JSON.stringify(value.value)}`,
    );
    return attributes.length > 0 ? `${source},{with:{${attributes.join(',')}}}` : source;
  }

  _import(node) {
    const source = this._source(node);
    const module = `await import(${source})`;
    const named = [];
    let whole = '';
    for (const one of node.specifiers) {
      this._names.add(one.local.name);
      if (one.type === 'ImportNamespaceSpecifier') {
        whole = one.local.name;
      } else {
        const name = one.type === 'ImportDefaultSpecifier' ? 'default' : (one.imported.name ?? one.imported.value);
        named.push([JSON.stringify(name), one.local.name]);
      }
    }
    if (whole) this._imports.push(`${whole}=${module};`);
    if (named.length > 0) {
      const wanted = named.map(([name]) => name).join(',');
      const pattern = named.map(([name, local]) => `${name}:${local}`).join(',');
      const from = `${HELPERS}.exportsOf(${whole || module},${JSON.stringify(node.source.value)},[${wanted}])`;
      this._imports.push(`({${pattern}}=${from});`);
    } else if (!whole) {
      this._imports.push(`${module};`);
    }
    this._edits.blank(node.start, node.end);
  }
}

function parse(code) {
  // `{a: 1}` is meant as an object, not as a block with a label.
  if (/^\s*\{/.test(code) && !/;\s*$/.test(code)) {
    try {
      const wrapped = `(${code}\n)`;
      return { code: wrapped, tree: acorn.parse(wrapped, PARSING), columnOffset: -1 };
    } catch {
      // a block, then
    }
  }
  try {
    return { code, tree: acorn.parse(code, PARSING), columnOffset: 0 };
  } catch (error) {
    if (!/\busing\b/.test(code)) throw error;
    return { code, tree: acorn.parse(code, { ...PARSING, sourceType: 'module' }), columnOffset: 0 };
  }
}

/** Say where acorn stopped, as V8 does. */
function syntaxError(error, code, filename) {
  const { line, column } = error.loc;
  const isEnd = error.pos >= code.trimEnd().length;
  const message = isEnd ? 'Unexpected end of input' : error.message.replace(/ \(\d+:\d+\)$/, '');
  const source = code.split(/\r\n|[\n\r\u2028\u2029]/)[line - 1] ?? '';
  const result = new SyntaxError(message);
  result.stack = `${filename}:${line}\n${source}\n${' '.repeat(column)}^\n\nSyntaxError: ${message}`;
  return result;
}

function compile({ text, columnOffset }, filename) {
  return new vm.Script(text, {
    filename,
    columnOffset,
    importModuleDynamically: vm.constants.USE_MAIN_CONTEXT_DEFAULT_LOADER,
  });
}

/** What acorn cannot parse, V8 explains better; or it knows the syntax, and code without `await` can run as it is. */
function compileUnparsed(error, code, filename) {
  try {
    const script = compile({ text: code, columnOffset: 0 }, filename);
    return { script, names: [], hasValue: true, isAsync: false };
  } catch (failure) {
    if (!/\bawait\b|import|export/.test(failure.message) || error.loc === undefined) throw failure;
  }
  if (error.pos >= code.trimEnd().length) throw syntaxError(error, code, filename);
  const prefix = '(async()=>{';
  try {
    compile({ text: `${prefix}${code}\n})`, columnOffset: -prefix.length }, filename);
  } catch (failure) {
    if (!/import|export/.test(failure.message)) throw failure;
  }
  throw syntaxError(error, code, filename);
}

/**
 * Compile the code of a run.
 *
 * `script` gives, when it is run, the value of the last expression; if `isAsync`, a function that wants our helpers and
 * promises the value. `hasValue`: there is such an expression. `names`: what it declares. `column`, if it is there,
 * tells where a column of the script was in the code.
 */
function prepare(code, filename) {
  let parsed;
  let cell;
  try {
    parsed = parse(code);
    const { code: text, tree } = parsed;
    cell = isAsync(tree) ? new AsyncTransformation(text, tree).run() : transformSync(text, tree);
  } catch (error) {
    return compileUnparsed(error, code, filename); // it is wrong, or nested too deeply for us
  }
  const shift = -parsed.columnOffset; // of the first line
  cell.columnOffset -= shift;
  const column = (line, number) => {
    const shifted = line === 1 ? shift : 0;
    return cell.edits.column(line, number + shifted) - shifted;
  };
  return { ...cell, column, script: compile(cell, filename) };
}

module.exports = { prepare };
