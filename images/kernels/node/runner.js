// One context: takes runs from the channel, executes them in the global scope, and says how each ended.
'use strict';

const { AsyncLocalStorage } = require('node:async_hooks');
const fs = require('node:fs');
const inspector = require('node:inspector');
// User code may replace the globals.
const { clearTimeout, setImmediate, setTimeout } = require('node:timers');
const util = require('node:util');

const { prepare } = require('./cell.js');
const { Channel } = require('./channel.js');
const errors = require('./errors.js');
const { DeadEnds } = require('./idle.js');
const immediates = require('./immediates.js');
const { Places } = require('./places.js');
const questions = require('./questions.js');
const scope = require('./scope.js');
const streams = require('./streams.js');
const { quietly, toJavaScript } = require('./typescript.js');
const { toBundle, toShown } = require('./values.js');

const PROTOCOL = 1;
const IDLE_MS = 3;
const OOM_SCORE = 200; // as contexts of Python: one context dies before the agent does
const STRIKE = '__sandlot_strike'; // what reader.js has the main thread call
const WARM_UP = {
  javascript: ['[1, { a: "b" }]', 'await null; import("node:os"); [1].map((x) => `${x}`)', 'null.x'],
  typescript: [
    '[1 as number, { a: "b" }]',
    'await null; import("node:os")',
    '(() => { enum E { A } return E.A })()',
    'null.x',
  ],
};

/** One piece of code on its way. */
class Run {
  constructor({ id, input }, count) {
    this.id = id;
    this.count = count;
    this.mayAsk = input;
    this.isOver = false; // `done` is said, or about to be
    this.isInterrupted = false;
    this.isWaiting = false; // for a promise
  }
}

const ignore = () => {};

/** Wait for a promise. `await`, because user code may replace `then`, or derive promises of its own. */
async function follow(promise, succeed, fail) {
  let value;
  try {
    value = await promise;
  } catch (error) {
    fail(error);
    return;
  }
  succeed(value);
}

class Runner {
  constructor(fd, language) {
    this._fd = fd;
    this._language = language;
    this._count = 0;
    this._run = null;
    this._last = 0; // the number of the last run that has begun
    this._runs = new AsyncLocalStorage(); // which run some code belongs to
    this._isShielded = false; // our own code executes, which must not be terminated
    this._session = null; // by which this thread terminates its own execution
    this._places = new Places();
    this._inputs = []; // what asks for input, in turn; the first has been sent
  }

  serve() {
    streams.install();
    immediates.install();
    errors.install(this._places);
    this._guard();
    // Node warns once that this way of importing is experimental.
    quietly(() => prepare('import("node:os")', '<cell 0>').script.runInThisContext());
    scope.install({ display: this._display.bind(this), input: this._input.bind(this) });
    const strike = (id) => (id === undefined ? this._strikeLeftover() : this._strike(id));
    Object.defineProperty(globalThis, STRIKE, { value: strike });
    raiseOomScore();
    this._channel = new Channel(this._fd, (message) => this._take(message));
    this._deadEnds = new DeadEnds(
      this._channel,
      () => this._run?.isWaiting === true && this._inputs.length === 0,
      () => this._endUnsettled(),
    );
    this._channel.send({ type: 'ready', protocol: PROTOCOL });
    this._idle = setTimeout(() => this._warmUp(), IDLE_MS);
  }

  _take(message) {
    this._channel.countTaken();
    this._session?.disconnect(); // before, it would have taken the termination back
    this._session = null;
    switch (message.op) {
      case 'start':
        this._start(message);
        break;
      case 'run':
        this._begin(message);
        break;
      case 'input':
        this._answer(message.text);
        break;
      case 'interrupt':
        this._hearInterrupt(message.id);
        break;
      case 'complete':
      case 'inspect':
        this._reply(message);
        break;
      // What we do not know was not meant for us: execd waits for no answer to it.
    }
  }

  _start({ cwd, env }) {
    clearTimeout(this._idle);
    try {
      scope.enter(cwd, env);
    } catch (error) {
      this._channel.send({ type: 'failed', message: `${cwd}: ${error.message}` });
      return;
    }
    this._channel.send({ type: 'started' });
  }

  /** Have everything that a first run touches loaded and compiled; what is printed meanwhile would be seen. */
  _warmUp() {
    for (const code of WARM_UP[this._language] ?? []) {
      quietly(() => {
        try {
          const cell = this._compile(code, 0);
          const value = cell.script.runInThisContext();
          if (cell.isAsync) value(scope.helpers(() => false));
          else toBundle(value);
        } catch (error) {
          errors.describe(error, this._places);
        }
      });
    }
  }

  // -- runs

