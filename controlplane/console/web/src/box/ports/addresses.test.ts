import { describe, expect, it } from 'vitest';

import { addressOf, portOf } from './addresses';

const ID = '57e3ea99-0000-4000-8000-00000000abcd';
const here = (hostname: string, port = '8194') => ({ protocol: 'http:', hostname, port });

describe('addresses', () => {
  it.each(['localhost', '127.0.0.1'])('at %s, a name below localhost', (hostname) =>
    expect(addressOf(`${hostname}:8194/v1/sandboxes/${ID}/signed/3000/abc1/def2`, here(hostname))).toBe(
      'http://3000-57e3ea990000400080000000' + '0000abcd-abc1-def2.localhost:8194/',
    ));
  it('elsewhere, the path', () =>
    expect(addressOf(`box.example/v1/sandboxes/${ID}/signed/3000/abc1/def2`, here('box.example', ''))).toBe(
      `http://box.example/v1/sandboxes/${ID}/signed/3000/abc1/def2/`,
    ));
  it('with a domain for ports, the name', () =>
    expect(addressOf('3000-x-abc1-def2.ports.example', here('localhost'))).toBe(
      'http://3000-x-abc1-def2.ports.example/',
    ));
});

it.each([['80', 80], ['65535', 65535], ['65536', 0], ['0', 0], ['', 0], ['8a', 0], ['-1', 0]])('%j', (text, port) =>
  expect(portOf(text)).toBe(port),
);
