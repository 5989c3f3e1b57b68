// Every public method of the official JavaScript SDK, once at least, against a live server.
//   node javascript_tour.mjs direct|proxy IMAGE     (with the SDK's folder as working directory)
// Prints JSON: for each method "ok", or how the server refuses it, or what went wrong; and all methods there are.
import { readdirSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { pathToFileURL } from "node:url";

const require = createRequire(`${process.cwd()}/`);
const dist = dirname(require.resolve("@alibaba-group/opensandbox").replace("/cjs/", "/"));
const sdk = await import(pathToFileURL(join(dist, "index.js")).href);
const { Sandbox, SandboxManager, ConnectionConfig, ExecutionEventDispatcher, SandboxApiException } = sdk;
const [way, image] = process.argv.slice(2);
const results = {};

// One that failed once has failed, whatever it does after that.
function note(name, result) {
  if ((results[name] ?? "ok") === "ok") results[name] = result;
}

async function go(name, call, isRight = () => true) {
  try {
    const value = await call();
    if (!isRight(value)) throw new Error(`an unexpected result: ${JSON.stringify(value)?.slice(0, 300)}`);
    note(name, "ok");
    return value;
  } catch (error) {
    const refusal = error instanceof SandboxApiException && `refused: ${error.statusCode} ${error.error?.code ?? ""}`;
    note(name, refusal || `failed: ${error?.stack?.slice(0, 400)}`);
    return undefined;
  }
}

async function until(look, isDone) {
  for (;;) {
    const value = await look();
    if (isDone(value)) return value;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

const said = (execution) => execution.logs.stdout.map((line) => `${line.text}\n`).join("");
const connectionConfig = new ConnectionConfig({
  apiKey: process.env.OPEN_SANDBOX_API_KEY,
  domain: process.env.OPEN_SANDBOX_DOMAIN,
  useServerProxy: way === "proxy",
});

const tag = { tour: `javascript-${way}` };
const sandbox = await go("static Sandbox.create", () => Sandbox.create({ connectionConfig, image, metadata: tag, timeoutSeconds: 600 }));

// -- commands
const { commands } = sandbox;
await go("commands.run", () => commands.run("echo out; echo err >&2; exit 3"), (e) => said(e) === "out\n" && e.exitCode === 3);
await go("commands.runStream", async () => {
  const types = [];
  for await (const event of commands.runStream("echo streamed")) types.push(event.type);
  return types;
}, (types) => types.includes("stdout") && types.at(-1) === "execution_complete");
const gathered = { logs: { stdout: [], stderr: [] }, result: [] };
await go("ExecutionEventDispatcher.dispatch", async () => {
  const dispatcher = new ExecutionEventDispatcher(gathered);
  for await (const event of commands.runStream("echo dispatched")) await dispatcher.dispatch(event);
}, () => said(gathered) === "dispatched\n" && gathered.complete !== undefined);
const behind = await commands.run("echo first; sleep 300", { background: true });
await go("commands.getCommandStatus", () => commands.getCommandStatus(behind.id), (status) => status.running === true);
const logs = await until(() => commands.getBackgroundCommandLogs(behind.id), (found) => found.content === "first\n");
await go("commands.getBackgroundCommandLogs", () => commands.getBackgroundCommandLogs(behind.id, logs.cursor), (found) => found.content === "");
await go("commands.interrupt", () => commands.interrupt(behind.id));
const session = await go("commands.createSession", () => commands.createSession({ workingDirectory: "/tmp" }));
await commands.runInSession(session, "f() { echo $PWD $1; }");
await go("commands.runInSession", () => commands.runInSession(session, "f again"), (e) => said(e) === "/tmp again\n");
await go("commands.deleteSession", () => commands.deleteSession(session));

// -- files: two places have them
async function tourFiles(group, files, root) {
  const [a, b, moved] = [`${root}/a`, `${root}/b`, `${root}/in/moved`];
  await go(`${group}.createDirectories`, () => files.createDirectories([{ path: `${root}/in`, mode: 755 }]));
  await go(`${group}.writeFiles`, () => files.writeFiles([{ path: a, data: "one two\nthree\n", mode: 644 }, { path: b, data: new Uint8Array([0, 1]) }]));
  await go(`${group}.readFile`, () => files.readFile(a, { offset: 2, limit: 1 }), (text) => text === "three");
  await go(`${group}.readBytes`, () => files.readBytes(a, { range: "bytes=4-6" }), (data) => new TextDecoder().decode(data) === "two");
  await go(`${group}.readBytesStream`, async () => {
    let size = 0;
    for await (const chunk of files.readBytesStream(b)) size += chunk.length;
    return size;
  }, (size) => size === 2);
  await go(`${group}.getFileInfo`, () => files.getFileInfo([a]), (found) => found[a].mode === 644);
  await go(`${group}.setPermissions`, () => files.setPermissions([{ path: a, mode: 600 }]));
  await go(`${group}.replaceContents`, () => files.replaceContents([{ path: a, oldContent: "one", newContent: "1" }]));
  await go(`${group}.replaceContentsDetailed`, () => files.replaceContentsDetailed([{ path: a, oldContent: "t", newContent: "T" }]), (found) => found[0].replacedCount === 2);
  await go(`${group}.moveFiles`, () => files.moveFiles([{ src: b, dest: moved }]));
  await go(`${group}.search`, () => files.search({ path: root, pattern: "mov*" }), (found) => found.length === 1 && found[0].path === moved);
  await go(`${group}.listDirectory`, () => files.listDirectory({ path: root, depth: 1 }), (found) => found.map((one) => one.path).sort().join() === `${a},${root}/in`);
  await go(`${group}.deleteFiles`, () => files.deleteFiles([a]));
  await go(`${group}.deleteDirectories`, () => files.deleteDirectories([root]));
}
await tourFiles("files", sandbox.files, "/tour");

// -- about it
await go("Sandbox.getInfo", () => sandbox.getInfo(), (info) => info.status.state === "Running");
await go("Sandbox.isHealthy", () => sandbox.isHealthy(), (healthy) => healthy === true);
await go("Sandbox.getMetrics", () => sandbox.getMetrics(), (found) => found.memoryTotalMiB > 0);
await go("health.ping", () => sandbox.health.ping(), (alive) => alive === true);
await go("metrics.getMetrics", () => sandbox.metrics.getMetrics(), (found) => found.cpuCount > 0);
await go("Sandbox.renew", () => sandbox.renew(1200));
await go("Sandbox.patchMetadata", () => sandbox.patchMetadata({ new: "1" }), (info) => info.metadata.new === "1");
await go("Sandbox.waitUntilReady", () => sandbox.waitUntilReady({ readyTimeoutSeconds: 5, pollingIntervalMillis: 50 }));
await commands.run("echo served > /tmp/index; cd /tmp; exec python3 -m http.server 8123", { background: true });
const fetched = async (url, headers) => (await fetch(url, { headers }).catch(() => undefined))?.text();
const endpoint = await go("Sandbox.getEndpoint", () => sandbox.getEndpoint(8123));
await until(() => fetched(`http://${endpoint.endpoint}/index`, endpoint.headers), (text) => text === "served\n");
await go("Sandbox.getEndpointUrl", () => sandbox.getEndpointUrl(8123), (url) => url.includes(endpoint.endpoint));
if (way === "direct") {
  const signed = await go("Sandbox.getSignedEndpoint", () => sandbox.getSignedEndpoint(8123, Math.floor(Date.now() / 1000) + 300));
  if ((await fetched(`http://${signed.endpoint}/index`)) !== "served\n") note("Sandbox.getSignedEndpoint", "failed: not served");
} else {
  note("Sandbox.getSignedEndpoint", "not with use_server_proxy");
}
await go("Sandbox.getEgressPolicy", () => sandbox.getEgressPolicy(), (policy) => policy.defaultAction === "deny");
await go("Sandbox.patchEgressRules", () => sandbox.patchEgressRules([{ action: "allow", target: "example.com" }]));
await go("Sandbox.deleteEgressRules", () => sandbox.deleteEgressRules(["example.com"]));
const vault = sandbox.credentialVault;
await go("credentialVault.create", () => vault.create({ credentials: [], bindings: [] }));
await go("credentialVault.get", () => vault.get());
await go("credentialVault.patch", () => vault.patch({ credentials: { delete: ["c"] } }));
await go("credentialVault.delete", () => vault.delete());
await go("credentialVault.listCredentials", () => vault.listCredentials());
await go("credentialVault.getCredential", () => vault.getCredential("c"));
await go("credentialVault.listBindings", () => vault.listBindings());
await go("credentialVault.getBinding", () => vault.getBinding("b"));

// -- isolated sessions
const nested = await Sandbox.create({ connectionConfig, image, extensions: { "bootstrap.execd.isolation": "enable" } });
await nested.commands.run("mkdir /ws; echo low > /ws/file");
const { isolation } = nested;
const request = { workspace: { path: "/ws", mode: "overlay" } };
await go("isolation.capabilities", () => isolation.capabilities(), (found) => found.available === true && found.isolator === "bubblewrap");
const isolated = await go("isolation.create", () => isolation.create(request), (one) => one.info.profile === "strict");
await go("IsolationSession.run", () => isolated.run("echo $A; cat file; echo mine > file", { envs: { A: "it's" } }), (e) => said(e) === "it's\nlow\n");
await go("IsolationSession.get", () => isolated.get(), (state) => state.status === "active");
await go("isolation.list", () => isolation.list(), (found) => found.length === 1 && found[0].session_id === isolated.sessionId);
const again = await go("isolation.attach", () => isolation.attach(isolated.sessionId), (one) => one.sessionId === isolated.sessionId);
if ((await again.files.readFile("/ws/file")) !== "mine\n") note("IsolationSession.files.readFile", "failed: another file");
await tourFiles("IsolationSession.files", again.files, "/ws/tour");
await go("IsolationSession.delete", () => again.delete());
await go("isolation.runOnce", () => isolation.runOnce("cat file", "/ws"), (e) => said(e) === "low\n");
await go("isolation.withSession", () => isolation.withSession(request, (session) => session.run("pwd")), (e) => said(e) === "/ws\n");
if ((await isolation.list()).length !== 0) note("isolation.withSession", "failed: a session is left");
await nested.kill();
await nested.close();

// -- the lifecycle as it is, below Sandbox and SandboxManager
const { sandboxes } = sandbox;
const bare = { image: { uri: image }, entrypoint: ["tail", "-f", "/dev/null"], resourceLimits: { cpu: "1", memory: "1Gi" }, timeout: 600, metadata: { bare: way } };
const made = await go("sandboxes.createSandbox", () => sandboxes.createSandbox(bare), (found) => found.status.state === "Running");
await go("sandboxes.getSandbox", () => sandboxes.getSandbox(made.id), (found) => found.image.uri === image);
await go("sandboxes.listSandboxes", () => sandboxes.listSandboxes({ states: ["Running"], metadata: { bare: way } }), (found) => found.items.map((one) => one.id).join() === made.id);
await go("sandboxes.patchSandboxMetadata", () => sandboxes.patchSandboxMetadata(made.id, { bare: null, more: "1" }), (found) => found.metadata.more === "1");
await go("sandboxes.renewSandboxExpiration", () => sandboxes.renewSandboxExpiration(made.id, { expiresAt: new Date(Date.now() + 300_000).toISOString() }), (found) => found.expiresAt > new Date());
await go("sandboxes.getSandboxEndpoint", () => sandboxes.getSandboxEndpoint(made.id, 8123, way === "proxy"), (found) => found.endpoint.includes("8123"));
await go("sandboxes.getSignedEndpoint", () => sandboxes.getSignedEndpoint(made.id, 8123, Math.floor(Date.now() / 1000) + 300), (found) => found.endpoint.includes("8123"));
await go("sandboxes.invalidateEndpointCache", () => sandboxes.invalidateEndpointCache(made.id));
await go("sandboxes.pauseSandbox", () => sandboxes.pauseSandbox(made.id));
await go("sandboxes.resumeSandbox", () => sandboxes.resumeSandbox(made.id));
const kept = await go("sandboxes.createSnapshot", () => sandboxes.createSnapshot(made.id, { name: `bare-${way}` }));
await until(() => sandboxes.getSnapshot(kept.id), (found) => found.status.state === "Ready");
await go("sandboxes.getSnapshot", () => sandboxes.getSnapshot(kept.id), (found) => found.sandboxId === made.id);
await go("sandboxes.listSnapshots", () => sandboxes.listSnapshots({ sandboxId: made.id }), (found) => found.items.length === 1);
await go("sandboxes.deleteSnapshot", () => sandboxes.deleteSnapshot(kept.id));
await go("sandboxes.deleteSandbox", () => sandboxes.deleteSandbox(made.id));

// -- managing
const manager = await go("static SandboxManager.create", () => SandboxManager.create({ connectionConfig }));
await go("SandboxManager.listSandboxInfos", () => manager.listSandboxInfos({ states: ["Running"], metadata: tag }), (found) => found.items.length === 1 && found.items[0].id === sandbox.id);
await go("SandboxManager.getSandboxInfo", () => manager.getSandboxInfo(sandbox.id));
await go("SandboxManager.patchSandboxMetadata", () => manager.patchSandboxMetadata(sandbox.id, { new: null }));
await go("SandboxManager.renewSandbox", () => manager.renewSandbox(sandbox.id, 1800));
await go("SandboxManager.pauseSandbox", () => manager.pauseSandbox(sandbox.id));
await go("SandboxManager.resumeSandbox", () => manager.resumeSandbox(sandbox.id));
const snapshot = await go("SandboxManager.createSnapshot", () => manager.createSnapshot(sandbox.id, { name: `js-${way}` }));
await until(() => manager.getSnapshot(snapshot.id), (found) => found.status.state === "Ready");
await go("SandboxManager.getSnapshot", () => manager.getSnapshot(snapshot.id), (found) => found.name === `js-${way}`);
await go("SandboxManager.listSnapshots", () => manager.listSnapshots({ sandboxId: sandbox.id }), (found) => found.items.length === 1);
await go("SandboxManager.deleteSnapshot", () => manager.deleteSnapshot(snapshot.id));
const doomed = await Sandbox.create({ connectionConfig, image, timeoutSeconds: null });
await go("Sandbox.getInfo", () => doomed.getInfo(), (info) => info.expiresAt === null);
await go("SandboxManager.killSandbox", () => manager.killSandbox(doomed.id));
await doomed.close();
await go("SandboxManager.close", () => manager.close());

// -- ending
await go("Sandbox.pause", () => sandbox.pause());
const resumed = await go("Sandbox.resume", () => sandbox.resume());
await resumed.pause();
const back = await go("static Sandbox.resume", () => Sandbox.resume({ connectionConfig, sandboxId: sandbox.id }), (one) => one.id === sandbox.id);
if (said(await back.commands.run("echo back")) !== "back\n") note("static Sandbox.resume", "failed: runs nothing");
await back.close();
const connected = await go("static Sandbox.connect", () => Sandbox.connect({ connectionConfig, sandboxId: sandbox.id }));
await connected.close();
await go("Sandbox.kill", () => resumed.kill());
await go("Sandbox.close", () => sandbox.close());

// -- all there is: of classes what they really have; of services, whose private helpers nothing tells apart once they
// are JavaScript, what the package's own types declare.
const types = readdirSync(dist).filter((file) => file.endsWith(".d.ts")).map((file) => readFileSync(join(dist, file), "utf8")).join("\n");
const declared = (kind, name) => new RegExp(`^(?:declare )?${kind} ${name} .*?^}`, "ms").exec(types)?.[0].replaceAll(/\/\*.*?\*\//gs, "") ?? "";
const isError = (value) => value.prototype instanceof Error;
// How a client is put together, and the value that an error carries.
const wiring = [ConnectionConfig, sdk.DefaultAdapterFactory, sdk.SandboxError];
const surface = new Set();
const seen = new Set();

function addService(group, name) {
  const text = declared("interface", name);
  for (const [, method, returned] of text.matchAll(/^ {4}(\w+)\??(?:<\w+>)?\(.*?\): (.*?);$/gms)) {
    surface.add(`${group}.${method}`);
    const inner = /^Promise<(\w+)>$/.exec(returned)?.[1];
    if (inner && !seen.has(inner) && isService(inner)) addService(inner, inner);
  }
  seen.add(name);
  for (const [, property, kind] of text.matchAll(/^ {4}readonly (\w+): (\w+);$/gm)) if (isService(kind)) addService(`${group}.${property}`, kind);
}

function isService(name) {
  return /^ {4}\w+\??(<\w+>)?\(/m.test(declared("interface", name));
}

for (const [name, value] of Object.entries(sdk)) {
  if (typeof value !== "function" || !value.prototype || isError(value) || wiring.includes(value)) continue;
  const methods = (object) => Object.getOwnPropertyNames(object).filter((key) => !/^(_|constructor$|length$|name$|prototype$)/.test(key) && typeof object[key] === "function");
  for (const method of methods(value)) surface.add(`static ${name}.${method}`);
  for (const method of methods(value.prototype)) surface.add(`${name}.${method}`);
  for (const [, property, kind] of declared("class", name).matchAll(/^ {4}readonly (\w+): (\w+);$/gm)) if (isService(kind)) addService(property, kind);
}
// What is a function and no class: factories of the wiring, which are used above without being named.
console.log(JSON.stringify({ results, surface: [...surface].sort() }));