  _begin(message) {
    if (message.id <= this._last) return; // it was interrupted before we took it
    this._isShielded = true;
    this._last = message.id;
    this._guard();
    this._count += 1;
    const run = new Run(message, this._count);
    this._run = run;
    let cell;
    try {
      cell = this._compile(message.code, run.count);
      scope.makeDeclarable(cell.names);
    } catch (error) {
      this._isShielded = false;
      setImmediate(() => this._fail(run, error));
      return;
    }
    this._isShielded = false;
    if (run.isInterrupted) return; // the message that says so comes again
    this._runs.run(run, () => this._execute(run, cell));
  }

  _compile(code, count) {
    const filename = `<cell ${count}>`;
    const { code: text, map } = this._language === 'typescript' ? toJavaScript(code, filename) : { code };
    const cell = quietly(() => prepare(text, filename));
    this._places.add(count, code, (line, column) => {
      const place = { line, column: cell.column?.(line, column) ?? column };
      const entry = map?.findEntry(line - 1, place.column - 1);
      return entry?.originalLine === undefined
        ? place
        : { line: entry.originalLine + 1, column: entry.originalColumn + 1 };
    });
    return cell;
  }

  /** Execute the code. It may be terminated anywhere: then nothing here goes on, and `_hearInterrupt` ends the run. */
  _execute(run, cell) {
    let value;
    try {
      value = cell.script.runInThisContext();
      if (cell.isAsync) value = value(scope.helpers(() => run.isInterrupted));
    } catch (error) {
      setImmediate(() => this._fail(run, error));
      return;
    }
    // What comes next waits a turn of the event loop, so that what is ready to run, and to fail, has.
    const settle = (then) => {
      this._setWaiting(run, false);
      setImmediate(then);
    };
    const succeed = (result) => settle(() => this._succeed(run, cell.hasValue ? result : undefined));
    const fail = (error) => settle(() => this._fail(run, error));
    // A promise as the last value is waited for: `main()` belongs to its run to its end.
    if (cell.isAsync || (cell.hasValue && util.types.isPromise(value))) {
      this._setWaiting(run, true);
      follow(value, succeed, fail);
    } else {
      succeed(value);
    }
  }

  _succeed(run, value) {
    if (run.isOver) return;
    if (value === undefined) {
      this._finish(run, 'ok');
      return;
    }
    let bundle;
    try {
      bundle = this._runs.run(run, toBundle, value);
    } catch (error) {
      this._fail(run, error);
      return;
    }
    if (util.types.isPromise(bundle)) {
      this._setWaiting(run, true);
      follow(
        bundle,
        (data) => this._finishWith(run, data),
        (error) => this._fail(run, error),
      );
    } else {
      this._finishWith(run, bundle);
    }
  }

  _setWaiting(run, isWaiting) {
    run.isWaiting = isWaiting;
    this._deadEnds.update();
  }

  /** What the run awaits can never settle. */
  _endUnsettled() {
    const value =
      'nothing is left that could settle what this code awaits: no timer, request, socket, child or worker. ' +
      "Nobody answers on stdin; await input('…') asks whoever runs the code.";
    const name = 'UnsettledTopLevelAwait';
    this._finish(this._run, 'error', { name, value, traceback: [`${name}: ${value}`] });
  }

  _finishWith(run, data) {
    if (run.isOver) return;
    this._isShielded = true;
    try {
      this._channel.send({ type: 'result', data, count: run.count });
    } catch (error) {
      this._fail(run, error);
      return;
    }
    this._finish(run, 'ok');
  }

  _fail(run, error) {
    if (run.isOver) return;
    const description = errors.describe(error, this._places); // may run code of the user's
    this._finish(run, 'error', description);
  }

  _finish(run, status, error) {
    if (run.isOver) return;
    this._isShielded = true;
    if (run.isInterrupted) {
      // However the code took it: the run ends so, and is struck no more.
      [status, error] = ['interrupted', undefined];
      this._channel.hear(run.id);
    }
    run.isOver = true;
    this._setWaiting(run, false);
    this._run = null;
    this._forgetInputs();
    if (error) this._sendError(error);
    this._channel.send({ type: 'done', id: run.id, status, count: run.count });
    this._isShielded = false;
  }

  _sendError(error) {
    try {
      this._channel.send({ type: 'error', ...error });
    } catch (tooLong) {
      const value = `(not shown: ${tooLong.message})`;
      this._channel.send({ type: 'error', name: 'RangeError', value, traceback: [`RangeError: ${value}`] });
    }
  }

  // -- interrupts

  /** Do something that must not be terminated half-way. */
  _shielded(action) {
    const before = this._isShielded;
    this._isShielded = true;
    try {
      return action();
    } finally {
      this._isShielded = before;
    }
  }

  /** Called by reader.js in the middle of whatever this thread executes: the run, or what an earlier one has left. */
  _strike(id) {
    const run = this._run;
    if (id < this._last || (id === this._last && run === null)) return; // it is over
    if (run?.id === id) run.isInterrupted = true;
    this._terminate();
  }

