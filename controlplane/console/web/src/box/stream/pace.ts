/** The pace of the screen: who shows output gives credit back once a frame, so that a flood leaves time for the page. */

/** How long a page that is not shown waits: a program must not stand still because its tab is in the background. */
const HIDDEN_MS = 250;

let waiting: Promise<void> | undefined;

/** Wait for the next frame. */
export function nextFrame(): Promise<void> {
  waiting ??= new Promise((resolve) => {
    const done = () => {
      cancelAnimationFrame(frame);
      clearTimeout(timer);
      waiting = undefined;
      resolve();
    };
    const frame = requestAnimationFrame(done);
    const timer = setTimeout(done, HIDDEN_MS);
  });
  return waiting;
}
