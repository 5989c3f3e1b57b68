/** The tree of a sandbox's files: directories are read when they are opened. */

import type { Failure, Result } from '../../api/client';
import { nameOf, parentOf } from './paths';
import type { FileEntry } from './requests';

/** Entries of one directory that are shown. */
export const MAX_SHOWN = 2000;

export interface Source {
  list(path: string): Promise<Result<FileEntry[]>>;
}

export class Node {
  isOpen = $state(false);
  isLoading = $state(false);
  failure: Failure | undefined = $state.raw();
  children: Node[] | undefined = $state.raw();
  /** Entries that are not shown, because there are too many. */
  hidden = $state(0);

  constructor(
    readonly entry: FileEntry,
    readonly depth: number,
  ) {}

  get path(): string {
    return this.entry.path;
  }
  get name(): string {
    return nameOf(this.entry.path);
  }
  get isDirectory(): boolean {
    return this.entry.type === 'directory';
  }
}

const ROOT: FileEntry = { path: '/', type: 'directory', size: 0, mode: 755, modified_at: '', owner: '', group: '' };

export class Tree {
  readonly root = new Node(ROOT, 0);
  selected = $state('/');

  constructor(private readonly source: Source) {}

  /** The nodes that are in sight, in their order. */
  get visible(): Node[] {
    const found: Node[] = [];
    const walk = (node: Node) => {
      found.push(node);
      if (node.isOpen) node.children?.forEach(walk);
    };
    walk(this.root);
    return found;
  }

  get node(): Node | undefined {
    return this.find(this.selected);
  }

  find(path: string): Node | undefined {
    let node: Node | undefined = this.root;
    while (node && node.path !== path) {
      const inside: Node[] = node.children ?? [];
      node = inside.find((child) => path === child.path || path.startsWith(`${child.path}/`));
    }
    return node;
  }

  async open(node: Node): Promise<void> {
    if (!node.isDirectory) return;
    node.isOpen = true;
    if (!node.children) await this.load(node);
  }

  close(node: Node): void {
    node.isOpen = false;
    if (this.selected.startsWith(node.path === '/' ? '/' : `${node.path}/`)) this.selected = node.path;
  }

  /** Read a directory again; what was open below it stays open. */
  async load(node: Node): Promise<void> {
    if (!node.isDirectory) return;
    node.isLoading = true;
    const answer = await this.source.list(node.path);
    node.isLoading = false;
    node.failure = answer.ok ? undefined : answer.error;
    if (!answer.ok) return;
    const before = new Map((node.children ?? []).map((child) => [child.path, child]));
    const entries = answer.value.filter((entry) => entry.path !== node.path).sort(byKindAndName);
    node.hidden = Math.max(0, entries.length - MAX_SHOWN);
    node.children = entries.slice(0, MAX_SHOWN).map((entry) => this.renewed(new Node(entry, node.depth + 1), before));
    await Promise.all(node.children.filter((child) => child.isOpen).map((child) => this.load(child)));
  }

  /** Open all directories above a path, and select it. Return whether it is there. */
  async reveal(path: string): Promise<boolean> {
    const parts = path.split('/').filter(Boolean);
    let node = this.root;
    await this.open(node);
    for (const [index] of parts.entries()) {
      const wanted = `/${parts.slice(0, index + 1).join('/')}`;
      let next = node.children?.find((child) => child.path === wanted);
      if (!next && node.children) {
        await this.load(node); // it may be new
        next = node.children.find((child) => child.path === wanted);
      }
      if (!next) return false;
      node = next;
      if (index < parts.length - 1) await this.open(node);
    }
    this.selected = node.path;
    return true;
  }

  /** Read the directory of a path again. */
  async refresh(path: string): Promise<void> {
    const node = this.find(path);
    if (node) await this.load(node.isDirectory ? node : (this.find(parentOf(path)) ?? this.root));
  }

  private renewed(node: Node, before: ReadonlyMap<string, Node>): Node {
    const old = before.get(node.path);
    if (old?.isDirectory && node.isDirectory) {
      node.isOpen = old.isOpen;
      node.children = old.children;
    }
    return node;
  }
}

function byKindAndName(a: FileEntry, b: FileEntry): number {
  const kinds = Number(b.type === 'directory') - Number(a.type === 'directory');
  return kinds || nameOf(a.path).localeCompare(nameOf(b.path), 'en', { numeric: true });
}
