"""django-idempotency-key for several processes, as in its README: answers in Django's cache, and the lock in Redis."""

import json
import os
import pathlib
import time

import runs
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse
from django.urls import path
from django.views.decorators.http import require_POST

ANSWER = (pathlib.Path(__file__).parent.parent / "answer.json").read_bytes()
REDIS = os.environ["REDIS"]

settings.configure(
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    MIDDLEWARE=["idempotency_key.middleware.IdempotencyKeyMiddleware"] if os.environ["MODE"] == "with" else [],
    CACHES={"default": {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": REDIS}},
    IDEMPOTENCY_KEY={
        "STORAGE": {"CLASS": "idempotency_key.storage.CacheKeyStorage"},
        "LOCK": {"CLASS": "idempotency_key.locks.redis.MultiProcessRedisLock", "LOCATION": REDIS},
    },
)


@require_POST
def pay(request):
    json.loads(request.body)
    runs.count()
    return HttpResponse(ANSWER, status=201, content_type="application/json")


@require_POST
def pay_slowly(request):
    time.sleep(0.05)
    return pay(request)


urlpatterns = [
    path("payments", pay),
    path("slow/payments", pay_slowly),
    path("runs", lambda request: HttpResponse(str(runs.counted()))),
]
application = get_wsgi_application()
