// Every public method of the official JavaScript SDK, once at least, against a live server.
//   node javascript_tour.mjs direct|proxy WARM_IMAGE     (with the SDK's folder as working directory)
// Prints JSON: for each method "ok", or how the server refuses it, or what went wrong; and all methods there are.
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const require = createRequire(`${process.cwd()}/`);
const sdk = await import(pathToFileURL(require.resolve("@alibaba-group/opensandbox")).href.replace("/cjs/index.cjs", "/index.js"));
const { Sandbox, SandboxManager, ConnectionConfig, SandboxApiException } = sdk;
const [way, image] = process.argv.slice(2);
const results = {};
const objects = {};

async function go(name, call, isRight = () => true) {
  try {
    const value = await call();
    if (!isRight(value)) throw new Error(`an unexpected result: ${JSON.stringify(value)?.slice(0, 300)}`);
    results[name] = "ok";
    return value;
  } catch (error) {
    results[name] =
      error instanceof SandboxApiException
        ? `refused: ${error.statusCode} ${error.error?.code ?? ""}`
        : `failed: ${error?.stack?.slice(0, 400)}`;
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
const sandbox = await go("Sandbox.create", () => Sandbox.create({ connectionConfig, image, metadata: tag, timeoutSeconds: 600 }));
Object.assign(objects, { commands: sandbox.commands, files: sandbox.files, health: sandbox.health, metrics: sandbox.metrics });

// -- commands
const { commands, files } = sandbox;
await go("commands.run", () => commands.run("echo out; echo err >&2; exit 3"), (e) => said(e) === "out\n" && e.exitCode === 3);
await go("commands.runStream", async () => {
  const types = [];
  for await (const event of commands.runStream("echo streamed")) types.push(event.type);
  return types;
}, (types) => types.includes("stdout") && types.at(-1) === "execution_complete");
const behind = await commands.run("echo first; sleep 300", { background: true });
await go("commands.getCommandStatus", () => commands.getCommandStatus(behind.id), (status) => status.running === true);
const logs = await until(() => commands.getBackgroundCommandLogs(behind.id), (found) => found.content === "first\n");
await go("commands.getBackgroundCommandLogs", () => commands.getBackgroundCommandLogs(behind.id, logs.cursor), (found) => found.content === "");
await go("commands.interrupt", () => commands.interrupt(behind.id));
const session = await go("commands.createSession", () => commands.createSession({ workingDirectory: "/tmp" }));
await commands.runInSession(session, "f() { echo $PWD $1; }");
await go("commands.runInSession", () => commands.runInSession(session, "f again"), (e) => said(e) === "/tmp again\n");
await go("commands.deleteSession", () => commands.deleteSession(session));

// -- files
await go("files.createDirectories", () => files.createDirectories([{ path: "/tour/in", mode: 755 }]));
await go("files.writeFiles", () => files.writeFiles([{ path: "/tour/a", data: "one two\nthree\n", mode: 644 }, { path: "/tour/b", data: new Uint8Array([0, 1]) }]));
await go("files.readFile", () => files.readFile("/tour/a", { offset: 2, limit: 1 }), (text) => text === "three\n");
await go("files.readBytes", () => files.readBytes("/tour/a", { range: "bytes=4-6" }), (data) => new TextDecoder().decode(data) === "two");
await go("files.readBytesStream", async () => {
  let size = 0;
  for await (const chunk of files.readBytesStream("/tour/b")) size += chunk.length;
  return size;
}, (size) => size === 2);
await go("files.getFileInfo", () => files.getFileInfo(["/tour/a"]), (found) => found["/tour/a"].mode === 644);
await go("files.setPermissions", () => files.setPermissions([{ path: "/tour/a", mode: 600 }]));
await go("files.replaceContents", () => files.replaceContents([{ path: "/tour/a", oldContent: "one", newContent: "1" }]));
await go("files.replaceContentsDetailed", () => files.replaceContentsDetailed([{ path: "/tour/a", oldContent: "t", newContent: "T" }]), (found) => found[0].replacedCount === 2);
await go("files.moveFiles", () => files.moveFiles([{ src: "/tour/b", dest: "/tour/in/moved" }]));
await go("files.search", () => files.search({ path: "/tour", pattern: "mov*" }), (found) => found.length === 1 && found[0].path === "/tour/in/moved");
await go("files.listDirectory", () => files.listDirectory({ path: "/tour", depth: 1 }), (found) => found.map((one) => one.path).sort().join() === "/tour/a,/tour/in");
await go("files.deleteFiles", () => files.deleteFiles(["/tour/a"]));
await go("files.deleteDirectories", () => files.deleteDirectories(["/tour"]));

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
  if ((await fetched(`http://${signed.endpoint}/index`)) !== "served\n") results["Sandbox.getSignedEndpoint"] = "failed: not served";
} else {
  results["Sandbox.getSignedEndpoint"] = "not with use_server_proxy";
}
await go("Sandbox.getEgressPolicy", () => sandbox.getEgressPolicy(), (policy) => policy.defaultAction === "deny");
await go("Sandbox.patchEgressRules", () => sandbox.patchEgressRules([{ action: "allow", target: "example.com" }]));
await go("Sandbox.deleteEgressRules", () => sandbox.deleteEgressRules(["example.com"]));
const nested = await Sandbox.create({ connectionConfig, image: "sandlot/python", extensions: { "bootstrap.execd.isolation": "enable" } });
await go("isolation.capabilities", () => nested.isolation.capabilities(), (found) => found.available === true && found.isolator === "bubblewrap");
await nested.kill();
await nested.close();

// -- managing
const manager = await go("SandboxManager.create", () => SandboxManager.create({ connectionConfig }));
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
const doomed = await Sandbox.create({ connectionConfig, image: "sandlot/base", timeoutSeconds: null });
await go("a sandbox without a deadline", () => doomed.getInfo(), (info) => info.expiresAt === null);
await go("SandboxManager.killSandbox", () => manager.killSandbox(doomed.id));
await doomed.close();
await go("SandboxManager.close", () => manager.close());

// -- ending
await go("Sandbox.pause", () => sandbox.pause());
const resumed = await go("Sandbox.resume", () => sandbox.resume());
const connected = await go("Sandbox.connect", () => Sandbox.connect({ connectionConfig, sandboxId: sandbox.id }));
await connected.close();
await go("Sandbox.kill", () => resumed.kill());
await go("Sandbox.close", () => sandbox.close());

const names = (object) => Object.getOwnPropertyNames(object).filter((name) => typeof object[name] === "function");
const methods = (group, ...levels) => levels.flatMap(names).filter((name) => !/^(_|constructor$|length$|name$|prototype$)/.test(name)).map((name) => `${group}.${name}`);
// Of the services only what their interfaces have: everything else is how they are made.
const interfaces = {
  commands: ["runStream", "run", "interrupt", "getCommandStatus", "getBackgroundCommandLogs", "createSession", "runInSession", "deleteSession"],
  files: ["getFileInfo", "search", "listDirectory", "createDirectories", "deleteDirectories", "writeFiles", "readFile", "readBytes", "readBytesStream", "deleteFiles", "moveFiles", "replaceContents", "replaceContentsDetailed", "setPermissions"],
};
const surface = [
  ...methods("Sandbox", Sandbox, Sandbox.prototype),
  ...methods("SandboxManager", SandboxManager, SandboxManager.prototype),
  ...Object.entries(interfaces).flatMap(([group, all]) => all.map((name) => `${group}.${name}`)),
];
console.log(JSON.stringify({ results, surface: [...new Set(surface)].sort() }));
