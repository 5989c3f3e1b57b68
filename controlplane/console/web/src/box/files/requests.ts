/** Requests about files. What a request needs is in docs; every path is hostile, and goes as a parameter. */

import { call, CONSOLE_HEADER, type Failure, queryString, type Result, send } from '../../api/client';

export interface FileEntry {
  path: string;
  type: 'file' | 'directory' | 'symlink' | 'other';
  size: number;
  mode: number;
  modified_at: string;
  owner: string;
  group: string;
}

/** The state of a file that a change of it is compared with. */
export type Stamp = Pick<FileEntry, 'size' | 'modified_at'>;

export class FileRequests {
  /** *base* is the address of the sandbox's agent. */
  constructor(private readonly base: string) {}

  list(path: string): Promise<Result<FileEntry[]>> {
    return call('GET', `${this.base}/directories/list`, { query: { path } });
  }

  async info(path: string): Promise<Result<FileEntry>> {
    const answer = await call<Record<string, FileEntry>>('GET', `${this.base}/files/info`, { query: { path } });
    if (!answer.ok) return answer;
    const [entry] = Object.values(answer.value);
    return entry ? { ok: true, value: entry } : { ok: false, error: { status: 404, code: 'NOT_FOUND', message: path } };
  }

  async read(path: string): Promise<Result<Blob>> {
    const answer = await send('GET', `${this.base}/files/download`, { query: { path } });
    if (!answer.ok) return answer;
    try {
      return { ok: true, value: await answer.value.blob() };
    } catch (error) {
      return { ok: false, error: { status: 0, code: 'NO_ANSWER', message: String(error) } };
    }
  }

  makeDirectory(path: string): Promise<Result<undefined>> {
    return call('POST', `${this.base}/directories`, { body: { [path]: {} } });
  }

  move(from: string, to: string): Promise<Result<undefined>> {
    return call('POST', `${this.base}/files/mv`, { body: [{ src: from, dest: to }] });
  }

  remove(entry: Pick<FileEntry, 'path' | 'type'>): Promise<Result<undefined>> {
    const what = entry.type === 'directory' ? 'directories' : 'files';
    return call('DELETE', `${this.base}/${what}`, { query: { path: entry.path } });
  }

  /** Write a whole file. `onProgress` gets the bytes that were sent. */
  write(
    path: string,
    content: Blob,
    onProgress: (sent: number) => void = () => undefined,
    signal?: AbortSignal,
  ): Promise<Result<undefined>> {
    const form = new FormData();
    form.append('metadata', new Blob([JSON.stringify({ path })], { type: 'application/json' }), 'metadata');
    form.append('file', content, 'file'); // the name that counts is in the metadata
    return new Promise((resolve) => {
      const request = new XMLHttpRequest(); // fetch cannot tell how much it has sent
      const fail = (error: Failure) => resolve({ ok: false, error });
      request.open('POST', `${this.base}/files/upload${queryString()}`);
      request.setRequestHeader(CONSOLE_HEADER[0], CONSOLE_HEADER[1]);
      request.upload.onprogress = (event) => onProgress(Math.min(content.size, event.loaded));
      request.onload = () => {
        if (request.status >= 200 && request.status < 300) resolve({ ok: true, value: undefined });
        else fail({ status: request.status, ...problemOf(request.responseText) });
      };
      request.onerror = () => fail({ status: 0, code: 'NO_ANSWER', message: '' });
      request.onabort = () => fail({ status: 0, code: 'ABORTED', message: '' });
      signal?.addEventListener('abort', () => request.abort());
      request.send(form);
    });
  }
}

function problemOf(text: string): { code: string; message: string } {
  try {
    const { code = '', message = text } = JSON.parse(text) as Partial<Failure>;
    return { code, message };
  } catch {
    return { code: '', message: text.slice(0, 500) };
  }
}
