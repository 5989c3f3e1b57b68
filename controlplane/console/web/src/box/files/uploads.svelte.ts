/** Files on their way into the sandbox, one after the other. */

import type { Result } from '../../api/client';
import { join } from './paths';

export interface Upload {
  id: number;
  name: string;
  size: number;
  sent: number;
  state: 'waiting' | 'sending' | 'done' | 'failed';
  message: string;
  cancel: AbortController;
}

type Write = (
  path: string,
  content: Blob,
  onProgress: (sent: number) => void,
  signal: AbortSignal,
) => Promise<Result<undefined>>;

export class Uploads {
  list: Upload[] = $state([]);
  private next = 1;
  private queue: Promise<void> = Promise.resolve();

  constructor(private readonly write: Write) {}

  /** Send files into a directory; returns when all are there or have failed. */
  async send(directory: string, files: readonly File[]): Promise<void> {
    for (const file of files) {
      const upload: Upload = {
        id: this.next++,
        name: file.name,
        size: file.size,
        sent: 0,
        state: 'waiting',
        message: '',
        cancel: new AbortController(),
      };
      this.list.push(upload);
      const shownUpload = this.list.at(-1)!;
      this.queue = this.queue.then(() => this.one(shownUpload, join(directory, file.name), file));
    }
    await this.queue;
  }

  forget(): void {
    this.list = this.list.filter((upload) => upload.state === 'waiting' || upload.state === 'sending');
  }

  private async one(upload: Upload, path: string, file: File): Promise<void> {
    if (upload.cancel.signal.aborted) {
      upload.state = 'failed';
      return;
    }
    upload.state = 'sending';
    const answer = await this.write(path, file, (sent) => (upload.sent = sent), upload.cancel.signal);
    upload.state = answer.ok ? 'done' : 'failed';
    if (answer.ok) upload.sent = upload.size;
    else upload.message = answer.error.message;
  }
}
