"""idemkit for production, as in its README: the ASGI middleware on FastAPI, records in Redis, and a scope."""

import asyncio
import os
import pathlib

import runs
from fastapi import FastAPI
from fastapi.responses import PlainTextResponse, Response

from idemkit import HttpConfig, IdempotencyMiddleware, RedisBackend

ANSWER = (pathlib.Path(__file__).parent.parent / "answer.json").read_bytes()

app = FastAPI()
if os.environ["MODE"] == "with":
    app.add_middleware(
        IdempotencyMiddleware,
        backend=RedisBackend.from_url(os.environ["REDIS"]),
        config=HttpConfig(scope=lambda request: request.headers.get("x-user-id", "anonymous")),
    )


@app.post("/payments")
async def pay(payment: dict):
    runs.count()
    return Response(ANSWER, 201, media_type="application/json")


@app.post("/slow/payments")
async def pay_slowly(payment: dict):
    await asyncio.sleep(0.05)
    return await pay(payment)


@app.get("/runs")
async def counted():
    return PlainTextResponse(str(runs.counted()))
