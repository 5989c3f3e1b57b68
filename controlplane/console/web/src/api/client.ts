/**
 * Requests to the server. An error is a value, never an exception: the server's own message says what to do.
 *
 * The cookie of the sign-in opens the API only with the header, which no form and no other site can send.
 */

export interface Failure {
  /** The HTTP status; 0 if the server did not answer. */
  status: number;
  code: string;
  message: string;
}

export type Result<T> = { ok: true; value: T } | { ok: false; error: Failure };

export type Query = Record<string, string | number | boolean | readonly string[] | undefined>;

export interface Options {
  query?: Query;
  /** Sent as JSON; a Blob, FormData or ArrayBuffer is sent as it is. */
  body?: unknown;
  headers?: Record<string, string>;
  signal?: AbortSignal;
}

/** What a request with the cookie needs; for requests that do not pass through `call`, such as uploads with progress. */
export const CONSOLE_HEADER = ['Sandlot-Console', '1'] as const;

let signedOut: () => void = () => undefined;

/** Have *listener* called whenever the server says that nobody is signed in (any more). */
export function onSignedOut(listener: () => void): void {
  signedOut = listener;
}

/** Send a request, and return the decoded JSON (undefined if there is no body). */
export async function call<T = undefined>(method: string, path: string, options: Options = {}): Promise<Result<T>> {
  const answer = await send(method, path, options);
  if (!answer.ok) return answer;
  const response = answer.value;
  try {
    const text = await response.text();
    return { ok: true, value: (text === '' ? undefined : JSON.parse(text)) as T };
  } catch (error) {
    return { ok: false, error: lost(error) };
  }
}

/** Send a request, and return the response itself if its status is a success. */
export async function send(method: string, path: string, options: Options = {}): Promise<Result<Response>> {
  const { query, body, headers, signal } = options;
  const isPlain = body instanceof Blob || body instanceof FormData || body instanceof ArrayBuffer;
  const request: RequestInit = {
    method,
    credentials: 'same-origin',
    headers: {
      [CONSOLE_HEADER[0]]: CONSOLE_HEADER[1],
      ...(body === undefined || isPlain ? {} : { 'Content-Type': 'application/json' }),
      ...headers,
    },
    ...(body === undefined ? {} : { body: isPlain ? body : JSON.stringify(body) }),
    ...(signal ? { signal } : {}),
  };
  try {
    const response = await fetch(path + queryString(query), request);
    if (response.ok) return { ok: true, value: response };
    const error = await failure(response);
    if (error.status === 401) signedOut();
    return { ok: false, error };
  } catch (error) {
    return { ok: false, error: lost(error) };
  }
}

/** Return `?a=b…`, or "" for no parameters. A list repeats its name; undefined is left out. */
export function queryString(query: Query = {}): string {
  const found = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) {
    if (Array.isArray(value)) for (const one of value as readonly string[]) found.append(name, one);
    else if (value !== undefined) found.append(name, String(value));
  }
  const text = found.toString();
  return text && `?${text}`;
}

/** Return the address of a WebSocket of this server. */
export function socketAddress(path: string, query: Query = {}): string {
  return location.origin.replace(/^http/, 'ws') + path + queryString(query);
}

async function failure(response: Response): Promise<Failure> {
  const { status } = response;
  const text = await response.text().catch(() => '');
  try {
    const body = JSON.parse(text) as Partial<Failure>;
    return { status, code: String(body.code ?? ''), message: String(body.message ?? text) };
  } catch {
    return { status, code: '', message: text.slice(0, 500) || response.statusText || `HTTP ${status}` };
  }
}

function lost(error: unknown): Failure {
  const aborted = error instanceof DOMException && error.name === 'AbortError';
  return { status: 0, code: aborted ? 'ABORTED' : 'NO_ANSWER', message: String(error) };
}
