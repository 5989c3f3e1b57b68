import { expect, it } from 'vitest';

import { Document } from './openapi';

const DOCUMENT = new Document({
  info: { title: 'T' },
  servers: [{ url: 'http://localhost:1/v1/sandboxes/{sandbox_id}/proxy/2' }],
  paths: {
    '/files/{name}': {
      parameters: [{ name: 'name', in: 'path', required: true, schema: { type: 'string' } }],
      put: {
        summary: 'Write.',
        requestBody: { required: true, content: { 'application/json': { schema: { $ref: '#/components/schemas/File' } } } },
        responses: { '204': { description: 'ok' }, '404': { $ref: '#/components/responses/E' } },
      },
    },
  },
  components: {
    responses: { E: { description: 'lost', content: { 'application/json': { schema: { type: 'object' } } } } },
    schemas: {
      File: {
        type: 'object',
        required: ['path'],
        properties: {
          path: { type: 'string', description: 'where' },
          tags: { type: 'array', items: { $ref: '#/components/schemas/Tag' } },
          mode: { anyOf: [{ type: 'integer' }, { type: 'null' }] },
        },
      },
      Tag: { type: 'object', properties: { name: { enum: ['a', 'b'] } } },
      Loop: { $ref: '#/components/schemas/Loop' },
    },
  },
});

it('lists operations with the parameters of the path of the server', () => {
  const [operation] = DOCUMENT.operations;
  expect(operation).toMatchObject({ method: 'PUT', path: '/v1/sandboxes/{sandbox_id}/proxy/2/files/{name}', summary: 'Write.' });
  expect(operation?.parameters.map((each) => [each.name, each.place])).toEqual([
    ['sandbox_id', 'path'],
    ['name', 'path'],
  ]);
  expect(operation?.answers.map((each) => [each.status, each.description])).toEqual([
    ['204', 'ok'],
    ['404', 'lost'],
  ]);
});

it('tells types and fields', () => {
  const schema = { $ref: '#/components/schemas/File' };
  expect(DOCUMENT.typeOf(schema)).toBe('File');
  const fields = DOCUMENT.fieldsOf(schema);
  expect(fields.map((field) => [field.name, DOCUMENT.typeOf(field.schema), field.required])).toEqual([
    ['path', 'string', true],
    ['tags', 'Tag[]', false],
    ['mode', 'integer | null', false],
  ]);
  expect(DOCUMENT.typeOf(DOCUMENT.fieldsOf(fields[1]?.schema ?? {})[0]?.schema ?? {})).toBe('"a" | "b"');
});

it('survives a reference to itself', () => {
  expect(DOCUMENT.typeOf({ $ref: '#/components/schemas/Loop' })).toBe('Loop');
});
