import httpx

from outcome import answer, outcome


def say_what_failed(event, _info):
    # The test opens the port when it reads this line.
    if event == "connection.connect_tcp.failed":
        print("refused", flush=True)


def call(job):
    transport = httpx.HTTPTransport(retries=0 if job.defaults else 4)
    with httpx.Client(transport=transport, timeout=job.timeout / 1000) as client:
        headers = {"Idempotency-Key": job.key}
        if job.upload:
            content = {"files": {"file": ("a.txt", job.payload.encode())}}
        else:
            content = {"content": job.payload}
            headers["Content-Type"] = "application/json"
        extensions = {"trace": say_what_failed}
        response = client.request(job.method, job.url + job.path, headers=headers, extensions=extensions, **content)
        return answer(response.status_code, response.headers, response.text)


outcome(call)
