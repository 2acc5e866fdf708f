"""The application on Django, for any ASGI server that speaks the lifespan protocol."""

from __future__ import annotations

import os
from typing import Any

from django.conf import settings
from django.core.asgi import get_asgi_application
from django.http import HttpRequest, HttpResponse, HttpResponseBase, JsonResponse, StreamingHttpResponse
from django.urls import path

from examples.web.asgi import with_lifespan
from examples.web.service import PAGE, Answer, Events, Service, opened

if not settings.configured:
    settings.configure(
        ROOT_URLCONF=__name__,
        SECRET_KEY=os.environ.get("SECRET_KEY", "of a program that signs nothing"),
        ALLOWED_HOSTS=["127.0.0.1", "localhost"],
        MIDDLEWARE=[],
        LOGGING_CONFIG=None,
    )


def service_of(request: Any) -> Service:
    """What `with_lifespan` opened."""
    service: Service = request.scope["state"]["service"]
    return service


def respond(answer: Answer | Events) -> HttpResponseBase:
    """As Django sends it; it cancels a view whose client has gone, and drops a stream."""
    if isinstance(answer, Events):
        return StreamingHttpResponse(answer, content_type="text/event-stream")
    return JsonResponse(answer.body, status=answer.status, headers=answer.headers)


def below(request: HttpRequest) -> int:
    """The number that the client asks for; anything else is refused later on."""
    text = request.GET.get("below", "1000000")
    return int(text) if text.isdecimal() else 0


async def page(request: HttpRequest) -> HttpResponseBase:
    return HttpResponse(PAGE)


async def health(request: HttpRequest) -> HttpResponseBase:
    return respond(service_of(request).health())


async def primes(request: HttpRequest) -> HttpResponseBase:
    return respond(await service_of(request).primes(below(request)))


async def stream(request: HttpRequest) -> HttpResponseBase:
    return respond(await service_of(request).stream(below(request)))


async def submit(request: HttpRequest) -> HttpResponseBase:
    return respond(service_of(request).submit(below(request)))


async def job(request: HttpRequest, number: str) -> HttpResponseBase:
    service = service_of(request)
    return respond(service.cancel(number) if request.method == "DELETE" else service.job(number))


async def follow(request: HttpRequest, number: str) -> HttpResponseBase:
    return respond(service_of(request).follow(number))


async def buy(request: HttpRequest) -> HttpResponseBase:
    return respond(await service_of(request).buy(float(request.GET.get("paying", "0"))))


urlpatterns = [
    path("", page),
    path("health", health),
    path("primes", primes),
    path("primes/stream", stream),
    path("jobs", submit),
    path("jobs/<number>", job),
    path("jobs/<number>/events", follow),
    path("tickets", buy),
]

app = with_lifespan(get_asgi_application(), opened)
