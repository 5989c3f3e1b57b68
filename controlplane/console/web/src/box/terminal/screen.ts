/** xterm.js as the pages use it. Programs cannot reach the page through it: no titles, links or clipboard. */

import '@xterm/xterm/css/xterm.css';

import { FitAddon } from '@xterm/addon-fit';
import { type ITheme, Terminal } from '@xterm/xterm';

import type { Screen } from './terminals.svelte';

const LIGHT: ITheme = {
  background: '#ffffff',
  foreground: '#17212b',
  cursor: '#0b6b63',
  selectionBackground: '#b9ded9',
  black: '#1f2933',
  red: '#b3201a',
  green: '#136c2e',
  yellow: '#7a5200',
  blue: '#1a56b0',
  magenta: '#8a2a8a',
  cyan: '#0b6370',
  white: '#52606d',
};
const DARK: ITheme = {
  background: '#0b0f13',
  foreground: '#e7ecf0',
  cursor: '#3fd0bd',
  selectionBackground: '#24524c',
  red: '#ff8a80',
  green: '#5fd37f',
  yellow: '#f3c15b',
  blue: '#82b4ff',
  magenta: '#e59af0',
  cyan: '#5fd3e0',
};

export interface ScreenOptions {
  label: string;
  isDark: boolean;
  onInput: (text: string) => void;
  onBinary: (bytes: string) => void;
  /** Shift+Escape: the reader wants to leave. */
  onLeave: () => void;
  onResize: () => void;
}

/** Questions of programs, which xterm.js answers as if the answer had been typed. */
const QUESTIONS = [
  { final: 'c' },
  { prefix: '>', final: 'c' },
  { final: 'n' },
  { prefix: '?', final: 'n' },
  { intermediates: '$', final: 'p' },
  { prefix: '?', intermediates: '$', final: 'p' },
];
/** OSC that set a colour, or ask for it with a question mark. */
const COLORS = [4, 10, 11, 12];

export class XtermScreen implements Screen {
  private readonly terminal: Terminal;
  private readonly fit = new FitAddon();
  private readonly observer: ResizeObserver;
  /** What is being read was answered when it was new. */
  private isReplay = false;

  constructor(element: HTMLElement, options: ScreenOptions) {
    this.terminal = new Terminal({
      fontFamily: getComputedStyle(element).getPropertyValue('--mono') || 'monospace',
      fontSize: 14,
      scrollback: 5000,
      cursorBlink: false,
      theme: options.isDark ? DARK : LIGHT,
      minimumContrastRatio: 4.5,
      linkHandler: { activate: () => undefined }, // OSC 8: where a link of a program leads is hostile
    });
    this.terminal.loadAddon(this.fit);
    this.answerOnce();
    this.terminal.open(element);
    this.terminal.textarea?.setAttribute('aria-label', options.label);
    this.terminal.onData(options.onInput);
    this.terminal.onBinary(options.onBinary);
    this.terminal.attachCustomKeyEventHandler((event) => this.key(event, options));
    this.observer = new ResizeObserver(() => {
      this.fit.fit();
      options.onResize();
    });
    this.observer.observe(element);
    this.fit.fit();
  }

  write(text: string, isReplay: boolean): Promise<void> {
    // xterm.js reads later, and calls back between the pieces.
    this.terminal.write('', () => (this.isReplay = isReplay));
    return new Promise((resolve) => this.terminal.write(text, resolve));
  }

  reset(): void {
    this.terminal.reset();
  }

  size(): { cols: number; rows: number } {
    return { cols: this.terminal.cols, rows: this.terminal.rows };
  }

  focus(): void {
    this.terminal.focus();
  }

  paint(isDark: boolean): void {
    this.terminal.options.theme = isDark ? DARK : LIGHT;
  }

  /** Return what is shown, without styles. */
  text(): string {
    const { active } = this.terminal.buffer;
    const lines = Array.from({ length: active.length }, (_, i) => active.getLine(i)?.translateToString(true) ?? '');
    return lines.join('\n').trimEnd();
  }

  dispose(): void {
    this.observer.disconnect();
    this.terminal.dispose();
  }

  /** Give no answers to questions in kept output: nobody waits for them now, and a shell would take them for keys. */
  private answerOnce(): void {
    const { parser } = this.terminal;
    for (const question of QUESTIONS) parser.registerCsiHandler(question, () => this.isReplay);
    // Readline takes the answer to DECRQSS for a search, and programs go on without it.
    parser.registerDcsHandler({ intermediates: '$', final: 'q' }, () => true);
    for (const color of COLORS) parser.registerOscHandler(color, (data) => this.isReplay && data.includes('?'));
  }

  private key(event: KeyboardEvent, options: ScreenOptions): boolean {
    if (event.type !== 'keydown') return true;
    if (event.key === 'Escape' && event.shiftKey) {
      options.onLeave();
      return false;
    }
    if (event.ctrlKey && event.shiftKey && event.code === 'KeyC') {
      event.preventDefault();
      void navigator.clipboard?.writeText(this.terminal.getSelection());
      return false;
    }
    return true;
  }
}
