/** CodeMirror as the pages use it: loaded by the pages that have code, and by no other. */

import {
  acceptCompletion,
  autocompletion,
  closeBrackets,
  closeBracketsKeymap,
  type CompletionContext,
  type CompletionResult,
  completionKeymap,
  completionStatus,
  startCompletion,
} from '@codemirror/autocomplete';
import { defaultKeymap, history, historyKeymap, indentLess, indentMore } from '@codemirror/commands';
import {
  bracketMatching,
  defaultHighlightStyle,
  HighlightStyle,
  indentOnInput,
  indentUnit,
  LanguageSupport,
  StreamLanguage,
  syntaxHighlighting,
} from '@codemirror/language';
import { highlightSelectionMatches, searchKeymap } from '@codemirror/search';
import { Compartment, EditorState, type Extension } from '@codemirror/state';
import {
  drawSelection,
  EditorView,
  highlightActiveLine,
  highlightSpecialChars,
  keymap,
  lineNumbers,
} from '@codemirror/view';
import { tags } from '@lezer/highlight';

export interface Completions {
  matches: string[];
  /** In UTF-16 units, as the editor counts. */
  start: number;
  end: number;
}

export interface EditorOptions {
  parent: HTMLElement;
  value: string;
  language: string;
  label: string;
  /** A whole file: line numbers, search, Tab indents. */
  isFile?: boolean;
  readonly?: boolean;
  onChange: (value: string) => void;
  /** Shift+Enter (`goOn`) and Ctrl+Enter. */
  onRun?: (goOn: boolean) => void;
  onSave?: () => void;
  complete?: (code: string, cursor: number) => Promise<Completions | null>;
  inspect?: (code: string, cursor: number) => void;
}

const LANGUAGES: Record<string, () => Promise<Extension>> = {
  python: async () => (await import('@codemirror/lang-python')).python(),
  javascript: async () => (await import('@codemirror/lang-javascript')).javascript({ jsx: true }),
  typescript: async () => (await import('@codemirror/lang-javascript')).javascript({ typescript: true }),
  java: async () => (await import('@codemirror/lang-java')).java(),
  go: async () => (await import('@codemirror/lang-go')).go(),
  bash: async () => legacy((await import('@codemirror/legacy-modes/mode/shell')).shell),
  toml: async () => legacy((await import('@codemirror/legacy-modes/mode/toml')).toml),
  yaml: async () => legacy((await import('@codemirror/legacy-modes/mode/yaml')).yaml),
  css: async () => legacy((await import('@codemirror/legacy-modes/mode/css')).css),
  xml: async () => legacy((await import('@codemirror/legacy-modes/mode/xml')).xml),
  sql: async () => legacy((await import('@codemirror/legacy-modes/mode/sql')).standardSQL),
  docker: async () => legacy((await import('@codemirror/legacy-modes/mode/dockerfile')).dockerFile),
};

function legacy(mode: Parameters<typeof StreamLanguage.define>[0]): Extension {
  return new LanguageSupport(StreamLanguage.define(mode));
}

const COLORS = HighlightStyle.define([
  { tag: [tags.keyword, tags.controlKeyword, tags.operatorKeyword], color: 'light-dark(#8a2a8a, #d9a3f0)' },
  { tag: [tags.string, tags.special(tags.string)], color: 'light-dark(#136c2e, #8fdc9f)' },
  { tag: [tags.number, tags.bool, tags.null, tags.atom], color: 'light-dark(#8a4b00, #f3b65b)' },
  { tag: [tags.comment], color: 'light-dark(#5a6773, #94a3b0)', fontStyle: 'italic' },
  { tag: [tags.function(tags.variableName), tags.function(tags.propertyName)], color: 'light-dark(#1a56b0, #8fbcff)' },
  { tag: [tags.typeName, tags.className, tags.tagName], color: 'light-dark(#0b6370, #6fd5e0)' },
  { tag: [tags.definition(tags.variableName)], color: 'light-dark(#17212b, #e7ecf0)' },
  { tag: [tags.invalid], color: 'var(--bad)' },
]);

const LOOK = EditorView.theme({
  '&': { color: 'var(--text)', backgroundColor: 'transparent', fontSize: '0.875rem' },
  '&.cm-focused': { outline: 'none' },
  '.cm-content': { fontFamily: 'var(--mono)', caretColor: 'var(--text)', padding: '8px 0' },
  '.cm-scroller': { fontFamily: 'var(--mono)', lineHeight: '1.5' },
  '.cm-content:focus-visible': { boxShadow: 'none' },
  '.cm-gutters': { backgroundColor: 'transparent', color: 'var(--muted)', border: 'none' },
  '.cm-cursor': { borderLeftColor: 'var(--text)' },
  '.cm-activeLine': { backgroundColor: 'transparent' },
  '&.cm-focused > .cm-scroller > .cm-selectionLayer .cm-selectionBackground, .cm-selectionBackground': {
    backgroundColor: 'light-dark(#b9ded9, #24524c)',
  },
  '.cm-tooltip': { backgroundColor: 'var(--raised)', border: '1px solid var(--line)', color: 'var(--text)' },
  '.cm-tooltip-autocomplete ul li[aria-selected]': { backgroundColor: 'var(--accent)', color: 'var(--on-accent)' },
  '.cm-panels': { backgroundColor: 'var(--raised)', color: 'var(--text)' },
  '.cm-panels input, .cm-panels button': { width: 'auto', minHeight: '28px' },
});

