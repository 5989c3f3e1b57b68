/** The messages of the native stream in JSON (`sandlot.json.v1`). docs/stream.md explains them. */

export interface Receipt {
  cause: string;
  wall_s: number;
  cpu_s: number;
  peak_memory_bytes: number;
  output_bytes: number;
  exit_code?: number;
  signal?: number;
  died_of?: string;
  limits_hit?: string[];
  notice?: string;
}

export interface Frame {
  file: string;
  line?: number;
  function?: string;
  code?: string;
}

export type Operation =
  | { op: 'command'; command?: string; argv?: string[]; cwd?: string; stdin?: boolean; keep_s?: number }
  | { op: 'run'; code: string; context?: string; language?: string; allow_input?: boolean; keep_s?: number }
  | { op: 'resume'; id: string; after?: number }
  | { op: 'input'; context: string; text?: string | null }
  | { op: 'context.open'; language: string; cwd?: string }
  | { op: 'context.list'; language?: string }
  | { op: 'context.languages' }
  | { op: 'context.close' | 'context.interrupt' | 'context.restart'; id: string }
  | { op: 'context.fork'; id: string; count?: number }
  | { op: 'context.complete'; id: string; code: string; cursor?: number }
  | { op: 'context.inspect'; id: string; code: string; cursor?: number; detail?: boolean }
  | { op: 'pty.open'; command?: string; cwd?: string; cols?: number; rows?: number }
  | { op: 'pty.attach'; id: string; since?: number; takeover?: boolean }
  | { op: 'pty.resize'; id: string; cols: number; rows: number }
  | { op: 'pty.list' }
  | { op: 'pty.close'; id: string }
  | { op: 'signal'; id: string; signal: string }
  | { op: 'file.read'; path: string; offset?: number; length?: number }
  | { op: 'file.write'; path: string; mode?: string }
  | { op: 'activity'; after?: number };

export interface Started {
  type: 'started';
  seq?: number;
  id: string;
  context?: string;
  pid?: number;
}
export interface Data {
  type: 'data';
  seq?: number;
  channel?: string;
  text?: string;
  data?: string;
}
export interface Result {
  type: 'result';
  seq?: number;
  kind: string;
  data: Record<string, string>;
  execution_count?: number;
  display_id?: string;
  update?: boolean;
}
export interface Raised {
  type: 'raised';
  seq?: number;
  name: string;
  value: string;
  traceback?: string[];
  frames?: Frame[];
}
export interface Prompt {
  type: 'prompt';
  seq?: number;
  prompt: string;
  password?: boolean;
}
export interface ContextState {
  type: 'context';
  id: string;
  language: string;
  busy?: boolean;
}
export interface Language {
  type: 'language';
  name: string;
  version?: string;
}
export interface Completion {
  type: 'completion';
  matches: string[];
  start: number;
  end: number;
}
export interface Inspection {
  type: 'inspection';
  data: Record<string, string>;
}
export interface Pty {
  type: 'pty';
  id: string;
  running: boolean;
  output_start?: number;
  output_end?: number;
}
export interface FileInfo {
  type: 'file';
  path: string;
  kind: string;
  size: number;
  mode: string;
  modified_at: number;
  owner: string;
  group: string;
}
export interface ActivityMessage {
  type: 'activity';
  entry: unknown;
}
export interface Done {
  type: 'done';
  seq?: number;
  receipt?: Receipt;
  message?: string;
}
export interface Failed {
  type: 'failed';
  seq?: number;
  code: string;
  message: string;
  receipt?: Receipt;
}

/** What a stream says before its end. */
export type Said =
  | Started
  | Data
  | Result
  | Raised
  | Prompt
  | ContextState
  | Language
  | Completion
  | Inspection
  | Pty
  | FileInfo
  | ActivityMessage;

/** The last message of a stream. */
export type Ending = Done | Failed;

export interface Hello {
  type: 'hello';
  sandbox: string;
  version: string;
  window: number;
}

/** The codes that the page itself gives to streams. */
export const CONNECTION_LOST = 'CONNECTION_LOST';
export const CANCELLED = 'CANCELLED';
