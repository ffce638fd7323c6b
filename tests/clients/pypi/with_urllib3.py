import urllib3

from outcome import answer, outcome


def call(job):
    # A 503 with Retry-After is retried without being named.
    retry = urllib3.Retry(
        total=4, allowed_methods={"POST"}, status_forcelist={409}, raise_on_status=False, backoff_factor=0.2
    )
    with urllib3.PoolManager(retries=urllib3.Retry() if job.defaults else retry, timeout=job.timeout / 1000) as pool:
        headers = {"Idempotency-Key": job.key}
        if job.upload:
            fields = {"file": ("a.txt", job.payload)}
            response = pool.request(job.method, job.url + job.path, headers=headers, fields=fields)
        else:
            headers["Content-Type"] = "application/json"
            response = pool.request(job.method, job.url + job.path, headers=headers, body=job.payload)
        return answer(response.status, response.headers, response.data.decode())


outcome(call)
