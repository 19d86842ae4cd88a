// parse_asyncapi.js FILE…: reads documents with the official parser. Prints one JSON object each: its path, its version, and what
// the parser objects to, as errors and warnings.

const { readFileSync } = require('node:fs');
const { Parser } = require('@asyncapi/parser');

async function main() {
  for (const path of process.argv.slice(2)) {
    const { document, diagnostics } = await new Parser().parse(readFileSync(path, 'utf8'), { source: path });
    // 0: error, 1: warning. What it only informs about, such as a newer version of the specification, is left out.
    const complaints = diagnostics.filter(({ severity }) => severity <= 1).map(({ message, path }) => `${path.join('.')}: ${message}`);
    const channels = document?.channels().all().map((channel) => channel.address()) ?? [];
    console.log(JSON.stringify({ path, version: document?.version(), channels, complaints }));
  }
}

main();
