/** The JSON of the server, as far as the pages read it. */

export interface Status {
  state: string;
  reason?: string;
  message?: string;
  lastTransitionAt?: string;
}

export interface Sandbox {
  id: string;
  image?: { uri: string };
  snapshotId?: string;
  allocation?: { mode: string; poolRef: string; state: string };
  status: Status;
  metadata?: Record<string, string>;
  extensions?: Record<string, string>;
  entrypoint?: string[];
  expiresAt?: string;
  createdAt: string;
}

export interface Page<T> {
  items: T[];
  pagination: { page: number; pageSize: number; totalItems: number; totalPages: number; hasNextPage: boolean };
}

export interface Snapshot {
  id: string;
  sandboxId?: string;
  name?: string;
  status: Status;
  createdAt: string;
}

export interface Pool {
  name: string;
  image: string;
  target: number;
  idle: number;
  starting: number;
  hits: number;
  misses: number;
  problem?: string;
}

export interface Counters {
  sandboxes: Record<string, number>;
  warm: number;
  requests: number;
  runs: number;
  cpu: number;
  loop_lag_s: number;
}

export interface SignIn {
  name: string;
  owner?: string;
  scopes: string[];
  expires_at: string;
}

export type ServerEvent =
  | { type: 'hello'; version: string; instance: string; at: number }
  | { type: 'sandbox'; id: string; event: 'created' | 'changed' | 'ended'; sandbox: Sandbox | null; reason?: string }
  | ({ type: 'pool' } & Pool)
  | { type: 'image'; name: string; event: string; step?: string; message?: string }
  | { type: 'snapshot'; id: string; event: string; snapshot?: Snapshot }
  | { type: 'engine'; up: boolean; message?: string }
  | ({ type: 'counters' } & Counters)
  | { type: 'skipped'; count: number };
