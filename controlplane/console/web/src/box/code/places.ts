/** Places in code: the editor counts UTF-16 units, the languages count characters. */

export function toCharacters(code: string, units: number): number {
  return [...code.slice(0, units)].length;
}

export function toUnits(code: string, characters: number): number {
  let units = 0;
  let left = characters;
  for (const char of code) {
    if (left <= 0) break;
    units += char.length;
    left -= 1;
  }
  return units;
}
