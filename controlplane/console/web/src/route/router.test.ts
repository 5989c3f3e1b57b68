import { describe, expect, it, vi } from 'vitest';

vi.stubGlobal('location', { pathname: '/console/', search: '' });
vi.stubGlobal('addEventListener', () => undefined);
const { fit } = await import('./router.svelte');

describe('fit', () => {
  it('takes the parameters of a path', () => {
    expect(fit('/sandboxes/:id', '/sandboxes/a%2Fb')).toEqual({ id: 'a/b' });
    expect(fit('/sandboxes/:id/*', '/sandboxes/a')).toEqual({ id: 'a', rest: '' });
    expect(fit('/sandboxes/:id/*', '/sandboxes/a/files/x/y')).toEqual({ id: 'a', rest: 'files/x/y' });
    expect(fit('/', '/')).toEqual({});
  });

  it('refuses other paths', () => {
    expect(fit('/', '/sandboxes')).toBeNull();
    expect(fit('/sandboxes', '/sandboxes/a')).toBeNull();
    expect(fit('/sandboxes/:id/*', '/sandboxes')).toBeNull();
  });

  it('survives a broken escape', () => {
    expect(fit('/sandboxes/:id', '/sandboxes/%E0%A4%A')).toEqual({ id: '%E0%A4%A' });
  });
});
