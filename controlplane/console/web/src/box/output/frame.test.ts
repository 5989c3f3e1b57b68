import { describe, expect, it } from 'vitest';

import { documentOf, FrameTalk, MAX_CHANGES, MAX_HEIGHT } from './frame';

describe('documents', () => {
  it('HTML before the others', () =>
    expect(documentOf({ 'text/html': '<b>x</b>', 'image/svg+xml': '<svg/>' }, false)).toContain('<body><b>x</b></body>'));
  it('none for text and images', () => expect(documentOf({ 'text/plain': 'x', 'image/png': 'AA' }, true)).toBeNull());
  it('a script does not end early', () =>
    expect(documentOf({ 'application/javascript': "x = '</script><b>'" }, true)!.match(/<\/script/g)).toHaveLength(1));
});

describe('what a frame may say', () => {
  function talk() {
    const sent: string[] = [];
    const heights: number[] = [];
    return { sent, heights, frame: new FrameTalk((text) => sent.push(text), (height) => heights.push(height), 'content') };
  }

  it('gets its content once', () => {
    const { sent, frame } = talk();
    frame.hear({ ready: true });
    frame.hear({ ready: true });
    expect(sent).toEqual(['content']);
  });

  it.each([null, 1, 'ready', [], { height: '9' }, { height: NaN }, { height: Infinity }, { ready: 1 }, { html: 'x' }])(
    'ignores %j',
    (message) => {
      const { sent, heights, frame } = talk();
      frame.hear(message);
      expect([sent, heights]).toEqual([[], []]);
    },
  );

  it('a height stays within bounds', () => {
    const { heights, frame } = talk();
    for (const height of [1e9, -5, 99.5]) frame.hear({ height });
    expect(heights).toEqual([MAX_HEIGHT, 24, 100]);
  });

  it('cannot change its height for ever', () => {
    const { heights, frame } = talk();
    for (let i = 0; i < 1000; i += 1) frame.hear({ height: i });
    expect(heights).toHaveLength(MAX_CHANGES);
  });
});
