import requests
from requests.adapters import HTTPAdapter
from urllib3 import Retry

from outcome import answer, outcome


def call(job):
    with requests.Session() as session:
        if not job.defaults:
            # Without `status_forcelist`, so that a 409 is left to the caller.
            retry = Retry(total=4, allowed_methods={"POST"}, backoff_factor=0.2)
            session.mount("http://", HTTPAdapter(max_retries=retry))
        headers = {"Idempotency-Key": job.key}
        if job.upload:
            content = {"files": {"file": ("a.txt", job.payload)}}
        else:
            content = {"data": job.payload}
            headers["Content-Type"] = "application/json"
        response = session.request(
            job.method, job.url + job.path, headers=headers, timeout=job.timeout / 1000, **content
        )
        return answer(response.status_code, response.headers, response.text)


outcome(call)
