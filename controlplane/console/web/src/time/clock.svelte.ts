/** One clock for all times on the page: it ticks each second, and only while somebody looks. */

class Clock {
  now = $state(Date.now());

  constructor() {
    setInterval(() => document.hidden || (this.now = Date.now()), 1000);
    document.addEventListener('visibilitychange', () => (this.now = Date.now()));
  }
}

export const clock = new Clock();
