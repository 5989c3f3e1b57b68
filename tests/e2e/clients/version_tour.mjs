// What people do most, with whatever version of the official JavaScript SDK is installed, against a live server.
//   node version_tour.mjs direct|proxy IMAGE     (with the SDK's folder as working directory)
// Prints JSON: for each thing "ok", "–" where this version cannot do it, or what went wrong.
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { pathToFileURL } from "node:url";

const require = createRequire(`${process.cwd()}/`);
const dist = dirname(require.resolve("@alibaba-group/opensandbox").replace("/cjs/", "/"));
const { Sandbox, SandboxManager, ConnectionConfig } = await import(pathToFileURL(join(dist, "index.js")).href);
const [way, image] = process.argv.slice(2);
const results = {};

class CannotBe extends Error {}

function need(thing, ...names) {
  if (!names.every((name) => typeof thing?.[name] === "function")) throw new CannotBe();
}

function check(isRight, value) {
  if (!isRight) throw new Error(`an unexpected result: ${JSON.stringify(value)?.slice(0, 300)}`);
}

async function note(name, work) {
  try {
    const value = await work();
    results[name] = "ok";
    return value;
  } catch (error) {
    results[name] = error instanceof CannotBe ? "–" : `failed: ${String(error?.stack).slice(0, 300)}`;
    return undefined;
  }
}

// Output as a program reads it: a line from each message.
const said = (messages) => messages.map(({ text }) => text.replace(/\n$/, "")).join("\n");
const text = "日本語 and\nlines\n";
const connectionConfig = new ConnectionConfig({
  apiKey: process.env.OPEN_SANDBOX_API_KEY,
  domain: process.env.OPEN_SANDBOX_DOMAIN,
  useServerProxy: way === "proxy",
});

const sandbox = await note("create", () => Sandbox.create({ connectionConfig, image, timeoutSeconds: 600 }));
if (sandbox !== undefined) {
  await note("commands", async () => {
    const run = await sandbox.commands.run("echo out; echo err >&2");
    check(said(run.logs.stdout) === "out" && said(run.logs.stderr) === "err", run);
    const failed = await sandbox.commands.run("exit 7");
    check(failed.error?.value === "7", failed);
  });
  await note("background", async () => {
    need(sandbox.commands, "getCommandStatus", "getBackgroundCommandLogs");
    const run = await sandbox.commands.run("echo 日本; sleep 0.1; exit 3", { background: true });
    let status;
    do {
      await new Promise((resolve) => setTimeout(resolve, 50));
      status = await sandbox.commands.getCommandStatus(run.id);
    } while (status.running);
    check(status.exitCode === 3, status);
    const logs = await sandbox.commands.getBackgroundCommandLogs(run.id);
    check(logs.content.includes("日本"), logs);
  });
  await note("sessions", async () => {
    need(sandbox.commands, "createSession", "runInSession", "deleteSession");
    const session = await sandbox.commands.createSession();
    await sandbox.commands.runInSession(session, "x=41; cd /tmp");
    const run = await sandbox.commands.runInSession(session, "echo $((x + 1)) $PWD");
    check(said(run.logs.stdout) === "42 /tmp", run);
    await sandbox.commands.deleteSession(session);
  });
  await note("files", async () => {
    await sandbox.files.writeFiles([{ path: "/tmp/tour/a.txt", data: text }]);
    check((await sandbox.files.readFile("/tmp/tour/a.txt")) === text);
    await sandbox.files.replaceContents([{ path: "/tmp/tour/a.txt", oldContent: "and", newContent: "or" }]);
    check((await sandbox.files.readFile("/tmp/tour/a.txt")) === text.replace("and", "or"));
    const found = await sandbox.files.search({ path: "/tmp/tour", pattern: "*.txt" });
    check(found.length === 1 && found[0].path === "/tmp/tour/a.txt", found);
    await sandbox.files.deleteFiles(["/tmp/tour/a.txt"]);
  });
  await note("records", async () => {
    const info = await sandbox.getInfo();
    check(info.id === sandbox.id && info.status.state === "Running", info);
    await sandbox.renew(1200);
    const manager = SandboxManager.create({ connectionConfig });
    const listed = await manager.listSandboxInfos();
    check(listed.items.some(({ id }) => id === sandbox.id), listed);
  });
  await note("metrics", async () => {
    const metrics = await sandbox.getMetrics();
    check(metrics.cpuCount > 0, metrics);
    check(await sandbox.isHealthy());
  });
  await note("ports", async () => {
    const endpoint = await sandbox.getEndpoint(8080);
    check(endpoint.endpoint, endpoint);
  });
  await note("kill", () => sandbox.kill());
  await sandbox.close?.();
}
console.log(JSON.stringify(results));
