// Runs one job and prints its outcome as one line of JSON.
//
// `call` sends the job's request through a library. It returns `{status, headers, body}`, and throws where there was no
// response. A library that does not retry leaves the retry to its caller. The caller is `outcome` here, which follows
// "Retrying" of docs/clients.md, with the same key. `calls` counts the calls of the library.

import { setTimeout as pause } from "node:timers/promises";

const MOST_CALLS = 4;

// A refusal that may be sent again.
export function mayBeSentAgain(status, headers) {
  return [408, 409, 503].includes(status) && headers["retry-after"] !== undefined
    && headers["content-type"] === "application/problem+json";
}

export async function outcome(call) {
  const job = JSON.parse(process.argv[2]);
  for (let calls = 1; ; calls += 1) {
    let result;
    try {
      result = await call(job);
    } catch (error) {
      result = { error: String(error.code ?? error.name), detail: String(error.stack ?? error) };
    }
    const again = result.status === undefined || mayBeSentAgain(result.status, result.headers);
    if (again && calls < MOST_CALLS) {
      await pause(1000 * Number(result.headers?.["retry-after"] ?? 0));
      continue;
    }
    console.log(JSON.stringify({ calls, ...result }));
    process.exit(0);
  }
}
