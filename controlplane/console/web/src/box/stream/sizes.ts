/** Sizes of what goes over the wire. */

const encoder = new TextEncoder();
const scratch = new Uint8Array(3 << 14);

/** Return the number of bytes of a text in UTF-8. */
export function textSize(text: string): number {
  if (text.length <= 1 << 14) return encoder.encodeInto(text, scratch).written;
  return encoder.encode(text).length;
}

/** Return the number of bytes that a text in base64 stands for. */
export function bytesOf(base64: string): number {
  if (!base64) return 0;
  const padding = base64.endsWith('==') ? 2 : base64.endsWith('=') ? 1 : 0;
  return (base64.length / 4) * 3 - padding;
}

/** Return the bytes of a text in base64. */
export function decodeBase64(base64: string): Uint8Array<ArrayBuffer> {
  const binary = atob(base64);
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < binary.length; i += 1) bytes[i] = binary.charCodeAt(i);
  return bytes;
}
