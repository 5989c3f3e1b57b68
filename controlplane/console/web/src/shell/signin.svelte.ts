/** Who is signed in. When the sign-in ends, the page stays as it is below the dialog. */

import { call, onSignedOut, type Result } from '../api/client';
import { events } from '../api/events.svelte';
import type { SignIn } from '../api/shapes';

type State = 'asking' | 'in' | 'out' | 'ended';

const PATH = '/v1/console/sign-in';

class Who {
  /** `ended`: there was a sign-in, and pages are open. */
  state: State = $state('asking');
  is: SignIn | null = $state.raw(null);

  constructor() {
    onSignedOut(() => this.#out());
    events.onlost = () => void this.#ask();
  }

  /** Ask the server whether the browser is signed in; with a one-time code, sign in by it. */
  async begin(code: string): Promise<Result<unknown>> {
    if (code) {
      const answer = await this.signIn({ code });
      if (answer.ok) return answer;
      await this.#ask(); // an older sign-in may still hold
      return this.state === 'in' ? { ok: true, value: undefined } : answer;
    }
    return this.#ask();
  }

  async signIn(by: { key: string } | { code: string }): Promise<Result<SignIn | undefined>> {
    const answer = await call<SignIn | undefined>('POST', PATH, { body: by });
    if (answer.ok) {
      if (answer.value) this.#in(answer.value);
      else await this.#ask();
    }
    return answer;
  }

  async signOut(): Promise<Result<unknown>> {
    const answer = await call('DELETE', PATH);
    if (answer.ok) {
      events.stop();
      this.is = null;
      this.state = 'out';
    }
    return answer;
  }

  /** Whether the key may do this: `admin` may do everything. */
  may(scope: string): boolean {
    const scopes = this.is?.scopes ?? [];
    return scopes.includes('admin') || scopes.includes(scope);
  }

  async #ask(): Promise<Result<unknown>> {
    const answer = await call<SignIn>('GET', PATH);
    if (answer.ok) this.#in(answer.value);
    return answer;
  }

  #in(who: SignIn): void {
    this.is = who;
    this.state = 'in';
    events.start();
  }

  #out(): void {
    events.stop();
    this.state = this.is ? 'ended' : 'out';
  }
}

export const who = new Who();