  /** Called likewise when this thread takes no messages: what an interrupted run has left must not keep it busy. */
  _strikeLeftover() {
    const run = this._runs.getStore(); // that began what executes; none for a handler of signals, say
    if (run === undefined || run.isInterrupted) this._terminate();
  }

  _terminate() {
    if (this._isShielded) return;
    if (this._session === null) {
      this._session = new inspector.Session();
      this._session.connect();
    }
    this._session.post('Runtime.terminateExecution');
  }

  _hearInterrupt(id) {
    if (id > this._last) {
      // What was terminated was about to begin this run.
      this._last = id;
      this._count += 1;
      this._run = new Run({ id }, this._count);
    }
    const run = this._run;
    if (run?.id !== id) {
      this._channel.hear(id);
      return;
    }
    run.isInterrupted = true;
    // What is ready to execute belongs to the run: it gets one turn of the event loop, in which it is still struck if it
    // does not end. Each message begins a turn of its own, because a strike may end the turn that the last one began.
    setTimeout(() => {
      setImmediate(() => {
        this._channel.hear(id); // also if it has ended meanwhile
        this._finish(run, 'interrupted');
      });
    }, 1);
  }

  // -- what goes wrong outside of a run's own code

  /** Survive it, and say so: again and again, because user code may remove our listeners. */
  _guard() {
    this._listeners ??= {
      SIGINT: ignore, // it is for subprocesses; we hear of interrupts by the channel
      uncaughtException: (error) => this._uncaught(error),
      unhandledRejection: (error) => this._report('Unhandled rejection: ', error, 'unhandledRejection'),
    };
    for (const [event, listener] of Object.entries(this._listeners)) {
      if (!process.listeners(event).includes(listener)) process.on(event, listener);
    }
  }

  _uncaught(error) {
    const run = this._run;
    if (run?.isWaiting && this._runs.getStore() === run) {
      // A callback that the run waits for would have ended a program; the run would wait for ever.
      this._fail(run, error);
    } else {
      this._report('Uncaught ', error, 'uncaughtException');
    }
  }

  _report(prefix, error, event) {
    if (process.listenerCount(event) > 1) return; // the user's own sees to it
    const { traceback } = errors.describe(error, this._places);
    const text = `${prefix}${traceback.join('\n').replace(/^Uncaught /, '')}\n`;
    try {
      process.stderr.write(text); // may be the user's own
    } catch {
      streams.writeText(2, text);
    }
  }

  // -- what code may call

  /** display(value), or display({'text/html': …}): show something on the way. */
  _display(value, { displayId, update = false } = {}) {
    const bundle = toShown(value);
    const show = (data) => {
      const message = { type: 'display', data };
      if (displayId !== undefined) Object.assign(message, { display_id: String(displayId), update: Boolean(update) });
      if (this._run !== null) this._channel.waitForAck(this._shielded(() => this._channel.sendForAck(message)));
      else this._shielded(() => this._channel.send(message)); // execd keeps it for the next run
    };
    return util.types.isPromise(bundle) ? bundle.then(show) : show(bundle);
  }

  /** await input('name? '): a line of text from whoever runs the code; null when there is none. */
  _input(prompt = '', { password = false } = {}) {
    return new Promise((resolve, reject) => {
      if (!this._run?.mayAsk) {
        resolve(null);
        return;
      }
      this._inputs.push({ resolve, reject, prompt: String(prompt), password: Boolean(password) });
      if (this._inputs.length === 1) this._ask();
      this._deadEnds.update();
    });
  }

  /** Send the first request for input that can be sent. */
  _ask() {
    while (this._inputs.length > 0) {
      const [{ prompt, password, reject }] = this._inputs;
      try {
        this._shielded(() => this._channel.send({ type: 'input_request', prompt, password }));
        return;
      } catch (tooLong) {
        this._inputs.shift();
        reject(tooLong);
      }
    }
  }

  _answer(text) {
    this._inputs.shift()?.resolve(text);
    this._ask();
    this._deadEnds.update();
  }

  _forgetInputs() {
    for (const { resolve } of this._inputs.splice(0)) resolve(null);
  }

  _reply({ op, id, code, cursor, detail }) {
    try {
      this._shielded(() =>
        this._channel.send(
          op === 'complete'
            ? { type: 'completion', id, ...questions.complete(code, cursor) }
            : { type: 'inspection', id, data: questions.inspect(code, cursor, detail) },
        ),
      );
    } catch (error) {
      this._channel.send({ type: 'refused', id, message: `${error}` });
    }
  }
}

function raiseOomScore() {
  try {
    fs.writeFileSync('/proc/self/oom_score_adj', String(OOM_SCORE));
  } catch {
    // where that is not allowed, all processes are equal
  }
}

module.exports = { Runner };
