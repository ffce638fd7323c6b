import ky, { HTTPError } from "ky";

import { outcome } from "./outcome.mjs";

// The library follows Retry-After beside `afterStatusCodes`, and retries a timeout only if it is asked to.
const configured = {
  limit: 4,
  methods: ["post"],
  statusCodes: [408, 409, 503],
  afterStatusCodes: [408, 409, 503],
  retryOnTimeout: true,
};

await outcome(async (job) => {
  const options = {
    method: job.method,
    headers: { "Idempotency-Key": job.key, "Content-Type": "application/json" },
    body: job.payload,
    timeout: job.timeout,
    retry: job.defaults ? {} : configured,
  };
  if (job.upload) {
    options.body = new FormData();
    options.body.append("file", new Blob([job.payload]), "a.txt");
    delete options.headers["Content-Type"];
  }
  let response;
  try {
    response = await ky(job.url + job.path, options);
  } catch (error) {
    if (!(error instanceof HTTPError)) {
      throw error;
    }
    response = error.response;
  }
  return { status: response.status, headers: Object.fromEntries(response.headers), body: await response.text() };
});
