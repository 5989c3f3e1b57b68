import { describe, expect, it } from 'vitest';

import { MAX_TEXT_BYTES, OpenFile, textOf } from './document.svelte';
import type { FileEntry } from './requests';
import { MAX_SHOWN, Tree } from './tree.svelte';

/** Files of a sandbox: a name, its content, and how often it was written. */
class FakeFiles {
  times = 0;
  files = new Map<string, { text: string; at: string }>();

  put(path: string, text: string): void {
    this.files.set(path, { text, at: `2026-01-01T00:00:${String((this.times += 1)).padStart(2, '0')}Z` });
  }
  async info(path: string) {
    const file = this.files.get(path);
    if (!file) return { ok: false as const, error: { status: 404, code: 'FILE_NOT_FOUND', message: path } };
    return { ok: true as const, value: entry(path, file.text.length, file.at) };
  }
  async read(path: string) {
    return { ok: true as const, value: new Blob([this.files.get(path)!.text]) };
  }
  async write(path: string, content: Blob) {
    this.put(path, await content.text());
    return { ok: true as const, value: undefined };
  }
}

function entry(path: string, size = 0, modified_at = '', type: FileEntry['type'] = 'file'): FileEntry {
  return { path, type, size, modified_at, mode: 644, owner: '', group: '' };
}

async function opened(text = 'one\n') {
  const files = new FakeFiles();
  files.put('/a.py', text);
  const answer = await OpenFile.open(files, '/a.py');
  if (!answer.ok) throw new Error(answer.error.message);
  return { files, file: answer.value };
}

describe('saving', () => {
  it('writes a changed text', async () => {
    const { files, file } = await opened();
    file.text = 'two\n';
    expect(file.isDirty).toBe(true);
    expect(await file.save()).toBe('saved');
    expect(files.files.get('/a.py')!.text).toBe('two\n');
    expect(file.isDirty).toBe(false);
    file.text = 'three\n';
    expect(await file.save()).toBe('saved');
  });

  it('writes nothing over what somebody else has written', async () => {
    const { files, file } = await opened();
    files.put('/a.py', 'theirs');
    file.text = 'mine';
    expect(await file.save()).toBe('conflict');
    expect(files.files.get('/a.py')!.text).toBe('theirs');
    expect(file.theirs).toBe('theirs');
  });

  it('of the same size, too', async () => {
    const { files, file } = await opened('aaa');
    files.put('/a.py', 'bbb');
    file.text = 'ccc';
    expect(await file.save()).toBe('conflict');
  });

  it('a file that was only touched is no conflict', async () => {
    const { files, file } = await opened();
    files.put('/a.py', 'one\n');
    file.text = 'mine';
    expect(await file.save()).toBe('saved');
  });

  it('a removed file is a conflict', async () => {
    const { files, file } = await opened();
    files.files.clear();
    file.text = 'mine';
    expect(await file.save()).toBe('conflict');
  });

  it('overwrites when told to, and takes theirs when told to', async () => {
    const { files, file } = await opened();
    files.put('/a.py', 'theirs');
    file.text = 'mine';
    await file.save();
    expect(await file.save(true)).toBe('saved');
    expect(file.theirs).toBeUndefined();
    files.put('/a.py', 'again');
    file.text = 'mine2';
    await file.save();
    file.takeTheirs();
    expect([file.text, file.isDirty]).toEqual(['again', false]);
  });

  it('what is typed while it is saved is not lost', async () => {
    const { files, file } = await opened();
    file.text = 'two';
    const saving = file.save();
    file.text = 'three';
    await saving;
    expect(files.files.get('/a.py')!.text).toBe('two');
    expect(file.isDirty).toBe(true);
  });
});

describe('kinds', () => {
  it('large files are not read', async () => {
    const files = new FakeFiles();
    files.put('/big.txt', '');
    files.info = async (path) => ({ ok: true, value: entry(path, MAX_TEXT_BYTES + 1) });
    files.read = () => Promise.reject(new Error('read'));
    const answer = await OpenFile.open(files, '/big.txt');
    expect(answer.ok && answer.value.kind).toBe('large');
  });
  it.each([
    [[104, 105], 'hi'],
    [[0, 1], null],
    [[0xff, 0xfe, 0x41], null],
    [[0xef, 0xbb, 0xbf, 0x41], '\ufeffA'],
  ])('%j', async (bytes, text) => expect(await textOf(new Blob([new Uint8Array(bytes)]))).toBe(text));
});

describe('the tree', () => {
  function tree(directories: Record<string, FileEntry[]>) {
    const asked: string[] = [];
    const source = {
      list: async (path: string) => {
        asked.push(path);
        const found = directories[path];
        return found
          ? { ok: true as const, value: found }
          : { ok: false as const, error: { status: 404, code: 'X', message: 'gone' } };
      },
    };
    return { asked, directories, tree: new Tree(source) };
  }
  const directory = (path: string) => entry(path, 0, '', 'directory');

  it('reads a directory when it is opened, once', async () => {
    const { asked, tree: files } = tree({ '/': [entry('/b'), directory('/a'), entry('/a10'), entry('/a9')], '/a': [] });
    await files.open(files.root);
    expect(files.visible.map((node) => node.path)).toEqual(['/', '/a', '/a9', '/a10', '/b']);
    await files.open(files.visible[1]!);
    files.close(files.root);
    await files.open(files.root);
    expect(asked).toEqual(['/', '/a']);
  });

  it('reveals a path, also a new one', async () => {
    const { directories, tree: files } = tree({ '/': [directory('/a')], '/a': [] });
    expect(await files.reveal('/a/new')).toBe(false);
    directories['/a'] = [entry('/a/new')];
    expect(await files.reveal('/a/new')).toBe(true);
    expect(files.selected).toBe('/a/new');
  });

  it('what is open stays open when it is read again', async () => {
    const { directories, tree: files } = tree({ '/': [directory('/a')], '/a': [entry('/a/x')] });
    await files.reveal('/a/x');
    directories['/a'] = [entry('/a/x'), entry('/a/y')];
    await files.refresh('/');
    expect(files.visible.map((node) => node.path)).toEqual(['/', '/a', '/a/x', '/a/y']);
  });

  it('says why a directory cannot be read, and hides what is too much', async () => {
    const many = Array.from({ length: MAX_SHOWN + 5 }, (_, i) => entry(`/f${i}`));
    const { tree: files } = tree({ '/': [...many, directory('/gone')] });
    await files.open(files.root);
    expect(files.root.hidden).toBe(6);
    await files.open(files.visible[1]!);
    expect(files.visible[1]!.failure?.message).toBe('gone');
  });
});
