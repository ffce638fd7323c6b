import Stripe from "stripe";

import { outcome } from "./outcome.mjs";

await outcome(async (job) => {
  const { hostname, port } = new URL(job.url);
  const server = { protocol: "http", host: hostname, port };
  const stripe = new Stripe("alice-key", { ...server, maxNetworkRetries: 4, timeout: job.timeout, telemetry: false });
  try {
    const options = { idempotencyKey: job.key };
    const object = await stripe.rawRequest(job.method, job.path, JSON.parse(job.payload), options);
    const { statusCode, headers } = object.lastResponse;
    return { status: statusCode, headers, body: JSON.stringify(object) };
  } catch (error) {
    if (!error.statusCode) {
      throw error;
    }
    // The library shows the member `error` of a body, with members of its own added.
    const { headers, statusCode, requestId, ...member } = error.raw;
    return { status: statusCode, headers, body: JSON.stringify(member), error: error.type };
  }
});
