import axios from "axios";
import axiosRetry from "axios-retry";

import { mayBeSentAgain, outcome } from "./outcome.mjs";

// An error with a response that was cut has its head, with a status of success.
function isAnswered(error) {
  return error.response !== undefined && error.response.status >= 400;
}

// The library's own condition leaves out 409, timeouts, and responses that were cut.
function retryCondition(error) {
  return !isAnswered(error) || mayBeSentAgain(error.response.status, error.response.headers);
}

// Without `shouldResetTimeout`, all attempts share the time of one.
const configured = { retries: 4, retryDelay: axiosRetry.exponentialDelay, retryCondition, shouldResetTimeout: true };

await outcome(async (job) => {
  const client = axios.create({ timeout: job.timeout, responseType: "text" });
  axiosRetry(client, job.defaults ? {} : configured);
  const headers = { "Idempotency-Key": job.key };
  let data = JSON.parse(job.payload);
  if (job.upload) {
    data = new FormData();
    data.append("file", new Blob([job.payload]), "a.txt");
  }
  const request = { url: job.url + job.path, method: job.method, headers, data };
  const response = await client.request(request).catch((error) => {
    if (isAnswered(error)) {
      return error.response;
    }
    throw error;
  });
  return { status: response.status, headers: { ...response.headers }, body: response.data };
});
