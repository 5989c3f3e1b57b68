/** Return the one-time code of a link that `sandlot console` printed, and remove it from the address and the history. */
export function takeCode(): string {
  const code = new URLSearchParams(location.hash.slice(1)).get('code') ?? '';
  if (location.hash) history.replaceState(history.state, '', location.pathname + location.search);
  return code;
}
