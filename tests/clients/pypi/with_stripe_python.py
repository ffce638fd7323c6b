import json

import stripe

from outcome import answer, outcome


def call(job):
    client = stripe.StripeClient(
        "alice-key",
        base_addresses={"api": job.url},
        max_network_retries=4,
        http_client=stripe.RequestsClient(timeout=job.timeout / 1000),
    )
    try:
        parameters = json.loads(job.payload)
        response = client.raw_request(job.method.lower(), job.path, idempotency_key=job.key, **parameters)
        return answer(response.code, response.headers, response.body)
    except stripe.StripeError as error:
        if error.http_status is None:
            raise
        # The library reads refusals and failures by the member `error`; without it, an error has no headers.
        return answer(error.http_status, error.headers or {}, error.http_body, type(error).__name__)


outcome(call)
