import { t } from '../words';

const WORDS = {
  claimed: 'stateClaimed',
  linked: 'stateLinked',
  pausing: 'statePausing',
  resumed: 'stateResumed',
  ending: 'stateEnding',
} as const;

/** Return what a state of the activity means, or the state itself if it is none that we know. */
export function stateWords(state: string): string {
  return Object.hasOwn(WORDS, state) ? t(WORDS[state as keyof typeof WORDS]) : state;
}