/** An editor on the page. */
export class Editor {
  readonly view: EditorView;
  private readonly language = new Compartment();
  private readonly access = new Compartment();
  private readonly label = new Compartment();
  private isOwnChange = false;

  constructor(private readonly options: EditorOptions) {
    this.view = new EditorView({
      parent: options.parent,
      state: EditorState.create({ doc: options.value, extensions: this.extensions() }),
    });
    void this.setLanguage(options.language);
  }

  /** Show another text, unless it is what the editor has. */
  setValue(value: string): void {
    if (value === this.view.state.doc.toString()) return;
    this.isOwnChange = true;
    this.view.dispatch({ changes: { from: 0, to: this.view.state.doc.length, insert: value } });
    this.isOwnChange = false;
  }

  async setLanguage(language: string): Promise<void> {
    this.options.language = language;
    const found = (await LANGUAGES[language]?.()) ?? [];
    if (this.options.language === language) this.view.dispatch({ effects: this.language.reconfigure(found) });
  }

  setLabel(label: string): void {
    this.view.dispatch({ effects: this.label.reconfigure(labelled(label)) });
  }

  setReadonly(isReadonly: boolean): void {
    this.view.dispatch({ effects: this.access.reconfigure(EditorState.readOnly.of(isReadonly)) });
  }

  focus(): void {
    this.view.focus();
  }

  destroy(): void {
    this.view.destroy();
  }

  // -- inside

  private extensions(): Extension[] {
    const { options } = this;
    return [
      keymap.of(this.keys()),
      ...(options.isFile ? [lineNumbers(), highlightActiveLine(), highlightSelectionMatches()] : []),
      EditorView.lineWrapping,
      highlightSpecialChars(),
      history(),
      drawSelection(),
      indentOnInput(),
      indentUnit.of('    '),
      bracketMatching(),
      closeBrackets(),
      autocompletion({
        activateOnTyping: false,
        override: [(context) => this.complete(context)],
      }),
      syntaxHighlighting(COLORS),
      syntaxHighlighting(defaultHighlightStyle, { fallback: true }),
      LOOK,
      this.language.of([]),
      this.access.of(EditorState.readOnly.of(options.readonly ?? false)),
      this.label.of(labelled(options.label)),
      EditorView.updateListener.of((update) => {
        if (update.docChanged && !this.isOwnChange) options.onChange(update.state.doc.toString());
      }),
      keymap.of([
        ...closeBracketsKeymap,
        ...completionKeymap,
        ...(options.isFile ? searchKeymap : []),
        ...historyKeymap,
        ...defaultKeymap,
      ]),
    ];
  }

  private keys() {
    const { onRun, onSave } = this.options;
    const run = (goOn: boolean) => () => {
      onRun?.(goOn);
      return onRun !== undefined;
    };
    return [
      { key: 'Shift-Enter', run: run(true) },
      { key: 'Mod-Enter', run: run(false) },
      { key: 'Mod-s', run: () => (onSave?.(), onSave !== undefined), preventDefault: true },
      { key: 'Tab', run: () => this.tab() },
      { key: 'Shift-Tab', run: () => this.shiftTab() },
    ];
  }

  private tab(): boolean {
    const { view } = this;
    if (completionStatus(view.state) === 'active') return acceptCompletion(view);
    if (!this.options.complete || this.isBeforeCode()) return indentMore(view);
    return startCompletion(view);
  }

  private shiftTab(): boolean {
    const { view, options } = this;
    if (!options.inspect || this.isBeforeCode()) return indentLess(view);
    options.inspect(view.state.doc.toString(), view.state.selection.main.head);
    return true;
  }

  /** Whether there is only space before the cursor, or a selection: Tab indents. */
  private isBeforeCode(): boolean {
    const { main } = this.view.state.selection;
    const line = this.view.state.doc.lineAt(main.head);
    return !main.empty || !line.text.slice(0, main.head - line.from).trim();
  }

  private async complete(context: CompletionContext): Promise<CompletionResult | null> {
    const found = await this.options.complete?.(context.state.doc.toString(), context.pos);
    if (!found?.matches.length || context.aborted) return null;
    return { from: found.start, to: found.end, options: found.matches.map((label) => ({ label })), filter: false };
  }
}

function labelled(label: string): Extension {
  return EditorView.contentAttributes.of({ 'aria-label': label });
}
