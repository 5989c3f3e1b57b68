/** First programs against this server, in its own address. They are those of docs/getting-started.md, shortened. */

export interface Example {
  id: string;
  label: string;
  hint: 'quickSdk' | 'quickCurl' | 'quickCli' | 'quickMcp';
  text: string;
  /** The page of the documentation that goes on. */
  page: string;
}

const IMAGE = 'sandlot/code-interpreter';

/** Return the examples for a server at *origin*, such as `http://localhost:8194`. */
export function examples(origin: string): Example[] {
  const { host, protocol } = new URL(origin);
  return [
    { id: 'python', label: 'Python', hint: 'quickSdk', page: 'getting-started.md', text: python(host, protocol === 'https:') },
    { id: 'javascript', label: 'JavaScript', hint: 'quickSdk', page: 'getting-started.md', text: javascript(host) },
    { id: 'curl', label: 'curl', hint: 'quickCurl', page: 'getting-started.md', text: curl(origin) },
    { id: 'cli', label: 'CLI', hint: 'quickCli', page: 'compatibility.md', text: cli(host) },
    { id: 'mcp', label: 'MCP', hint: 'quickMcp', page: 'integrations.md', text: mcp(host) },
  ];
}

function python(host: string, secure: boolean): string {
  const more = secure
    ? `
from opensandbox.config import ConnectionConfigSync

config = ConnectionConfigSync(domain="${host}", protocol="https")
sandbox = SandboxSync.create("${IMAGE}", connection_config=config)`
    : `

sandbox = SandboxSync.create("${IMAGE}")`;
  return `# pip install opensandbox opensandbox-code-interpreter
# export OPEN_SANDBOX_DOMAIN=${host} OPEN_SANDBOX_API_KEY=KEY
from code_interpreter import CodeInterpreterSync
from opensandbox import SandboxSync${more}
print(sandbox.commands.run("echo Hello from a sandbox").logs.stdout[0].text)
print(CodeInterpreterSync.create(sandbox).codes.run("6 * 7").result[0].text)
sandbox.kill()
`;
}

function javascript(host: string): string {
  return `// npm install @alibaba-group/opensandbox
// export OPEN_SANDBOX_DOMAIN=${host} OPEN_SANDBOX_API_KEY=KEY
import { Sandbox } from "@alibaba-group/opensandbox";

const sandbox = await Sandbox.create({ image: "${IMAGE}" });
const hello = await sandbox.commands.run("echo Hello from a sandbox");
console.log(hello.logs.stdout[0].text);
await sandbox.kill();
await sandbox.close();
`;
}

function curl(origin: string): string {
  return `export API=${origin}/v1 KEY="OPEN-SANDBOX-API-KEY: KEY"
export SANDBOX_ID=$(curl -s -H "$KEY" $API/sandboxes -d '{
    "image": {"uri": "${IMAGE}"},
    "entrypoint": ["tail", "-f", "/dev/null"],
    "timeout": 600
  }' | jq -r .id)
curl -s -H "$KEY" $API/contexts/execute -d '{"sandbox_id": "'$SANDBOX_ID'", "code": "6 * 7"}'
curl -s -H "$KEY" -X DELETE $API/sandboxes/$SANDBOX_ID
`;
}

function cli(host: string): string {
  return `pip install opensandbox-cli
export OPEN_SANDBOX_DOMAIN=${host} OPEN_SANDBOX_API_KEY=KEY
osb sandbox create --image ${IMAGE} --timeout 10m
osb sandbox list
osb command run SANDBOX_ID -- echo Hello from a sandbox
osb sandbox kill SANDBOX_ID
`;
}

function mcp(host: string): string {
  const entry = {
    command: '/home/you/opensandbox-mcp/bin/opensandbox-mcp',
    args: ['--transport', 'stdio'],
    env: { OPEN_SANDBOX_DOMAIN: host, OPEN_SANDBOX_API_KEY: 'KEY' },
  };
  return `${JSON.stringify({ mcpServers: { sandlot: entry } }, null, 2)}\n`;
}
