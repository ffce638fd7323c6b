import json

import httpx2
import openai

from outcome import answer, outcome


def call(job):
    client = openai.OpenAI(base_url=job.url, api_key="alice-key", max_retries=4, timeout=job.timeout / 1000)
    headers = {"Idempotency-Key": job.key}
    if job.upload:
        # The library's own `files.create` names the content type in the same way.
        content = {"body": {"purpose": "test"}, "files": [("file", ("a.txt", job.payload.encode()))]}
        headers["Content-Type"] = "multipart/form-data"
    else:
        content = {"body": json.loads(job.payload)}
    try:
        response = client.post(job.path, cast_to=httpx2.Response, options={"headers": headers}, **content)
        return answer(response.status_code, response.headers, response.text)
    except openai.APIStatusError as error:
        return answer(error.status_code, error.response.headers, error.response.text, type(error).__name__)


outcome(call)
