"""The pages."""

from django.http import HttpRequest, HttpResponse
from django.urls import path


def index(_: HttpRequest) -> HttpResponse:
    return HttpResponse("Hello, world. You're at the index.")


urlpatterns = [path("", index)]
