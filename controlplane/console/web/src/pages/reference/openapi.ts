/** An OpenAPI document as a list of operations. The documents are those of this server, written by `make specs`. */

export type Schema = { [key: string]: unknown } | boolean;

export interface Parameter {
  name: string;
  place: 'path' | 'query' | 'header';
  required: boolean;
  schema: Schema;
}

export interface Content {
  type: string;
  schema: Schema;
}

export interface Operation {
  id: string;
  method: string;
  /** With the path of the server, from the root: `/v1/sandboxes/{sandbox_id}`. */
  path: string;
  summary: string;
  description: string;
  parameters: Parameter[];
  body: { required: boolean; contents: Content[] } | null;
  answers: { status: string; description: string; contents: Content[] }[];
}

type Json = Record<string, unknown>;

const METHODS = ['get', 'post', 'put', 'patch', 'delete', 'head', 'options'];

export class Document {
  readonly title: string;
  readonly description: string;
  readonly operations: Operation[];

  constructor(private readonly root: Json) {
    const info = object(root['info']);
    this.title = text(info['title']);
    this.description = text(info['description']);
    this.operations = this.#operations();
  }

  /** Return the schema that a reference means, and the reference's last name. */
  resolve(schema: Schema): { schema: Json; name: string } {
    let found = object(schema);
    let name = '';
    for (let depth = 0; typeof found['$ref'] === 'string' && depth < 20; depth++) {
      name = found['$ref'].split('/').at(-1) ?? '';
      found = this.#at(found['$ref']);
    }
    return { schema: found, name };
  }

  /** Return the type of a schema in a few words, such as `string[]`. */
  typeOf(schema: Schema): string {
    const { schema: found, name } = this.resolve(schema);
    const choices = list(found['anyOf'] ?? found['oneOf']);
    if (choices.length) return choices.map((choice) => this.typeOf(choice)).join(' | ');
    if (Array.isArray(found['enum'])) return found['enum'].map((value) => JSON.stringify(value)).join(' | ');
    if (found['type'] === 'array') return `${this.typeOf(object(found['items']))}[]`;
    if (name) return name;
    const type = found['type'];
    if (Array.isArray(type)) return type.join(' | ');
    return typeof type === 'string' ? type + (typeof found['format'] === 'string' ? ` (${found['format']})` : '') : 'any';
  }

  /** Return the fields of an object, or of the objects in an array; none for other schemas. */
  fieldsOf(schema: Schema): { name: string; schema: Schema; required: boolean; description: string }[] {
    const { schema: found } = this.resolve(schema);
    if (found['type'] === 'array') return this.fieldsOf(object(found['items']));
    const choices = list(found['anyOf'] ?? found['oneOf'] ?? found['allOf']).map((choice) => this.fieldsOf(choice));
    const required = Array.isArray(found['required']) ? found['required'] : [];
    const own = Object.entries(object(found['properties'])).map(([name, value]) => ({
      name,
      schema: object(value),
      required: required.includes(name),
      description: text(object(value)['description']) || text(this.resolve(object(value)).schema['description']),
    }));
    return [...own, ...(choices.length ? (choices.find((fields) => fields.length) ?? []) : [])];
  }

  #operations(): Operation[] {
    const url = text(object(list(this.root['servers'])[0])['url']);
    const base = url.replace(/^[a-z]+:\/\/[^/]*/, '').replace(/\/$/, '');
    return Object.entries(object(this.root['paths'])).flatMap(([path, item]) =>
      METHODS.filter((method) => method in object(item)).map((method) => this.#operation(base + path, method, object(item))),
    );
  }

  #operation(path: string, method: string, item: Json): Operation {
    const operation = object(item[method]);
    const body = this.resolve(object(operation['requestBody'])).schema;
    return {
      id: `${method} ${path}`,
      method: method.toUpperCase(),
      path,
      summary: text(operation['summary']) || text(item['summary']),
      description: text(operation['description']) || text(item['description']),
      parameters: this.#parameters(path, [...list(item['parameters']), ...list(operation['parameters'])]),
      body: operation['requestBody'] ? { required: body['required'] === true, contents: contents(body) } : null,
      answers: Object.entries(object(operation['responses'])).map(([status, answer]) => {
        const found = this.resolve(object(answer)).schema;
        return { status, description: text(found['description']), contents: contents(found) };
      }),
    };
  }

  /** Return the parameters, and those of the server's own path, which no operation names. */
  #parameters(path: string, given: Json[]): Parameter[] {
    const found = given.map((each) => {
      const { schema } = this.resolve(each);
      return {
        name: text(schema['name']),
        place: text(schema['in']) as Parameter['place'],
        required: schema['required'] === true,
        schema: object(schema['schema']),
      };
    });
    const named = new Set(found.map((each) => each.name));
    const missing = [...path.matchAll(/\{(\w+)\}/g)].map(([, name]) => name ?? '').filter((name) => !named.has(name));
    return [
      ...missing.map((name) => ({ name, place: 'path' as const, required: true, schema: { type: 'string' } })),
      ...found,
    ];
  }

  #at(reference: string): Json {
    let found: unknown = this.root;
    for (const part of reference.replace(/^#\//, '').split('/')) {
      found = object(found)[part.replaceAll('~1', '/').replaceAll('~0', '~')];
    }
    return object(found);
  }
}

function contents(holder: Json): Content[] {
  return Object.entries(object(holder['content'])).map(([type, value]) => ({ type, schema: object(object(value)['schema']) }));
}

function object(value: unknown): Json {
  return typeof value === 'object' && value !== null && !Array.isArray(value) ? (value as Json) : {};
}

function list(value: unknown): Json[] {
  return Array.isArray(value) ? value.map(object) : [];
}

function text(value: unknown): string {
  return typeof value === 'string' ? value : '';
}
