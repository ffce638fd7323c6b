import got, { HTTPError } from "got";

import { outcome } from "./outcome.mjs";

// 409 is added to the statuses of which the library retries some by default.
const configured = { limit: 4, methods: ["POST"], statusCodes: [408, 409, 503], backoffLimit: 300 };

await outcome(async (job) => {
  const options = {
    method: job.method,
    headers: { "Idempotency-Key": job.key, "Content-Type": "application/json" },
    body: job.payload,
    timeout: { request: job.timeout },
    retry: job.defaults ? {} : configured,
  };
  if (job.upload) {
    options.body = new FormData();
    options.body.append("file", new Blob([job.payload]), "a.txt");
    delete options.headers["Content-Type"];
    // The library reads a form once: its own retry would wait for a body that never comes.
    options.retry = { limit: 0 };
  }
  const response = await got(job.url + job.path, options).catch((error) => {
    if (error instanceof HTTPError) {
      return error.response;
    }
    throw error;
  });
  return { status: response.statusCode, headers: response.headers, body: response.body };
});
