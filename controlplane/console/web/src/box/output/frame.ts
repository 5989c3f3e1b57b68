/**
 * Results that are HTML, SVG or JavaScript run in a frame of an opaque origin, with a policy of its own that reaches no
 * host. The page sends the content once, and takes one thing from the frame: a number, its height.
 */

export const FRAME = '/console/frame';
/** Pixels. A higher result scrolls in its frame. */
export const MAX_HEIGHT = 600;
const MIN_HEIGHT = 24;
/** Changes of the height that a frame may cause: one that grows and shrinks for ever must not keep the page busy. */
export const MAX_CHANGES = 40;

const STYLE = `:root{color-scheme:SCHEME}html{font:14px/1.5 system-ui,sans-serif;color:COLOR;background:GROUND;overflow:auto}
body{margin:0;padding:2px;width:fit-content;min-width:100%;box-sizing:border-box}
table{border-collapse:collapse;font-size:13px}th,td{padding:3px 10px;text-align:right;border:0}
thead th{border-bottom:1px solid currentColor}tbody tr:nth-child(odd){background:#8882}
img,svg,canvas{max-width:100%}pre{margin:0}`;

/** Return the document for a result, or null if none of its types needs a frame. */
export function documentOf(data: Record<string, string>, isDark: boolean): string | null {
  const content = contentOf(data);
  if (content === null) return null;
  const style = STYLE.replace('SCHEME', isDark ? 'dark' : 'light')
    .replace('COLOR', isDark ? '#e7ecf0' : '#17212b')
    .replace('GROUND', isDark ? '#171e25' : '#fff');
  return `<!doctype html><html><head><meta charset="utf-8"><style>${style}</style></head><body>${content}</body></html>`;
}

function contentOf(data: Record<string, string>): string | null {
  const html = data['text/html'] ?? data['image/svg+xml'];
  if (html !== undefined) return html;
  const script = data['application/javascript'] ?? data['text/javascript'];
  if (script === undefined) return null;
  // The end of a script element must not stand in the script.
  return `<div id="element"></div><script>${script.replaceAll('</script', '<\\/script')}</script>`;
}

/** What one frame may say. */
export class FrameTalk {
  private isReady = false;
  private changes = 0;

  constructor(
    private readonly send: (content: string) => void,
    private readonly resize: (height: number) => void,
    private readonly content: string,
  ) {}

  /** Take a message of the frame, which may be anything. */
  hear(message: unknown): void {
    if (typeof message !== 'object' || message === null) return;
    const { ready, height } = message as { ready?: unknown; height?: unknown };
    if (ready === true && !this.isReady) {
      this.isReady = true;
      this.send(this.content);
    }
    if (typeof height === 'number' && Number.isFinite(height) && this.changes < MAX_CHANGES) {
      this.changes += 1;
      this.resize(Math.min(MAX_HEIGHT, Math.max(MIN_HEIGHT, Math.ceil(height))));
    }
  }
}
