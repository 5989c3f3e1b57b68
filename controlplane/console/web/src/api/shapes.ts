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
  expires_at: string | null;
}

export interface ServerInfo {
  version: string;
  started_at: string;
  problem: string;
  address: { public_address: string; port_domain: string };
  engine: {
    answers: boolean;
    name: string;
    version: string;
    api_version: string;
    cpus: number;
    memory_bytes: number;
    cgroup_version: number;
    storage_driver: string;
    default_runtime: string;
    abilities: string[];
    networks: string[];
    volumes: string[];
    runtimes: string[];
    limits: string[];
  };
  sandboxes: Record<string, number>;
  pools: Pool[];
  disk: { free_bytes: number; free_files: number | null } | null;
  limits: Record<string, number>;
  settings: { name: string; value: string; default: string }[];
}

export interface Image {
  name: string;
  id: string;
  size_bytes: number;
  created_at: string;
  languages: string[];
  is_ours: boolean;
  sandboxes: number;
  pooled: boolean;
}

export interface Volume {
  name: string;
  owner: string;
  created_at: string;
  in_use_by: string[];
  size_bytes?: number;
}

export interface Check {
  name: string;
  ok: boolean;
  message: string;
  cure: string;
  is_advice: boolean;
  skipped: boolean;
}

export interface Usage {
  cpu_used_pct: number;
  cpu_count: number;
  mem_used_mib: number;
  mem_total_mib: number;
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
