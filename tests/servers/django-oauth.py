"""A second authorization server (PyPI django-oauth-toolkit) for the tests: opaque tokens, client_secret_basic and
client_secret_post, introspection, and answers in HTTP/1.0 that end with the connection, without Content-Length.

    python django-oauth.py '{"port":0,"ttl":300,"clients":[{"id":"checkout","secret":"..."}],"scopes":["orders:read"]}'

Prints one line of JSON with its address when ready. Tokens at /o/token/, introspection at /o/introspect/. For the
tests alone:

    POST /-/delay?ms=N             wait so long before each answer
    POST /-/client?id=...&secret=  the client has another secret from now on
    GET  /-/requests               how often each path was asked for
"""

import json
import socketserver
import sys
import tempfile
import threading
import time
from collections import Counter
from urllib.parse import parse_qs
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

import django
from django.conf import settings

given = json.loads(sys.argv[1] if len(sys.argv) > 1 else "{}")
folder = tempfile.TemporaryDirectory()
settings.configure(
    ALLOWED_HOSTS=["*"],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": f"{folder.name}/db", "OPTIONS": {"timeout": 30}}},
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "oauth2_provider"],
    OAUTH2_PROVIDER={
        "ACCESS_TOKEN_EXPIRE_SECONDS": given.get("ttl", 300),
        "SCOPES": {scope: scope for scope in given.get("scopes", ["orders:read", "orders:write"])},
    },
    # Secrets are hashed as always, but fast.
    PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"],
    ROOT_URLCONF=__name__,
    SECRET_KEY="of this run alone",
    USE_TZ=True,
)
django.setup()

from django.core.management import call_command  # noqa: E402
from django.core.wsgi import get_wsgi_application  # noqa: E402
from django.urls import include, path  # noqa: E402
from oauth2_provider.models import Application  # noqa: E402

urlpatterns = [path("o/", include("oauth2_provider.urls", namespace="oauth2_provider"))]


def create(client):
    Application.objects.create(
        name=client["id"],
        client_id=client["id"],
        client_secret=client["secret"],
        client_type=Application.CLIENT_CONFIDENTIAL,
        authorization_grant_type=Application.GRANT_CLIENT_CREDENTIALS,
    )


class Measured:
    """Django, with the tests' management in front."""

    def __init__(self):
        self.django, self.delay, self.requests, self.lock = get_wsgi_application(), 0.0, Counter(), threading.Lock()

    def __call__(self, environ, start_response):
        target = environ["PATH_INFO"]
        if target.startswith("/-/"):
            return self.manage(target, parse_qs(environ["QUERY_STRING"]), start_response)
        with self.lock:
            self.requests[target] += 1
        time.sleep(self.delay)
        return self.django(environ, start_response)

    def manage(self, target, query, start_response):
        if target == "/-/delay":
            self.delay = int(query["ms"][0]) / 1000
        elif target == "/-/client":
            application = Application.objects.get(client_id=query["id"][0])
            application.client_secret = query["secret"][0]
            application.save()
        with self.lock:
            body = json.dumps(self.requests).encode()
        start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
        return [body]


class Server(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True
    request_queue_size = 128


class Handler(WSGIRequestHandler):
    def log_message(self, *_):
        pass


call_command("migrate", verbosity=0)
for client in given.get("clients", []):
    create(client)
server = Server(("127.0.0.1", given.get("port", 0)), Handler)
server.set_app(Measured())
print(json.dumps({"address": f"127.0.0.1:{server.server_port}"}), flush=True)
server.serve_forever()
