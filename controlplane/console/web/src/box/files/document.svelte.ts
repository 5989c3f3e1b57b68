/** The file that is shown: its text and where it stands, or why it is not text. */

import type { Failure, Result } from '../../api/client';
import type { FileEntry, Stamp } from './requests';
import { nameOf } from './paths';

/** Bytes of a file that can be edited here. */
export const MAX_TEXT_BYTES = 2 << 20;
/** Bytes of an image that is shown. */
export const MAX_IMAGE_BYTES = 32 << 20;

const IMAGES: Record<string, string> = {
  png: 'image/png',
  jpg: 'image/jpeg',
  jpeg: 'image/jpeg',
  gif: 'image/gif',
  webp: 'image/webp',
  svg: 'image/svg+xml',
  ico: 'image/x-icon',
};
const LANGUAGES: Record<string, string> = {
  py: 'python',
  js: 'javascript',
  mjs: 'javascript',
  jsx: 'javascript',
  json: 'javascript',
  ts: 'typescript',
  tsx: 'typescript',
  java: 'java',
  go: 'go',
  sh: 'bash',
  bash: 'bash',
  toml: 'toml',
  yaml: 'yaml',
  yml: 'yaml',
  css: 'css',
  xml: 'xml',
  html: 'xml',
  svg: 'xml',
  sql: 'sql',
  dockerfile: 'docker',
};

export type Kind = 'text' | 'image' | 'binary' | 'large';

export interface Access {
  info(path: string): Promise<Result<FileEntry>>;
  read(path: string): Promise<Result<Blob>>;
  write(path: string, content: Blob): Promise<Result<undefined>>;
}

/** What `save` ended with. `conflict`: the file has changed since it was read, and nothing was written. */
export type Saved = 'saved' | 'conflict' | Failure;

export class OpenFile {
  text = $state('');
  /** The text that was last read or written. */
  base = $state('');
  /** The text of the file as somebody else has left it, while there is a conflict. */
  theirs: string | undefined = $state();
  image = $state('');
  readonly language: string;
  /** The state of the file when it was last read or written. */
  stamp: Stamp = $state.raw({ size: 0, modified_at: '' });

  private constructor(
    private readonly access: Access,
    readonly entry: FileEntry,
    readonly kind: Kind,
  ) {
    this.stamp = entry;
    const name = nameOf(entry.path).toLowerCase();
    this.language = LANGUAGES[name.slice(name.lastIndexOf('.') + 1)] ?? '';
  }

  get path(): string {
    return this.entry.path;
  }
  get isDirty(): boolean {
    return this.kind === 'text' && this.text !== this.base;
  }

  static async open(access: Access, path: string): Promise<Result<OpenFile>> {
    const info = await access.info(path);
    if (!info.ok) return info;
    const entry = { ...info.value, path };
    const name = nameOf(path).toLowerCase();
    const mime = IMAGES[name.slice(name.lastIndexOf('.') + 1)];
    const bound = mime ? MAX_IMAGE_BYTES : MAX_TEXT_BYTES;
    if (entry.size > bound) return { ok: true, value: new OpenFile(access, entry, 'large') };
    const content = await access.read(path);
    if (!content.ok) return content;
    if (mime) {
      const file = new OpenFile(access, entry, 'image');
      // As an image, SVG runs no scripts and loads nothing.
      file.image = URL.createObjectURL(new Blob([content.value], { type: mime }));
      return { ok: true, value: file };
    }
    const text = await textOf(content.value);
    const file = new OpenFile(access, entry, text === null ? 'binary' : 'text');
    file.text = file.base = text ?? '';
    return { ok: true, value: file };
  }

  close(): void {
    if (this.image) URL.revokeObjectURL(this.image);
  }

  /** Write the text, unless the file has changed since it was read. With *force*, write it all the same. */
  async save(force = false): Promise<Saved> {
    const written = this.text;
    if (!force) {
      const changed = await this.change();
      if (changed !== null) return changed;
    }
    const answer = await this.access.write(this.path, new Blob([written]));
    if (!answer.ok) return answer.error;
    this.base = written;
    this.theirs = undefined;
    const info = await this.access.info(this.path);
    if (info.ok) this.stamp = info.value;
    return 'saved';
  }

  /** Take what is in the sandbox, and drop the changes of this page. */
  takeTheirs(): void {
    if (this.theirs === undefined) return;
    this.text = this.base = this.theirs;
    this.theirs = undefined;
  }

  /** Return null if the file is as it was read; else `conflict`, or why it cannot be said. */
  private async change(): Promise<'conflict' | Failure | null> {
    const info = await this.access.info(this.path);
    if (!info.ok && info.error.status !== 404) return info.error;
    if (info.ok && info.value.size === this.stamp.size && info.value.modified_at === this.stamp.modified_at) return null;
    let theirs = '';
    if (info.ok) {
      const content = info.value.size > MAX_TEXT_BYTES ? null : await this.access.read(this.path);
      if (content && !content.ok) return content.error;
      theirs = (content && (await textOf(content.value))) ?? '';
      if (content && theirs === this.base) {
        this.stamp = info.value; // touched, and not changed
        return null;
      }
      this.stamp = info.value;
    }
    this.theirs = theirs;
    return 'conflict';
  }
}

/** Return a file as text; null if it is none. */
export async function textOf(content: Blob): Promise<string | null> {
  const bytes = new Uint8Array(await content.arrayBuffer());
  if (bytes.subarray(0, 8192).includes(0)) return null;
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    return null;
  }
}
