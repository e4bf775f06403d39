"""The pages on Django, as WSGI and as ASGI app."""

from __future__ import annotations

import json as json_module
from collections.abc import AsyncIterator

from django.conf import settings  # type: ignore[import-untyped]  # Django has no type hints
from django.core.asgi import get_asgi_application  # type: ignore[import-untyped]  # as above
from django.core.handlers.asgi import ASGIRequest  # type: ignore[import-untyped]  # as above
from django.core.wsgi import get_wsgi_application  # type: ignore[import-untyped]  # as above
from django.http import (  # type: ignore[import-untyped]  # as above
    HttpRequest,
    HttpResponse,
    HttpResponseRedirect,
    JsonResponse,
    StreamingHttpResponse,
)
from django.urls import path as route  # type: ignore[import-untyped]  # as above
from django.views.decorators.http import etag, require_GET, require_POST  # type: ignore[import-untyped]  # as above

settings.configure(
    ALLOWED_HOSTS=["*"],
    MIDDLEWARE=["django.middleware.common.CommonMiddleware", "django.middleware.security.SecurityMiddleware"],
    ROOT_URLCONF=__name__,
    SECRET_KEY="of a test",
)


def text(request: HttpRequest) -> HttpResponse:
    return HttpResponse("hello", content_type="text/plain")


def json(request: HttpRequest) -> HttpResponse:
    return JsonResponse({"é": [1, None, "\N{SNAKE}"]})


def echo(request: HttpRequest) -> HttpResponse:
    return JsonResponse(
        {
            "method": request.method,
            "url": request.build_absolute_uri(),
            "path": request.get_full_path(),
            "query": request.META["QUERY_STRING"],
            "arguments": dict(request.GET.lists()),
            "headers": sorted(
                pair for pair in request.headers.items() if pair[0].startswith(("X-", "Host", "Content-"))
            ),
            "cookies": request.COOKIES,
            "client": request.META["REMOTE_ADDR"],
            "body": request.body.hex(),
        }
    )


def path(request: HttpRequest, rest: str) -> HttpResponse:
    return JsonResponse({"rest": rest, "url": request.build_absolute_uri()})


def mirror(request: HttpRequest) -> HttpResponse:
    return HttpResponse(request.body, content_type="application/octet-stream")


def form(request: HttpRequest) -> HttpResponse:
    return HttpResponse(json_module.dumps(dict(request.POST.lists())), content_type="application/json")


def upload(request: HttpRequest) -> HttpResponse:
    file = request.FILES["file"]
    return JsonResponse({"kind": request.POST["kind"], "name": file.name, "content": file.read().hex()})


def binary(request: HttpRequest) -> HttpResponse:
    return HttpResponse(bytes(range(256)), content_type="image/x-all")


def large(request: HttpRequest) -> HttpResponse:
    return HttpResponse("0123456789abcdef\n" * 12_000, content_type="text/plain")


def stream(request: HttpRequest) -> HttpResponse:
    parts = ("one\n", "", "two\n", "\N{SNAKE}")

    async def awaited() -> AsyncIterator[str]:
        for part in parts:
            yield part

    # Django warns of an iterator of the other kind.
    return StreamingHttpResponse(awaited() if isinstance(request, ASGIRequest) else parts, content_type="text/plain")


def cookies(request: HttpRequest) -> HttpResponse:
    response = HttpResponse("set")
    response.set_cookie("a", "1", httponly=True)
    response.set_cookie("b", "two words", path="/text")
    return response


def empty(request: HttpRequest) -> HttpResponse:
    return HttpResponse(status=204)


def same(request: HttpRequest) -> HttpResponse:
    return HttpResponse("the body that nobody needs")


def moved(request: HttpRequest) -> HttpResponse:
    return HttpResponseRedirect(request.build_absolute_uri("/text?a=é"))


def crash(request: HttpRequest) -> HttpResponse:
    raise RuntimeError("crash")


def early(request: HttpRequest) -> HttpResponse:
    return HttpResponse("too large", status=413)


urlpatterns = [
    route("text", require_GET(text)),
    route("json", json),
    route("echo", echo),
    route("path/<path:rest>", path),
    route("mirror", mirror),
    route("form", require_POST(form)),
    route("upload", upload),
    route("binary", binary),
    route("large", large),
    route("stream", stream),
    route("cookies", cookies),
    route("empty", empty),
    route("same", etag(lambda request: '"v1"')(same)),
    route("moved", moved),
    route("crash", crash),
    route("early", early),
]

application = get_wsgi_application()
asgi_application = get_asgi_application()
