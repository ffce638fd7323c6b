import { Agent, RetryAgent, request } from "undici";

import { outcome } from "./outcome.mjs";

// 409 and timeouts are added to the statuses and errors of which the library retries some by default.
const configured = {
  maxRetries: 4,
  minTimeout: 200,
  methods: ["POST"],
  statusCodes: [408, 409, 503],
  errorCodes: [
    "ECONNRESET", "ECONNREFUSED", "EPIPE", "UND_ERR_SOCKET", "UND_ERR_HEADERS_TIMEOUT", "UND_ERR_BODY_TIMEOUT",
  ],
};

await outcome(async (job) => {
  // Without `throwOnError: false`, a last response with one of `statusCodes` is an error without its body.
  const policy = { ...(job.defaults ? {} : configured), throwOnError: false };
  const dispatcher = new RetryAgent(new Agent({ headersTimeout: job.timeout, bodyTimeout: job.timeout }), policy);
  const response = await request(job.url + job.path, {
    dispatcher,
    method: job.method,
    headers: { "Idempotency-Key": job.key, "Content-Type": "application/json" },
    body: job.payload,
  });
  return { status: response.statusCode, headers: response.headers, body: await response.body.text() };
});
